"""A small tokenizer with chat templates, dialogues, and the supervised texts of what is encoded."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.files import Record
from g2is_jax.data.messages import Message

OWN = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ '\\n' + m.content }}</s>{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{{ '\\n' }}{% endif %}"
)
OWN_MARKED = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ '\\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}"
    "{% else %}{{ m.content }}</s>{% endif %}{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{{ '\\n' }}{% endif %}"
)
DIALOGUE = (
    Message("system", "Be brief, please."),
    Message("user", "What is 2 + 2?"),
    Message("assistant", "It is 4.\n\nThe answer is 4."),
    Message("user", "And é + 漢?"),
    Message("assistant", ""),
    Message("user", "<|assistant|>\nNothing at all."),
    Message("assistant", "No\tidea 😀 "),
)


def save_bpe(
    folder: Path,
    chat_template: str | None = None,
    bos: bool = True,
    trim: bool = True,
    marks: Sequence[str] = (),
) -> Path:
    """Saves a byte-level BPE tokenizer; trim: its offsets leave leading blanks out, as in GPT-2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = ["the answer is 4.\n\nwhat is 2 + 2? please be brief\n\n\n no  idea   at all"] * 9
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    steps = [processors.ByteLevel(trim_offsets=trim)]
    if bos:
        steps.append(processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)]))
    tokenizer.post_processor = processors.Sequence(steps)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    return folder


def learned_texts(chat: ChatFormat, encoded) -> list[str]:
    """Returns the supervised tokens decoded, one text for each unbroken run of them."""
    edges = np.flatnonzero(np.diff(np.pad(encoded.supervised_T.astype(int), 1)))
    runs = zip(edges[::2], edges[1::2], strict=True)
    return [chat.tokenizer.decode(encoded.tokens_T[start:end]) for start, end in runs]


def answers(messages, end: str = "</s>") -> list[str]:
    return [message.content + end for message in messages if message.role == "assistant"]


def random_dialogue(seed: int) -> list[Message]:
    rng = random.Random(seed)
    words = ["is", "the answer", "4", "\n", "\n\n", "é", "漢字", "😀", "<|user|>", ".", "  ", "\t"]

    def text() -> str:
        return "A" + "".join(rng.choice(words) + rng.choice(["", " "]) for _ in range(12))

    turns = [Message("system", text())] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 4)):
        turns += [Message("user", text()), Message("assistant", text())]
    return turns


def make_record(messages, row: int = 0) -> Record:
    return Record(row, f"id{row}", "", "t", "t", None, tuple(messages), "")
