"""Rotary position embedding: its frequencies, as the checkpoints stretch them, and its tables."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from g2is_jax.model.config import (
    DecoderConfig,
    LinearScaling,
    Llama3Scaling,
    RopeConfig,
    YarnScaling,
)

Tables = tuple[jax.Array, jax.Array]  # cosine and sine, each (T, width of a head / 2)


def rotary_frequencies(head_dim: int, rope: RopeConfig) -> np.ndarray:
    """Radians per token of each pair of dimensions: (head_dim / 2,), scaled as the config says.

    Rounded to float32 after each operation, as the models were trained with it.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = 1 / np.float32(rope.theta) ** exponents
    match rope.scaling:
        case Llama3Scaling() as scaling:
            return _llama3(frequencies, scaling)
        case LinearScaling(factor):
            return frequencies / factor
        case YarnScaling() as scaling:
            return _yarn(frequencies, scaling, rope.theta)
    return frequencies


def _llama3(frequencies: np.ndarray, s: Llama3Scaling) -> np.ndarray:
    """Stretches by `factor` the waves longer than the old context over `low_freq_factor`.

    Those shorter than it over `high_freq_factor` stay; between the two the rate is interpolated.
    """
    waves_in_context = s.original_max_position_embeddings / (2 * math.pi / frequencies)
    kept = (waves_in_context - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    kept = np.clip(kept, 0, 1)
    return (1 - kept) * frequencies / s.factor + kept * frequencies


def _yarn(frequencies: np.ndarray, s: YarnScaling, theta: float) -> np.ndarray:
    """Stretches by `factor` the pairs that turn fewer than `beta_slow` times in the old context.

    Those that turn more than `beta_fast` times stay; between the two the rate is interpolated, in
    equal steps from pair to pair.
    """
    pairs = len(frequencies)

    def pair_of(turns: float) -> float:
        radians = s.original_max_position_embeddings / (turns * 2 * math.pi)
        return pairs * math.log(radians) / math.log(theta)

    first, last = pair_of(s.beta_fast), pair_of(s.beta_slow)
    if s.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    if first == last:
        last += 0.001  # as transformers does, against a division by zero
    stretched = np.clip((np.arange(pairs, dtype=np.float32) - first) / (last - first), 0, 1)
    return frequencies / s.factor * stretched + frequencies * (1 - stretched)


def rotary_tables(positions_T: jax.Array, head_dim: int, rope: RopeConfig) -> Tables:
    """Cosine and sine (T, head_dim / 2) of the rotary angles, float32."""
    frequencies = jnp.asarray(rotary_frequencies(head_dim, rope))
    angles = positions_T.astype(jnp.float32)[:, None] * frequencies[None, :]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    if isinstance(rope.scaling, YarnScaling):
        return cosine * rope.scaling.attention_factor, sine * rope.scaling.attention_factor
    return cosine, sine


def tables_of_layers(positions_T: jax.Array, c: DecoderConfig) -> dict[RopeConfig | None, Tables]:
    """The rotary tables of each embedding that some layers share."""
    ropes = dict.fromkeys(layer.rope for layer in c.layers if layer.rope is not None)
    return {rope: rotary_tables(positions_T, c.head_dim, rope) for rope in ropes}


def tables_of_kind(
    tables: dict[RopeConfig | None, Tables], ropes: Sequence[RopeConfig | None], kind
) -> Tables | None:
    """The tables of a layer of kind number `kind`, a tracer perhaps, by the rope of each kind; None
    where no kind turns. A kind without a rope among others is turned by nothing, which is exact."""
    distinct = list(dict.fromkeys(ropes))
    if len(distinct) == 1:
        return tables.get(distinct[0])
    like = next(iter(tables.values()))
    no_turn = jnp.ones_like(like[0]), jnp.zeros_like(like[1])
    places = jnp.asarray([distinct.index(rope) for rope in ropes])
    found = [tables[rope] if rope is not None else no_turn for rope in distinct]
    cosine, sine = (jnp.stack(parts)[places[kind]] for parts in zip(*found, strict=True))
    return cosine, sine


def rotate(x_THD: jax.Array, tables: Tables) -> jax.Array:
    """Rotates the two halves of each head against each other (Hugging Face's layout)."""
    first, second = jnp.split(x_THD.astype(jnp.float32), 2, axis=-1)
    cosine, sine = (table[:, None, :] for table in tables)
    rotated = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(rotated, axis=-1).astype(x_THD.dtype)


def positions_in(segments_T: jax.Array) -> jax.Array:
    """The place of each token in its own segment: (T,) -> (T,) int32."""
    index_T = jnp.arange(segments_T.shape[0])
    starts_T = jnp.concatenate([jnp.ones(1, bool), segments_T[1:] != segments_T[:-1]])
    return index_T - jax.lax.cummax(jnp.where(starts_T, index_T, 0))
