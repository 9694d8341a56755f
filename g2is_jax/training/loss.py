"""The loss of one example; training and feature extraction divide it by counts of their own."""

import functools

import jax
import jax.numpy as jnp

from g2is_jax.model.build import Model
from g2is_jax.model.lora import Leaves

SMALLEST_CHUNK = 128  # tokens whose logits are in memory at once; at least this many,
CHUNKS = 16  # or this part of the batch's


def example_loss(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    tokens_T,
    supervised_T,
    dropout_key=None,
    segments_T=None,
) -> tuple[jax.Array, jax.Array]:
    """The summed next-token negative log-likelihood of the supervised tokens, and their count.

    tokens_T int32; supervised_T bool, true at the tokens that are predicted (never the first).
    Padding is unsupervised and comes last, so it adds exactly nothing. segments_T: the packed row
    that each token belongs to; no row predicts the first token of the next. The loss has a gradient
    with respect to the adapter alone.
    """
    hidden_TD = model.hidden(adapter, base, tokens_T, dropout_key, segments_T)
    predicted_T = supervised_T[1:]
    if segments_T is not None:
        predicted_T = predicted_T & (segments_T[1:] == segments_T[:-1])
    counted_T = jnp.append(predicted_T, False)
    total = _summed(model, base, hidden_TD, jnp.roll(tokens_T, -1), counted_T)
    return total, jnp.sum(counted_T)


def batch_loss(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    tokens_BT,
    supervised_BT,
    dropout_keys=None,
    segments_BT=None,
) -> tuple[jax.Array, jax.Array]:
    """Sums of `example_loss` over a batch; dropout keys are those of its rows (B,) or tokens."""
    loss = functools.partial(example_loss, model, adapter, base)
    sums_B, counts_B = jax.vmap(loss)(tokens_BT, supervised_BT, dropout_keys, segments_BT)
    return jnp.sum(sums_B), jnp.sum(counts_B)


def token_losses(model: Model, base: Leaves, hidden_SD, targets_S) -> jax.Array:
    """The negative log-likelihood of each target after its hidden state: (S,) float32."""
    logits_SV = model.head(base, hidden_SD)
    chosen_S = jnp.take_along_axis(logits_SV, targets_S[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits_SV, axis=-1) - chosen_S


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(model: Model, base: Leaves, hidden_TD, targets_T, counted_T) -> jax.Array:
    """Sum of the counted tokens' losses.

    Its gradient is computed in the same pass, some tokens at a time: the head is frozen, so nothing
    but hidden states of counted tokens has one, and the logits of the others are never computed.
    """
    return _at_counted(model, False)(base, hidden_TD, targets_T, counted_T)[0]


def _forward(model: Model, base: Leaves, hidden_TD, targets_T, counted_T):
    if any(leaf.perturbed for leaf in jax.tree.leaves(base, is_leaf=_is_primal)):
        raise ValueError("the loss has no gradient with respect to the base")
    base = jax.tree.map(lambda leaf: leaf.value, base, is_leaf=_is_primal)
    values = (hidden_TD.value, targets_T.value, counted_T.value)
    total, gradient_TD = _at_counted(model, True)(base, *values)
    return total, gradient_TD


def _is_primal(leaf) -> bool:
    return hasattr(leaf, "perturbed")


def _backward(model: Model, gradient_TD, cotangent):
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return None, jnp.zeros_like(gradient_TD), None, None
    scaled_TD = cotangent * gradient_TD.astype(jnp.float32)
    return None, scaled_TD.astype(gradient_TD.dtype), None, None


_summed.defvjp(_forward, _backward, symbolic_zeros=True)


@functools.cache
def _at_counted(model: Model, with_gradient: bool):
    """The function (base, hidden_TD, targets_T, counted_T) -> summed loss, gradient (T, D) or None.

    Under vmap the counted tokens of all examples are computed together.
    """

    @jax.custom_batching.custom_vmap
    def of_example(base, hidden_TD, targets_T, counted_T):
        parts = (hidden_TD[None], targets_T[None], counted_T[None])
        return jax.tree.map(lambda x: x[0], _in_chunks(model, with_gradient, base, *parts))

    @of_example.def_vmap
    def of_batch(axis_size, in_batched, base, *parts):
        assert not any(jax.tree.leaves(in_batched[0])), "the base is shared by a batch"
        batched = [
            part if is_batched else jnp.broadcast_to(part[None], (axis_size, *part.shape))
            for part, is_batched in zip(parts, in_batched[1:], strict=True)
        ]
        result = _in_chunks(model, with_gradient, base, *batched)
        return result, jax.tree.map(lambda _: True, result)

    return of_example


def _in_chunks(model: Model, with_gradient: bool, base, hidden_BTD, targets_BT, counted_BT):
    """Losses (B,), and gradients (B, T, D) or None, by a loop that ends with the counted tokens.

    X: places of the batch's tokens, counted ones first.
    """
    size = counted_BT.size
    chunk = min(max(SMALLEST_CHUNK, size // CHUNKS), size)
    whole = -(-size // chunk) * chunk
    order_X = jnp.argsort(~counted_BT.reshape(-1), stable=True)
    place_X = jnp.argsort(order_X, stable=True)  # the place of each token in that order
    order_X = jnp.pad(order_X, (0, whole - size))
    hidden_XD = hidden_BTD.reshape(size, -1)
    targets_X, count = targets_BT.reshape(-1), jnp.sum(counted_BT)

    def step(index, kept):
        rows_S = jax.lax.dynamic_slice_in_dim(order_X, index * chunk, chunk)
        loss = functools.partial(token_losses, model, base, targets_S=targets_X[rows_S])
        if not with_gradient:
            found = (loss(hidden_XD[rows_S]),)
        else:
            losses_S, pull = jax.vjp(loss, hidden_XD[rows_S])
            found = (losses_S, *pull(jnp.ones_like(losses_S)))
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(all_X, part, index * chunk, 0)
            for all_X, part in zip(kept, found, strict=True)
        )

    kept: tuple[jax.Array, ...] = (jnp.zeros(whole, jnp.float32),)
    if with_gradient:
        kept = (*kept, jnp.zeros((whole, hidden_XD.shape[1]), hidden_XD.dtype))
    kept = jax.lax.fori_loop(0, -(-count // chunk), step, kept)
    losses_BT = kept[0][place_X].reshape(counted_BT.shape)
    total_B = jnp.sum(jnp.where(counted_BT, losses_BT, 0.0), axis=1)
    if not with_gradient:
        return total_B, None
    gradient_BTD = kept[1][place_X].reshape(hidden_BTD.shape)
    return total_B, jnp.where(counted_BT[..., None], gradient_BTD, 0)
