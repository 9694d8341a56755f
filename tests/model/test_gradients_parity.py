"""LoRA gradients of single examples: against torch autograd through PEFT, and bfloat16's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from g2is_jax.model.adapters import write_adapter
from g2is_jax.model.build import Model, build_model
from g2is_jax.model.families import FAMILIES, read_config
from g2is_jax.model.lora import Leaves, checkpoint_path
from g2is_jax.model.weights import read_weights
from g2is_jax.skills.world import BASE_FOLDER
from g2is_jax.training.loss import example_loss
from tests.support.tiny_models import (
    BFLOAT16,
    FLOAT32,
    RAW,
    both,
    config_of,
    lora_config,
    ours,
    random_leaves,
    random_tokens,
)

# peft 0.21 asks transformers 5.23 for a property that it has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
WIDTH, LENGTHS_B = 50, (47, 31)


@functools.cache
def gradients(model: Model):
    """Return (adapter, base, tokens_BT, supervised_BT) -> gradients of each summed loss."""

    def loss(adapter, base, tokens_T, supervised_T):
        return example_loss(model, adapter, base, tokens_T, supervised_T)[0]

    batched = jax.vmap(jax.grad(loss), (None, None, 0, 0))
    return jax.jit(batched)


def examples(lengths_B=LENGTHS_B, width: int = WIDTH, seed: int = 0):
    """Return random tokens and a mask of the supervised: each row's later half, before padding."""
    tokens_BT = random_tokens(len(lengths_B) * width, seed).reshape(-1, width)
    lengths_B1, places_1T = np.array(lengths_B)[:, None], np.arange(width)[None]
    return tokens_BT, (places_1T >= lengths_B1 // 2) & (places_1T < lengths_B1)


def peft_gradient(torch, adapted, tokens_T, supervised_T) -> dict[str, np.ndarray]:
    """Return torch's gradient of one example without padding, by names of the adapter's file."""
    adapted.zero_grad()
    tokens_1T = torch.tensor(tokens_T[None], dtype=torch.long)
    labels_1T = tokens_1T.masked_fill(~torch.tensor(supervised_T)[None], -100)
    predicted = adapted(tokens_1T).logits[0, :-1]
    torch.nn.functional.cross_entropy(predicted, labels_1T[0, 1:], reduction="sum").backward()
    return {
        name.replace(".default", ""): parameter.grad.numpy().copy()
        for name, parameter in adapted.named_parameters()
        if "lora_" in name
    }


def check_against_peft(torch, folder, theirs, model, base, lengths_B, width):
    """Compare every leaf of an adapter on all linear layers, B away from zero."""
    from peft import PeftModel

    adapter = random_leaves(model.adapter_shapes, seed=1)
    write_adapter(epath.Path(folder), adapter, model, "base")
    adapted = PeftModel.from_pretrained(theirs, folder, is_trainable=True)
    tokens_BT, supervised_BT = examples(lengths_B, width)
    found = gradients(model)(adapter, base, tokens_BT, supervised_BT)
    for row, length in enumerate(lengths_B):
        expected = peft_gradient(
            torch, adapted, tokens_BT[row, :length], supervised_BT[row, :length]
        )
        assert len(found) == len(expected) == 2 * 7 * len(model.config.layers)
        for path, leaf_B in found.items():
            leaf = expected[f"base_model.model.model.{checkpoint_path(path)}.weight"]
            error = np.linalg.norm(leaf_B[row] - leaf) / np.linalg.norm(leaf)
            assert error <= 1e-4, (path, row)


@pytest.mark.parametrize("family", list(RAW))
def test_every_family(torch, tmp_path, family):
    theirs, loaded, base = both(torch, tmp_path / "base", family, lora_config())
    model, _, _ = ours(family, lora_config())
    assert model.config == loaded.config  # so that the program below serves both tests
    check_against_peft(torch, tmp_path / "adapter", theirs, model, base, LENGTHS_B, WIDTH)


def test_long_row(torch, tmp_path):
    """Far positions multiply the rounding of the frequencies some hundred times."""
    theirs, model, base = both(torch, tmp_path / "base", "llama3", lora_config())
    check_against_peft(torch, tmp_path / "adapter", theirs, model, base, (600,), 600)


def rounded(base: Leaves) -> Leaves:
    return {path: np.asarray(leaf).astype(jnp.bfloat16) for path, leaf in base.items()}


def scaled(leaf, factor: float) -> np.ndarray:
    return np.asarray(leaf) * np.float32(factor)


def lowest_cosine(leaves: Leaves, other: Leaves) -> float:
    """Return the lowest cosine over the examples, of two gradients of the same example."""
    one_BG, other_BG = (
        np.concatenate([np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in g], axis=1)
        for g in (leaves.values(), other.values())
    )
    norms_B = np.linalg.norm(one_BG, axis=1) * np.linalg.norm(other_BG, axis=1)
    return float(((one_BG * other_BG).sum(axis=1) / norms_B).min())


def bfloat16_cosines(model: Model, half: Model, adapter, base, batch) -> list[float]:
    """Compare with float32 on the rounded weights, and on those they were rounded from."""
    rough = gradients(half)(adapter, rounded(base), *batch)
    same = {path: leaf.astype(np.float32) for path, leaf in rounded(base).items()}
    return [lowest_cosine(rough, gradients(model)(adapter, b, *batch)) for b in (same, base)]


@pytest.mark.parametrize(
    ("family", "lengths_B", "width"),
    [
        *((family, LENGTHS_B, WIDTH) for family in FAMILIES if family != "gemma2"),
        ("gemma2", (600,), 600),  # where angles rounded to bfloat16 would show
    ],
)
def test_bfloat16(family, lengths_B, width):
    """Matrices are smaller: those of tiny_models turn a unit in the last place into much.

    (There attention is near to one-hot: rounding the weights of the base alone, and computing in
    float32, takes up to 0.16 off Gemma's cosine.) So are the norms of Gemma 3's queries and keys:
    they multiply by 1 + weight.
    """
    model, adapter, base = ours(family, lora_config(), FLOAT32)
    half = build_model(config_of(family), lora_config(), BFLOAT16)
    matrices = {path for path in base if path.endswith("_proj.weight")}
    base = {path: scaled(leaf, 0.35 if path in matrices else 1) for path, leaf in base.items()}
    if model.config.unit_offset:
        norms = [path for path in base if path.endswith(("q_norm.weight", "k_norm.weight"))]
        base |= {path: base[path] - 1 for path in norms}
    adapter = {path: scaled(leaf, 0.3) for path, leaf in adapter.items()}
    assert min(bfloat16_cosines(model, half, adapter, base, examples(lengths_B, width))) > 0.999


def test_bfloat16_of_a_trained_model():
    """The base is the built-in one, and the adapter is like one after some training."""
    config = read_config(BASE_FOLDER)
    model, half = (build_model(config, lora_config(), s) for s in (FLOAT32, BFLOAT16))
    base = read_weights(BASE_FOLDER, model.base_layout, jnp.float32)
    shapes = {path: shape for path, shape in model.adapter_shapes.items() if "lora_B" in path}
    adapter = model.init_adapter(0) | {
        path: scaled(leaf, 0.05) for path, leaf in random_leaves(shapes).items()
    }
    assert min(bfloat16_cosines(model, half, adapter, base, examples())) > 0.999
