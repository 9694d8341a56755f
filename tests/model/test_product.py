"""The product of linear layers: exact in float32, rounded operands in bfloat16, no transpose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from g2is_jax.model.product import product

RNG = np.random.default_rng(0)
X_TX, W_YX, DY_TY = (RNG.normal(size=shape).astype("f4") for shape in ((7, 11), (5, 11), (7, 5)))


def rounded(x, dtype) -> np.ndarray:
    return np.asarray(jnp.asarray(x, dtype), np.float64)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("x_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("batched", [False, True])
def test_value_and_both_gradients(dtype, x_dtype, batched):
    """In bfloat16 nothing but the operands is rounded: sums are float32's."""
    x, w = jnp.asarray(X_TX, x_dtype), jnp.asarray(W_YX)

    def run(x, w):
        y, pull = jax.vjp(lambda x, w: product(x, w, dtype), x, w)
        return y, *pull(jnp.asarray(DY_TY))

    if batched:
        y, dx, dw = (part[1] for part in jax.vmap(run, in_axes=(0, None))(jnp.stack([-x, x]), w))
    else:
        y, dx, dw = run(x, w)
    x_64, w_64, dy_64 = (rounded(part, dtype) for part in (x, w, DY_TY))
    assert (y.dtype, dx.dtype, dw.dtype) == (jnp.float32, x_dtype, jnp.float32)
    np.testing.assert_allclose(y, x_64 @ w_64.T, rtol=0, atol=3e-6)
    np.testing.assert_allclose(dw, dy_64.T @ x_64, rtol=0, atol=3e-6)
    error = 3e-6 if x_dtype == jnp.float32 else 2**-7 * np.abs(dy_64 @ w_64).max()
    np.testing.assert_allclose(np.asarray(dx, "f8"), dy_64 @ w_64, rtol=0, atol=error)


def test_no_weight_is_transposed_and_sums_are_in_float32():
    """What a CPU with AMX is fast at; a weight that was transposed takes six times as long."""
    grad = jax.grad(lambda x, w: product(x, w, jnp.bfloat16).sum())
    text = str(jax.make_jaxpr(jax.jit(grad))(X_TX, W_YX.astype(jnp.bfloat16)))
    assert "transpose" not in text
    assert "preferred_element_type=float32" in text
    for of, products in ((0, 2), ((0, 1), 3)):  # a frozen operand has no gradient
        grad = jax.grad(lambda x, w: product(x, w, jnp.bfloat16).sum(), of)
        assert str(jax.make_jaxpr(grad)(X_TX, W_YX)).count("dot_general") == products


def test_frozen_operands_are_not_kept():
    """A frozen weight needs no activations for its backward pass, so none wait for it."""
    kept = jax.eval_shape(lambda x: jax.vjp(lambda x: product(x, W_YX, jnp.float32), x)[1], X_TX)
    assert sorted(leaf.shape for leaf in jax.tree.leaves(kept) if leaf.size) == [W_YX.shape]


def test_rows_that_share_a_weight_make_its_gradient_in_one_product():
    """Short rows are a third slower where each makes a gradient of its own, to be summed."""
    x_BTX = jnp.stack([X_TX] * 3)

    def total(w):
        return jax.vmap(lambda x: product(x, w, jnp.float32))(x_BTX).sum()

    text = str(jax.make_jaxpr(jax.grad(total))(W_YX))
    assert "f32[3,5,11]" not in text
    assert "f32[3,11,5]" not in text
    np.testing.assert_allclose(
        jax.grad(total)(W_YX), np.tile(3 * X_TX.sum(0), (5, 1)), rtol=0, atol=1e-5
    )
