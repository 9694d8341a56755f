"""Root-mean-square normalisation."""

import jax
import jax.numpy as jnp
from flax import nnx

from g2is_jax.model.config import DecoderConfig


class RmsNorm(nnx.Module):
    """A norm over the last axis, with a weight of its own."""

    def __init__(self, width: int, c: DecoderConfig, dtype: jnp.dtype):
        self.weight = nnx.Param(jnp.ones((width,), dtype))
        self.c = c

    def __call__(self, x: jax.Array) -> jax.Array:
        return normalised(x, self.weight[...], self.c)


def normalised(x: jax.Array, weight_D: jax.Array, c: DecoderConfig) -> jax.Array:
    """x / rms(x) * weight over the last axis, or * (1 + weight), computed in float32."""
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(x32**2, axis=-1, keepdims=True) + c.rms_norm_eps)
    weight_D = float(c.unit_offset) + weight_D.astype(jnp.float32)
    return (x32 * scale * jnp.expand_dims(weight_D, range(x.ndim - 1))).astype(x.dtype)
