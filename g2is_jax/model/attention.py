"""Causal self-attention of one example: the cache and the layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from g2is_jax.model.attention_blocks import visible
from g2is_jax.model.config import DecoderConfig
from g2is_jax.model.kernels import attend_masked, attend_of_kind, window_of
from g2is_jax.model.lora import AdapterConfig, Linear
from g2is_jax.model.norm import RmsNorm
from g2is_jax.model.rope import Tables, rotate

LayerCache = tuple[jax.Array, jax.Array]  # keys and values, each ([layers,] K, S, width of a head)


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
    """Self-attention with grouped key and value heads.

    windows: of each kind of layer that it may be; a call says which, by a number or a tracer.
    """

    def __init__(
        self,
        c: DecoderConfig,
        windows: tuple[int | None, ...],
        path: str,
        dtype: jnp.dtype,
        kernel: str,
        lora: AdapterConfig,
    ):
        self.c, self.windows, self.kernel, self.dtype = c, windows, kernel, dtype
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

    def __call__(
        self, x_TD, start, kind, tables: Tables | None, segments_T, slot: Slot | None, keys
    ):
        """Attends to the tokens up to each token; also returns keys and values for the next tokens.

        With a slot, T entries are written to its cache from `start`, and the cache is returned;
        without, the T tokens are the whole row. `segments_T`: tokens of different segments do not
        see each other; None: one segment.
        """
        q_THD, k_TKD, v_TKD = self._projections(x_TD, tables, keys)
        seen = (k_TKD.swapaxes(0, 1), v_TKD.swapaxes(0, 1))
        made, rule = seen, (self.c.query_scale, self.c.attention_softcap)
        if slot is not None:
            made, seen = write_cache(slot, seen, start)
            places_T = start + jnp.arange(x_TD.shape[0])
            mask_TS = visible(places_T, jnp.arange(seen[0].shape[1]), window_of(self.windows, kind))
            y_THD = attend_masked(q_THD, *seen, mask_TS, *rule)
        else:
            row = (*(x.astype(self.dtype) for x in (q_THD, k_TKD, v_TKD)), segments_T)
            y_THD = attend_of_kind(self.kernel, self.windows, kind, row, *rule)
        y_TF = y_THD.reshape(x_TD.shape[0], -1).astype(x_TD.dtype)
        return self.o_proj(y_TF, keys[3]), made

    def _projections(
        self, x_TD, tables: Tables | None, keys
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values by heads, normalised and rotated as the family does."""
        q_TF, k_TF = self.q_proj(x_TD, keys[0]), self.k_proj(x_TD, keys[1])
        if self.c.query_key_norm == "all":
            q_TF, k_TF = self.q_norm(q_TF), self.k_norm(k_TF)
        heads = (x_TD.shape[0], -1, self.c.head_dim)
        q_THD, k_TKD = q_TF.reshape(heads), k_TF.reshape(heads)
        if self.c.query_key_norm == "head":
            q_THD, k_TKD = self.q_norm(q_THD), self.k_norm(k_TKD)
        if tables is not None:
            q_THD, k_TKD = rotate(q_THD, tables), rotate(k_TKD, tables)
        return q_THD, k_TKD, self.v_proj(x_TD, keys[2]).reshape(heads)
