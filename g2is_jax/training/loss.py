"""The loss of one example; training and feature extraction divide it by counts of their own."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from g2is_jax.model.build import Model
from g2is_jax.model.decoder import Taps
from g2is_jax.model.lora import Leaves

# Tokens whose logits are in memory at once: what a product needs to be fast, but no large part of a
# small batch, for the last of them are computed in vain; nor a small part of a large one.
SMALLEST_CHUNK, FAST_CHUNK = 128, 512
FEWEST_CHUNKS, MOST_CHUNKS = 4, 16


def example_loss(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    tokens_T,
    supervised_T,
    dropout_key=None,
    segments_T=None,
    taps: Taps | None = None,
    of_base: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The summed next-token negative log-likelihood of the supervised tokens, and their count.

    tokens_T int32; supervised_T bool, true at the tokens that are predicted (never the first).
    Padding is unsupervised and comes last, so it adds exactly nothing. segments_T: the packed row
    that each token belongs to; no row predicts the first token of the next. taps: what the
    adapter's leaves pass through. The loss has a gradient with respect to the adapter alone, unless
    it is asked for that of the base, which takes longer.
    """
    hidden_TD = model.hidden(adapter, base, tokens_T, dropout_key, segments_T, taps)
    predicted_T = supervised_T[1:]
    if segments_T is not None:
        predicted_T = predicted_T & (segments_T[1:] == segments_T[:-1])
    counted_T = jnp.append(predicted_T, False)
    head_VD = model.head_weights(base)
    summed = _summed_with_head if of_base else _summed
    total = summed(model, head_VD, hidden_TD, jnp.roll(tokens_T, -1), counted_T)
    return total, jnp.sum(counted_T)


