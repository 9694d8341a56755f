"""Attention of a row by blocks of queries, with a backward pass that computes the weights again.

Of the weights only one block's are in memory at a time, and those of one row of a batch, or of a
group of rows: they stay in a CPU's cache. The layout of the backward pass needs no transposed
weights (Dao, 2023, "FlashAttention-2", algorithm 2, without its blocks of keys).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

SMALLEST_BLOCK, MOST_BLOCKS = 128, 8  # queries in a block, and blocks in a row
CACHE = 2**20  # bytes that the weights of a group of rows may fill


@dataclass(frozen=True)
class Scores:
    """How a query scores the keys: scale q k, within the cap, of at most `window` tokens.

    grouped: rows of a batch are scored in groups.
    """

    window: int | None
    scale: float
    softcap: float | None
    grouped: bool


def attend_in_blocks(
    q_THD,
    k_TKD,
    v_TKD,
    segments_T,
    window: int | None,
    scale: float,
    softcap: float | None,
    grouped: bool,
) -> jax.Array:
    """Attention (T, H, D); products with keys that no query of a block sees are skipped.

    Under vmap one row comes after another, and rounds the same whatever the batch; `grouped`: as
    many rows together as a cache has room for, which is faster where they are short.
    """
    kv_heads = k_TKD.shape[1]
    scores = Scores(window, scale, softcap, grouped)
    row = by_kv_head(q_THD, kv_heads), k_TKD.swapaxes(0, 1), v_TKD.swapaxes(0, 1), segments_T
    return by_token(_attend(scores, *row))


def visible(query_T, key_S, window: int | jax.Array | None) -> jax.Array:
    """The mask (T, S) of places that a query sees: none after it, and `window` at most."""
    distance_TS = query_T[:, None] - key_S[None, :]
    seen_TS = distance_TS >= 0
    return seen_TS if window is None else seen_TS & (distance_TS < window)


def by_kv_head(q_THD, kv_heads: int) -> jax.Array:
    """Queries (T, H, D) grouped by the keys that they share: (K, G, T, D)."""
    tokens, _, head_dim = q_THD.shape
    return q_THD.reshape(tokens, kv_heads, -1, head_dim).transpose(1, 2, 0, 3)


def by_token(y_KGTD) -> jax.Array:
    """Undoes `by_kv_head`."""
    kv_heads, group, tokens, head_dim = y_KGTD.shape
    return y_KGTD.transpose(2, 0, 1, 3).reshape(tokens, kv_heads * group, head_dim)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(scores: Scores, q_KGTD, k_KSD, v_KSD, segments_T) -> jax.Array:
    return _forward(scores, q_KGTD, k_KSD, v_KSD, segments_T)[0]


def _forward(scores: Scores, q_KGTD, k_KSD, v_KSD, segments_T):
    run = _over_rows(scores, _outputs)
    y_KGTD, logsums_KGT = run(q_KGTD, k_KSD, v_KSD, segments_T)
    return y_KGTD, (q_KGTD, k_KSD, v_KSD, segments_T, y_KGTD, logsums_KGT)


def _backward(scores: Scores, kept, dy_KGTD):
    run = _over_rows(scores, _gradients)
    return *run(*kept, dy_KGTD), None


_attend.defvjp(_forward, _backward)


def _over_rows(scores: Scores, of_row: Callable) -> Callable:
    """The function of a row; under vmap one row, or group of rows, comes after another."""
    alone = functools.partial(of_row, scores)
    if not scores.grouped:
        return jax.custom_batching.sequential_vmap(alone)
    run = jax.custom_batching.custom_vmap(alone)

    @run.def_vmap
    def of_rows(rows: int, batched, *row):
        whole = jax.tree.map(
            lambda x, is_batched: x if is_batched else jnp.broadcast_to(x, (rows, *x.shape)),
            row,
            tuple(batched),
        )
        size = _rows_of_group(rows, *row[0].shape[-4:-1])
        found = jax.lax.map(lambda row: alone(*row), whole, batch_size=size)
        return found, jax.tree.map(lambda _: True, found)

    return run


def _rows_of_group(rows: int, kv_heads: int, group: int, tokens: int) -> int:
    """The rows whose weights, of a block of queries each, are at most CACHE bytes; at least one.

    Fewer, but more than half as many, where no smaller group is then left to be compiled too.
    """
    queries = min(_block_size(tokens), tokens)
    most = max(1, CACHE // (4 * kv_heads * group * queries * tokens))
    even = next(size for size in range(min(most, rows), 0, -1) if rows % size == 0)
    return even if 2 * even > most or even == rows else most


def _outputs(scores: Scores, q_KGTD, k_KSD, v_KSD, segments_T):
    """Outputs (K, G, T, D), and the log of the sum of each query's exponentials (K, G, T)."""
    outputs, logsums = [], []
    for start, end, first in _blocks(q_KGTD.shape[2], scores.window):
        q_KXD, k, v = _queries(q_KGTD, start, end), k_KSD[:, first:end], v_KSD[:, first:end]
        seen_XS = _seen(scores, q_KGTD.shape[1], start, end, first, segments_T)
        z_KXS = jnp.where(seen_XS, _capped(scores, _matmul(q_KXD, 2, k, 2))[0], -jnp.inf)
        largest_KX1 = jnp.max(z_KXS, axis=2, keepdims=True)
        e_KXS = jnp.exp(z_KXS - largest_KX1)
        sum_KX1 = jnp.sum(e_KXS, axis=2, keepdims=True)
        y_KXD = _matmul(e_KXS.astype(v.dtype), 2, v, 1) / sum_KX1
        block = (*q_KGTD.shape[:2], end - start)
        outputs.append(y_KXD.astype(q_KGTD.dtype).reshape(*block, -1))
        logsums.append((largest_KX1 + jnp.log(sum_KX1)).reshape(block))
    return jnp.concatenate(outputs, axis=2), jnp.concatenate(logsums, axis=2)


