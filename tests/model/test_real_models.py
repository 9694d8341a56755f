"""Two real checkpoints in float32 against transformers and PEFT: SmolLM2 135M and Gemma 3 270M.

They are looked for as `smollm2` and `gemma3` in the folder that G2IS_REAL_MODELS names.
"""

import dataclasses
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from g2is_jax.data.chat import ChatFormat, Encoded
from g2is_jax.data.files import read_records
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.model.adapters import read_adapter, write_adapter
from g2is_jax.model.build import load_model
from g2is_jax.model.generate import Prompts, Stops, generate
from g2is_jax.model.lora import checkpoint_path
from g2is_jax.model.sampling import GenerateConfig
from g2is_jax.training.loss import example_loss
from tests.support.tiny_models import FLOAT32, logits, lora_config, oracle_logits, random_leaves

# peft 0.21 asks transformers 5.23 for a property that it has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.timeout(900),
]
SCANNED = dataclasses.replace(FLOAT32, scan=True)
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n",
    "Question: A train travels 60 miles in 1.5 hours. What is its average speed?\nAnswer:",
    "Once upon a time, in a village by the sea,",
    "The three laws of motion state that",
)
NEW_TOKENS = 64
ROWS, MOST_TOKENS = 20, 640  # the long row is longer than Gemma's window of 512


def folder_of(name: str) -> epath.Path:
    folder = Path(os.environ.get("G2IS_REAL_MODELS", "")) / name
    if "G2IS_REAL_MODELS" not in os.environ or not (folder / "config.json").exists():
        pytest.skip(f"G2IS_REAL_MODELS names no folder with the checkpoint {name}")
    return epath.Path(folder)


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def folder(request):
    return folder_of(request.param)


@pytest.fixture(scope="module")
def loaded(folder):
    """Return our model, with a LoRA that is zero unless a test brings another, and the base."""
    return load_model(folder, lora_config(), SCANNED)


def oracle(folder):
    """Return transformers' model, anew: PEFT changes the one that it is given."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        str(folder), dtype="float32", attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def theirs(torch, folder):
    return oracle(folder)


@pytest.fixture(scope="module")
def rows(folder, shared_data) -> list[Encoded]:
    """Return the first rows of the small pool, and one long row: their turns one after another."""
    records = read_records(epath.Path(shared_data / "pool_small.jsonl"))[: ROWS - 1]
    chat = ChatFormat(load_tokenizer(folder), "auto")
    turns = [message for record in records for message in record.messages]
    return [*chat.encode_all(records, MOST_TOKENS), chat.encode(turns, MOST_TOKENS)]


def padded(row: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and mask at one of few widths."""
    more = -len(row.tokens_T) % 160
    return np.pad(row.tokens_T, (0, more)), np.pad(row.supervised_T, (0, more))


def their_loss(torch, model, row: Encoded):
    tokens_1T = torch.tensor(row.tokens_T[None], dtype=torch.long)
    labels_T = tokens_1T[0].masked_fill(~torch.tensor(row.supervised_T), -100)
    predicted_TV = model(tokens_1T).logits[0, :-1]
    return torch.nn.functional.cross_entropy(predicted_TV, labels_T[1:], reduction="sum")


def small_adapter(model):
    """Return an adapter as after some training, B away from zero."""
    leaves = random_leaves(model.adapter_shapes, seed=1)
    return {path: np.asarray(leaf) * np.float32(0.05) for path, leaf in leaves.items()}