def batch_loss(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    tokens_BT,
    supervised_BT,
    dropout_keys=None,
    segments_BT=None,
    of_base: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Sums of `example_loss` over a batch; dropout keys are those of its rows (B,) or tokens."""
    loss = functools.partial(example_loss, model, adapter, base, of_base=of_base)
    sums_B, counts_B = jax.vmap(loss)(tokens_BT, supervised_BT, dropout_keys, segments_BT)
    return jnp.sum(sums_B), jnp.sum(counts_B)


def token_losses(model: Model, head_VD, hidden_SD, targets_S) -> jax.Array:
    """The negative log-likelihood of each target after its hidden state: (S,) float32."""
    return _scores(model, head_VD, hidden_SD, targets_S)[0]


def token_scores(model: Model, base: Leaves, hidden_TD, targets_T, counted_T):
    """Losses (T,) of the counted targets, in nats, and whether each is the likeliest, (T,) bool.

    Those of the others are 0 and False. Under vmap some tokens of the batch at a time have logits.
    """
    scores = functools.partial(_scores, model)
    return _over_counted(scores)(model.head_weights(base), hidden_TD, targets_T, counted_T)


def _scores(model: Model, head_VD, hidden_SD, targets_S) -> tuple[jax.Array, jax.Array]:
    logits_SV = model.head(head_VD, hidden_SD)
    chosen_S = jnp.take_along_axis(logits_SV, targets_S[:, None], axis=-1)[:, 0]
    losses_S = jax.nn.logsumexp(logits_SV, axis=-1) - chosen_S
    return losses_S, jnp.argmax(logits_SV, axis=-1) == targets_S


def _losses_and_gradients(model: Model, head_VD, hidden_SD, targets_S):
    """Losses (S,), and the gradient (S, D) of each with respect to its hidden state."""
    loss = functools.partial(token_losses, model, head_VD, targets_S=targets_S)
    losses_S, pull = jax.vjp(loss, hidden_SD)
    return losses_S, *pull(jnp.ones_like(losses_S))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(model: Model, head_VD, hidden_TD, targets_T, counted_T) -> jax.Array:
    """Sum of the counted tokens' losses.

    Its gradient is computed in the same pass, some tokens at a time: the head is frozen, so nothing
    but hidden states of counted tokens has one, and the logits of the others are never computed.
    """
    losses_T, _ = _over_counted(functools.partial(_scores, model))(
        head_VD, hidden_TD, targets_T, counted_T
    )
    return jnp.sum(losses_T)


def _forward(model: Model, head_VD, hidden_TD, targets_T, counted_T):
    if head_VD.perturbed:
        raise ValueError("the loss has no gradient with respect to the base")
    values = (head_VD.value, hidden_TD.value, targets_T.value, counted_T.value)
    of_tokens = _over_counted(functools.partial(_losses_and_gradients, model))
    losses_T, gradient_TD = of_tokens(*values)
    return jnp.sum(losses_T), gradient_TD


def _backward(model: Model, gradient_TD, cotangent):
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return None, jnp.zeros_like(gradient_TD), None, None
    scaled_TD = cotangent * gradient_TD.astype(jnp.float32)
    return None, scaled_TD.astype(gradient_TD.dtype), None, None


_summed.defvjp(_forward, _backward, symbolic_zeros=True)


def _summed_with_head(model: Model, head_VD, hidden_TD, targets_T, counted_T) -> jax.Array:
    """Sum of the counted tokens' losses, with a gradient for the head too; the logits of some
    tokens at a time are in memory, both ways."""
    length = len(targets_T)
    chunk = min(SMALLEST_CHUNK, length)
    missing = -length % chunk

    def in_chunks(array_T):
        padding = [(0, missing)] + [(0, 0)] * (array_T.ndim - 1)
        return jnp.pad(array_T, padding).reshape(-1, chunk, *array_T.shape[1:])

    @jax.checkpoint
    def of_chunk(total, chunk):
        hidden_SD, targets_S, counted_S = chunk
        losses_S = token_losses(model, head_VD, hidden_SD, targets_S)
        return total + jnp.sum(jnp.where(counted_S, losses_S, 0)), None

    chunks = tuple(map(in_chunks, (hidden_TD, targets_T, counted_T)))
    return jax.lax.scan(of_chunk, jnp.float32(0), chunks)[0]


def _over_counted(of_tokens: Callable) -> Callable:
    """The function (head_VD, hidden_TD, targets_T, counted_T) -> what `of_tokens` says of each.

    of_tokens: (head_VD, hidden_SD, targets_S) -> arrays (S, ...); those of tokens that are not
    counted are zeros. Under vmap the counted tokens of all examples are computed together.
    """

    @jax.custom_batching.custom_vmap
    def of_example(head_VD, hidden_TD, targets_T, counted_T):
        found = _in_chunks(of_tokens, head_VD, hidden_TD[None], targets_T[None], counted_T[None])
        return jax.tree.map(lambda x: x[0], found)

    @of_example.def_vmap
    def of_batch(axis_size, in_batched, head_VD, *parts):
        assert not in_batched[0], "the head is shared by a batch"
        batched = [
            part if is_batched else jnp.broadcast_to(part[None], (axis_size, *part.shape))
            for part, is_batched in zip(parts, in_batched[1:], strict=True)
        ]
        found = _in_chunks(of_tokens, head_VD, *batched)
        return found, jax.tree.map(lambda _: True, found)

    return of_example


def tokens_with_logits(size: int) -> int:
    """The tokens of a batch of so many whose logits are in memory at once."""
    chunk = max(SMALLEST_CHUNK, min(FAST_CHUNK, size // FEWEST_CHUNKS), size // MOST_CHUNKS)
    return min(chunk, size)


def _counted_first(counted_X) -> tuple[jax.Array, jax.Array]:
    """An order of the tokens (X,) with the counted ones first, and the place of each token in it.

    By running sums: a sort of 20,480 tokens takes a TPU's compiler most of a minute.
    """
    until_X = jnp.cumsum(counted_X)
    all_X = jnp.arange(counted_X.size)
    place_X = jnp.where(counted_X, until_X - 1, until_X[-1] + all_X - until_X)
    order_X = jnp.zeros_like(all_X).at[place_X].set(all_X, unique_indices=True)
    return order_X, place_X


def _in_chunks(of_tokens: Callable, head_VD, hidden_BTD, targets_BT, counted_BT):
    """Arrays (B, T, ...), by a loop over some tokens at a time that ends with the counted ones.

    X: places of the batch's tokens, counted ones first.
    """
    size = counted_BT.size
    chunk = tokens_with_logits(size)
    whole = -(-size // chunk) * chunk
    order_X, place_X = _counted_first(counted_BT.reshape(-1))
    order_X = jnp.pad(order_X, (0, whole - size))
    hidden_XD, targets_X = hidden_BTD.reshape(size, -1), targets_BT.reshape(-1)

    def of_chunk(index):
        rows_S = jax.lax.dynamic_slice_in_dim(order_X, index * chunk, chunk)
        return of_tokens(head_VD, hidden_XD[rows_S], targets_X[rows_S])

    def step(index, kept):
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(all_X, part, index * chunk, 0)
            for all_X, part in zip(kept, of_chunk(index), strict=True)
        )

    kept = tuple(
        jnp.zeros((whole, *part.shape[1:]), part.dtype)
        for part in jax.eval_shape(of_chunk, jnp.int32(0))
    )
    kept = jax.lax.fori_loop(0, -(-jnp.sum(counted_BT) // chunk), step, kept)

    def in_place(found_X):
        found_BT = found_X[place_X].reshape(*counted_BT.shape, *found_X.shape[1:])
        counted = jnp.expand_dims(counted_BT, range(2, found_BT.ndim))
        return jnp.where(counted, found_BT, jnp.zeros((), found_BT.dtype))

    return tuple(map(in_place, kept))
