"""Root-mean-square normalisation."""

import jax
import jax.numpy as jnp
from flax import nnx

from g2is_jax.model.config import DecoderConfig


class RmsNorm(nnx.Module):
    """x / rms(x) * weight over the last axis, or * (1 + weight), computed in float32."""

    def __init__(self, width: int, c: DecoderConfig, dtype: jnp.dtype):
        self.weight = nnx.Param(jnp.ones((width,), dtype))
        self.eps, self.offset = c.rms_norm_eps, float(c.unit_offset)

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(x32**2, axis=-1, keepdims=True) + self.eps)
        weight_D = self.offset + self.weight[...].astype(jnp.float32)
        return (x32 * scale * jnp.expand_dims(weight_D, range(x.ndim - 1))).astype(x.dtype)