def test_greedy_text(torch, folder, loaded, theirs):
    """Ours share a batch, padded; transformers gets each prompt alone."""
    tokenizer, (model, base) = load_tokenizer(folder), loaded
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    width = max(map(len, prompts))
    tokens_BT = np.array([p + [0] * (width - len(p)) for p in prompts], np.int32)
    mask_BT = np.arange(width) < np.array([len(p) for p in prompts])[:, None]
    greedy = GenerateConfig(NEW_TOKENS, temperature=0.0, top_p=1.0, seed=0)
    batch = Prompts(tokens_BT, mask_BT, np.arange(len(prompts), dtype=np.int32))
    replies = generate(
        model, model.init_adapter(0), base, batch, greedy, Stops((), ()), tokenizer.decode
    )
    theirs.generation_config.eos_token_id = None
    for prompt, reply in zip(prompts, replies, strict=True):
        tokens_1T = torch.tensor([prompt])
        out = theirs.generate(
            tokens_1T,
            attention_mask=torch.ones_like(tokens_1T),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )
        expected = out[0, len(prompt) :].tolist()
        assert len(expected) == NEW_TOKENS
        assert reply.text == tokenizer.decode(expected)
        assert reply.tokens == expected


def test_losses(torch, loaded, theirs, rows):
    model, base = loaded
    adapter = model.init_adapter(0)
    loss = jax.jit(functools.partial(example_loss, model))
    assert max(len(row.tokens_T) for row in rows) > 512
    for row in rows:
        total, count = loss(adapter, base, *padded(row))
        with torch.no_grad():
            expected = their_loss(torch, theirs, row).item()
        assert count == row.supervised_T[1:].sum() > 0
        assert abs(float(total) - expected) / float(count) <= 1e-3


def test_lora_gradients(torch, tmp_path, folder, loaded, rows):
    """torch's are in float64: its own in float32 are further from them than ours, by 2e-4."""
    from peft import PeftModel

    model, base = loaded
    by_layer = small_adapter(model)
    adapter = model.adapter_layout.stacked(by_layer)
    write_adapter(epath.Path(tmp_path), adapter, model, "base")
    adapted = PeftModel.from_pretrained(oracle(folder), tmp_path, is_trainable=True)
    adapted = adapted.double()
    gradient = jax.jit(jax.grad(functools.partial(example_loss, model), has_aux=True))
    for row in rows[:3]:
        found, _ = gradient(adapter, base, *padded(row))
        adapted.zero_grad()
        their_loss(torch, adapted, row).backward()
        expected = {
            name.replace(".default", ""): parameter.grad.numpy()
            for name, parameter in adapted.named_parameters()
            if "lora_" in name
        }
        leaves = model.adapter_layout.by_layer(found)
        assert len(leaves) == len(expected)
        largest = max(np.abs(leaf).max() for leaf in expected.values())
        for path, leaf in leaves.items():
            theirs = expected[f"base_model.model.model.{checkpoint_path(path)}.weight"]
            error = np.asarray(leaf) - theirs
            assert np.linalg.norm(error) <= 1e-4 * np.linalg.norm(theirs), path
            assert np.abs(error).max() <= 1e-4 * largest, path


def test_round_trip_through_peft(torch, tmp_path):
    """PEFT computes what we do with an adapter of ours, and writes it as we read it."""
    from peft import PeftModel

    folder = folder_of("smollm2")
    model, base = load_model(folder, lora_config(), SCANNED)
    adapter = model.adapter_layout.stacked(small_adapter(model))
    tokens_T = np.asarray(load_tokenizer(folder)(PROMPTS[2])["input_ids"], np.int32)
    write_adapter(epath.Path(tmp_path / "ours"), adapter, model, str(folder))
    plain = oracle(folder)
    plain_TV = oracle_logits(torch, plain, tokens_T)
    adapted = PeftModel.from_pretrained(plain, tmp_path / "ours").eval()
    expected_TV = oracle_logits(torch, adapted, tokens_T)
    assert np.abs(expected_TV - plain_TV).max() > 0.1
    found_TV = logits(model, adapter, base, jnp.asarray(tokens_T))
    np.testing.assert_allclose(found_TV, expected_TV, rtol=0, atol=1e-3)
    adapted.save_pretrained(tmp_path / "theirs")
    again = read_adapter(epath.Path(tmp_path / "theirs"), model)
    jax.tree.map(np.testing.assert_array_equal, again, adapter)
