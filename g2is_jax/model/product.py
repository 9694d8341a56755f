"""The product of activations with a weight matrix, as the matrix units of all backends like it.

No operand is transposed in front of a product, forwards or backwards, and operands in bfloat16 are
summed in float32: a CPU with AMX is six times as fast then, and other backends do so anyway.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax


def product(x_TX: jax.Array, w_YX: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns x w^T (T, Y) in float32, of operands rounded to `dtype`; differentiable in both."""
    if jnp.dtype(dtype) == jnp.float32:
        # Its gradients need no rounding, and jax makes one product of a w's that rows share.
        return _contract(jnp.float32, x_TX, 1, w_YX, 1)
    return _product(jnp.dtype(dtype), x_TX, w_YX)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(dtype: jnp.dtype, x_TX: jax.Array, w_YX: jax.Array) -> jax.Array:
    return _contract(dtype, x_TX, 1, w_YX, 1)


def _forward(dtype: jnp.dtype, x, w):
    """Keeps an operand only where the other one has a gradient."""
    y_TY = _contract(dtype, x.value, 1, w.value, 1)
    return y_TY, (
        w.value if x.perturbed else None,
        x.value if w.perturbed else None,
        jnp.zeros(0, x.value.dtype),
        jnp.zeros(0, w.value.dtype),
    )


def _backward(dtype: jnp.dtype, kept, dy_TY):
    w_YX, x_TX, like_x, like_w = kept
    if isinstance(dy_TY, jax.custom_derivatives.SymbolicZero):
        dy_TY = jnp.zeros(dy_TY.shape, dy_TY.dtype)
    dx_TX = None if w_YX is None else _contract(dtype, dy_TY, 1, w_YX, 0).astype(like_x.dtype)
    dw_YX = None if x_TX is None else _contract(dtype, dy_TY.T, 1, x_TX, 0).astype(like_w.dtype)
    return dx_TX, dw_YX


_product.defvjp(_forward, _backward, symbolic_zeros=True)


def _contract(dtype: jnp.dtype, a: jax.Array, axis_a: int, b: jax.Array, axis_b: int) -> jax.Array:
    return lax.dot_general(
        a.astype(dtype),
        b.astype(dtype),
        (((axis_a,), (axis_b,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
