"""Probes of linear layers: the gradient of a layer's own weight, projected on both sides.

With x (T, in) and y = x W^T (T, out), dL/dW is the sum over tokens of dy x^T, of shape (out, in). A
probe stands for P_out dL/dW P_in^T / K, of K rows of random signs on either side: the sum over
tokens of (P_out dy) (P_in x)^T / K (LoGra, Choe et al. 2024). No gradient of a weight is ever made.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from g2is_jax.model.lora import Leaves, Shapes, matches
from g2is_jax.model.product import product

CORE, SIDE_IN, SIDE_OUT = "core", "side_in", "side_out"


@dataclass(frozen=True)
class TwoSidedConfig:
    """Probes with `width` rows (K) a side, of the layers that `targets` name as LoRA's do.

    The leaves of a layer: `core` (K, K), a zero whose gradient is the projected one; `side_in`
    (K, in) and `side_out` (K, out), the signs. None of them changes the layer's output.
    """

    FIELD: ClassVar[str] = "grads.layers"
    width: int
    targets: tuple[str, ...]
    dropout: float = 0.0

    def matches(self, path: str) -> bool:
        """True if the linear layer of this path has a probe."""
        return any(matches(target, path) for target in self.targets)

    def shapes(self, d_out: int, d_in: int) -> Shapes:
        """The shapes of a layer's leaves, by names."""
        K = self.width
        return {CORE: (K, K), SIDE_IN: (K, d_in), SIDE_OUT: (K, d_out)}

    def has_gradient(self, path: str) -> bool:
        """True of cores alone."""
        return path.rpartition(".")[2] == CORE

    def added(self, leaves: Leaves, x_TD: jax.Array, y_TD: jax.Array, keys_T, dtype) -> jax.Array:
        """y itself; the core gets its gradient where y does."""
        inner_TK = product(lax.stop_gradient(x_TD), leaves[SIDE_IN], dtype)
        return _probed(y_TD, inner_TK, leaves[CORE], leaves[SIDE_OUT].astype(dtype))


@jax.custom_vjp
def _probed(y_TD: jax.Array, inner_TK, core_KK, side_KD) -> jax.Array:
    return y_TD


def _forward(y_TD, inner_TK, core_KK, side_KD):
    return y_TD, (inner_TK, side_KD)


def _backward(kept, dy_TD):
    inner_TK, side_KD = kept
    outer_TK = product(dy_TD, side_KD, side_KD.dtype)
    core_KK = jnp.matmul(outer_TK.T, inner_TK, precision=lax.Precision.HIGHEST)
    return dy_TD, None, core_KK / len(side_KD), None


_probed.defvjp(_forward, _backward)
