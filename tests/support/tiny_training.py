"""A random model of one layer and a few rows to train it on; everything compiles in seconds."""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from g2is_jax.data.batches import TrainingShapes, training_shapes
from g2is_jax.data.chat import Encoded
from g2is_jax.model.build import Model, build_model
from g2is_jax.training.optimizer import OptimizerConfig, adam_direction
from tests.support.tiny_models import FLOAT32, config_of, lora_config, random_leaves

VOCABULARY = 37
ADAMW = OptimizerConfig(
    learning_rate=0.02,
    schedule="cosine",
    warmup=0.2,
    weight_decay=0.1,
    b1=0.9,
    b2=0.99,
    eps=1e-6,
)


STATE_SHAPES = {"layers.000.a.lora_A": (3, 5), "layers.010.a.lora_B": (7, 3)}


def tiny_model(dropout: float = 0.0, targets: Sequence[str] = ("q_proj", "v_proj")) -> Model:
    config = config_of(
        "llama",
        vocab_size=VOCABULARY,
        hidden_size=14,
        intermediate_size=19,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=6,
        tie_word_embeddings=True,
    )
    return build_model(config, lora_config(*targets, dropout=dropout), FLOAT32)


def random_rows(lengths: Sequence[int], seed: int = 0) -> list[Encoded]:
    """Draws random tokens, of which the later half is supervised."""
    rng = np.random.default_rng(seed)
    return [
        Encoded(
            rng.integers(0, VOCABULARY, length).astype(np.int32),
            np.arange(length) >= max(length // 2, 1),
            False,
        )
        for length in lengths
    ]


def shapes_of(encoded: Sequence[Encoded], batch_size: int, tokens: int = 64) -> TrainingShapes:
    return training_shapes([len(e.tokens_T) for e in encoded], batch_size, tokens, most_widths=2)


def log_of(folder: Path) -> list[dict]:
    """Reads the lines that a fit left there."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trained(seed: int) -> tuple:
    """Returns an adapter of STATE_SHAPES and a state whose every leaf holds something."""
    adapter = random_leaves(STATE_SHAPES, seed)
    direction = adam_direction(ADAMW)
    state = direction.init(adapter)
    for step in range(seed + 1):
        _, state = direction.update(random_leaves(STATE_SHAPES, 50 + step), state, adapter)
    return adapter, state


def assert_equal(ours, theirs) -> None:
    """Asserts that two trees have the same structure and values."""
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
