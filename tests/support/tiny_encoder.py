"""A random encoder of two layers in a folder, as transformers saves it, and its vectors."""

from pathlib import Path

import numpy as np

SIZES = {
    "hidden_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 28,
    "max_position_embeddings": 24,
}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("work", "out", "which", "one", "wins", "or", ":", "+", "zebra")


def write_encoder(torch, folder: Path, seed: int = 0) -> Path:
    """BERT with a WordPiece vocabulary of a few words and all digits."""
    import transformers

    digits = [*"0123456789", *(f"##{digit}" for digit in "0123456789")]
    vocabulary = [*SPECIAL, *WORDS, *digits]
    tokens = {word: place for place, word in enumerate(vocabulary)}
    transformers.BertTokenizerFast(vocab=tokens).save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.BertConfig(vocab_size=len(vocabulary), **SIZES)
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def vectors(torch, folder: Path, texts: list[str]) -> np.ndarray:
    """Each text by itself: the mean over its tokens of the last hidden states, at length 1."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval().double()
    found = []
    for text in texts:
        ids = tokenizer(text)["input_ids"][: SIZES["max_position_embeddings"]]
        if len(tokenizer(text)["input_ids"]) > len(ids):
            ids[-1] = tokenizer.sep_token_id
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0].numpy()
        total = sum(states[place] for place in range(len(ids))) / len(ids)
        found.append(total / np.linalg.norm(total))
    return np.stack(found)
