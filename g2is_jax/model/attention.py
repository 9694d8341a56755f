"""Causal self-attention of one example: rotary tables, the cache and the layer."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from g2is_jax.model.attention_blocks import visible
from g2is_jax.model.config import DecoderConfig, LayerConfig, RopeConfig
from g2is_jax.model.kernels import attend, attend_masked
from g2is_jax.model.lora import Linear, LoraConfig
from g2is_jax.model.norm import RmsNorm

LayerCache = tuple[jax.Array, jax.Array]  # keys and values, each ([layers,] K, S, width of a head)
Tables = tuple[jax.Array, jax.Array]  # cosine and sine, each (T, width of a head / 2)


def rotary_frequencies(head_dim: int, rope: RopeConfig) -> np.ndarray:
    """Radians per token of each pair of dimensions: (head_dim / 2,); scaled as in Llama 3.1.

    Waves longer than the old context over `low_freq_factor` are stretched by `factor`, those
    shorter than it over `high_freq_factor` stay, and between the two the rate is interpolated.
    Rounded to float32 after each operation, as the models were trained with it.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = 1 / np.float32(rope.theta) ** exponents
    if rope.scaling is None:
        return frequencies
    s = rope.scaling
    waves_in_context = s.original_max_position_embeddings / (2 * math.pi / frequencies)
    kept = (waves_in_context - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    kept = np.clip(kept, 0, 1)
    return (1 - kept) * frequencies / s.factor + kept * frequencies


def rotary_tables(positions_T: jax.Array, head_dim: int, rope: RopeConfig) -> Tables:
    """Cosine and sine (T, head_dim / 2) of the rotary angles, float32."""
    frequencies = jnp.asarray(rotary_frequencies(head_dim, rope))
    angles = positions_T.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.cos(angles), jnp.sin(angles)


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


class Slot(NamedTuple):
    """A cache to write to, and the layer's place in it; None: the cache is of one layer."""

    cache: LayerCache
    place: jax.Array | None


def write_cache(slot: Slot, new: LayerCache, start) -> tuple[LayerCache, LayerCache]:
    """The cache with a layer's new entries written from `start` on, and all entries of the layer.

    Only the new entries move: a loop that carries the cache does not copy it.
    """
    written = [
        _written(old, part, slot.place, start) for old, part in zip(slot.cache, new, strict=True)
    ]
    (keys, seen_keys), (values, seen_values) = written
    return (keys, values), (seen_keys, seen_values)


def _written(old: jax.Array, part: jax.Array, place, start) -> tuple[jax.Array, jax.Array]:
    """The old entries with the part written from `start` on; all layers', and this layer's."""
    if place is None:
        old = jax.lax.dynamic_update_slice_in_dim(old, part, start, axis=1)
        return old, old
    old = jax.lax.dynamic_update_slice(old, part[None], (place, 0, start, 0))
    return old, jax.lax.dynamic_index_in_dim(old, place, axis=0, keepdims=False)


class Attention(nnx.Module):
    """Self-attention with grouped key and value heads."""

    def __init__(
        self,
        c: DecoderConfig,
        layer: LayerConfig,
        path: str,
        dtype: jnp.dtype,
        kernel: str,
        lora: LoraConfig,
    ):
        self.c, self.layer, self.kernel, self.dtype = c, layer, kernel, dtype
        d, q, kv = (
            c.hidden_size,
            c.num_attention_heads * c.head_dim,
            c.num_key_value_heads * c.head_dim,
        )
        self.q_proj = Linear(f"{path}.q_proj", d, q, c.qkv_bias, dtype, lora)
        self.k_proj = Linear(f"{path}.k_proj", d, kv, c.qkv_bias, dtype, lora)
        self.v_proj = Linear(f"{path}.v_proj", d, kv, c.qkv_bias, dtype, lora)
        self.o_proj = Linear(f"{path}.o_proj", q, d, c.o_bias, dtype, lora)
        if c.query_key_norm != "none":
            per_head = c.query_key_norm == "head"
            self.q_norm = RmsNorm(c.head_dim if per_head else q, c, dtype)
            self.k_norm = RmsNorm(c.head_dim if per_head else kv, c, dtype)

    def __call__(self, x_TD, start, tables: Tables, segments_T, slot: Slot | None, keys):
        """Attends to the tokens up to each token; also returns keys and values for the next tokens.

        With a slot, T entries are written to its cache from `start`, and the cache is returned;
        without, the T tokens are the whole row. `segments_T`: tokens of different segments do not
        see each other; None: one segment.
        """
        q_THD, k_TKD, v_TKD = self._projections(x_TD, tables, keys)
        seen = (k_TKD.swapaxes(0, 1), v_TKD.swapaxes(0, 1))
        window, scale, softcap = self.layer.window, self.c.query_scale, self.c.attention_softcap
        made = seen
        if slot is not None:
            made, seen = write_cache(slot, seen, start)
            places_T = start + jnp.arange(x_TD.shape[0])
            mask_TS = visible(places_T, jnp.arange(seen[0].shape[1]), window)
            y_THD = attend_masked(q_THD, *seen, mask_TS, scale, softcap)
        else:
            q_THD, k_TKD, v_TKD = (x.astype(self.dtype) for x in (q_THD, k_TKD, v_TKD))
            rule = window, scale, softcap
            y_THD = attend(self.kernel, q_THD, k_TKD, v_TKD, segments_T, *rule)
        y_TF = y_THD.reshape(x_TD.shape[0], -1).astype(x_TD.dtype)
        return self.o_proj(y_TF, keys[3]), made

    def _projections(self, x_TD, tables: Tables, keys) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values by heads, normalised and rotated as the family does."""
        q_TF, k_TF = self.q_proj(x_TD, keys[0]), self.k_proj(x_TD, keys[1])
        if self.c.query_key_norm == "all":
            q_TF, k_TF = self.q_norm(q_TF), self.k_norm(k_TF)
        heads = (x_TD.shape[0], -1, self.c.head_dim)
        q_THD, k_TKD = q_TF.reshape(heads), k_TF.reshape(heads)
        if self.c.query_key_norm == "head":
            q_THD, k_TKD = self.q_norm(q_THD), self.k_norm(k_TKD)
        if self.layer.rotary:
            q_THD, k_TKD = rotate(q_THD, tables), rotate(k_TKD, tables)
        return q_THD, k_TKD, self.v_proj(x_TD, keys[2]).reshape(heads)