def _gradients(scores: Scores, q_KGTD, k_KSD, v_KSD, segments_T, y_KGTD, logsums_KGT, dy_KGTD):
    """Gradients of queries, keys and values."""
    kv_heads, group, tokens, _ = q_KGTD.shape
    mean_KGT = jnp.sum(dy_KGTD.astype(jnp.float32) * y_KGTD.astype(jnp.float32), axis=3)
    dq, dk_KSD, dv_KSD = [], *(jnp.zeros(k_KSD.shape, jnp.float32) for _ in range(2))
    for start, end, first in _blocks(tokens, scores.window):
        q_KXD, dy_KXD = _queries(q_KGTD, start, end), _queries(dy_KGTD, start, end)
        k, v = k_KSD[:, first:end], v_KSD[:, first:end]
        logsums_K1X, mean_K1X = (
            x_KGT[:, :, start:end].reshape(kv_heads, 1, -1) for x_KGT in (logsums_KGT, mean_KGT)
        )
        seen_SX = _seen(scores, group, start, end, first, segments_T).T
        z_KSX, slope_KSX = _capped(scores, _matmul(k, 2, q_KXD, 2))
        p_KSX = jnp.exp(jnp.where(seen_SX, z_KSX, -jnp.inf) - logsums_K1X)
        dz_KSX = p_KSX * (_matmul(v, 2, dy_KXD, 2) - mean_K1X) * slope_KSX
        dv_KSD = dv_KSD.at[:, first:end].add(_matmul(p_KSX.astype(v.dtype), 2, dy_KXD, 1))
        dk_KSD = dk_KSD.at[:, first:end].add(_matmul(dz_KSX.astype(k.dtype), 2, q_KXD, 1))
        dq_KXD = _matmul(dz_KSX.astype(k.dtype), 1, k, 1).astype(q_KGTD.dtype)
        dq.append(dq_KXD.reshape(kv_heads, group, end - start, -1))
    return jnp.concatenate(dq, axis=2), dk_KSD.astype(k_KSD.dtype), dv_KSD.astype(v_KSD.dtype)


def _blocks(tokens: int, window: int | None) -> list[tuple[int, int, int]]:
    """The first and the next query of each block, and the first key that one of them sees."""
    size = _block_size(tokens)
    starts = range(0, tokens, size)
    return [
        (start, min(start + size, tokens), 0 if window is None else max(start - window + 1, 0))
        for start in starts
    ]


def _block_size(tokens: int) -> int:
    return max(SMALLEST_BLOCK, -(-tokens // MOST_BLOCKS))


def _queries(q_KGTD, start: int, end: int) -> jax.Array:
    """The queries of a block, all that share keys in one axis: (K, X, D)."""
    kv_heads, _, _, head_dim = q_KGTD.shape
    return q_KGTD[:, :, start:end].reshape(kv_heads, -1, head_dim)


def _seen(scores: Scores, group: int, start: int, end: int, first: int, segments_T) -> jax.Array:
    """The mask (X, S) of a block's queries and keys."""
    seen_TS = visible(jnp.arange(start, end), jnp.arange(first, end), scores.window)
    if segments_T is not None:
        seen_TS &= segments_T[start:end, None] == segments_T[None, first:end]
    # A CPU that computes the mask anew for each head is slower than one that reads it.
    return jax.lax.optimization_barrier(jnp.tile(seen_TS, (group, 1)))


def _capped(scores: Scores, products) -> tuple[jax.Array, jax.Array | float]:
    """Scores of products of queries and keys, and their derivative by the product."""
    scaled = scores.scale * products
    if scores.softcap is None:
        return scaled, scores.scale
    tanh = jnp.tanh(scaled / scores.softcap)
    return scores.softcap * tanh, scores.scale * (1 - tanh**2)


def _matmul(a, axis_a: int, b, axis_b: int) -> jax.Array:
    """Products over an axis of each, head by head, in float32."""
    return jax.lax.dot_general(
        a, b, (((axis_a,), (axis_b,)), ((0,), (0,))), preferred_element_type=jnp.float32
    )
