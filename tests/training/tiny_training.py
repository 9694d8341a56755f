"""A random model of one layer and a few rows to train it on; everything compiles in seconds."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from g2is_jax.data.batches import TrainingShapes, training_shapes
from g2is_jax.data.chat import Encoded
from g2is_jax.model.build import Model, build_model
from g2is_jax.model.decoder import DecoderConfig
from g2is_jax.model.lora import Leaves, LoraConfig
from g2is_jax.training.optimizer import OptimizerConfig

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


def tiny_model(dropout: float = 0.0, targets: Sequence[str] = ("q_proj", "v_proj")) -> Model:
    config = DecoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=14,
        intermediate_size=19,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=6,
        rope_theta=1234.5,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        max_position_embeddings=256,
    )
    lora = LoraConfig(rank=3, alpha=7.0, dropout=dropout, targets=tuple(targets))
    return build_model(config, lora, "float32", remat=False)


def random_leaves(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Leaves:
    """Weights of order 1 / sqrt(in), norms near one, and an adapter whose B is not zero."""
    rng = np.random.default_rng(seed)
    return {
        path: jnp.asarray(
            rng.normal(size=shape) * shape[-1] ** -0.5 + (len(shape) == 1), jnp.float32
        )
        for path, shape in sorted(shapes.items())
    }


def random_rows(lengths: Sequence[int], seed: int = 0) -> list[Encoded]:
    """Random tokens, of which the later half is supervised."""
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
