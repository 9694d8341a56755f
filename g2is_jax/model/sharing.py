"""Matrices that devices share, each holding a part: gathered, or the tokens sent round instead.

All of it is for the body of `shard_map`. Rows of many tokens gather the matrix; rows of one token,
as in decoding, are worked on by every device with the part that it holds, which moves thousands of
times fewer bytes.
"""

import jax
import jax.numpy as jnp

from g2is_jax.model.product import product
from g2is_jax.runs.mesh import DATA, share_axis, whole


def shared_product(
    x_TX: jax.Array, w: jax.Array, shape: tuple[int, int], dtype: jnp.dtype
) -> jax.Array:
    """Returns x w^T (T, Y) in float32, as `product`, of a w of this shape or of a part of it."""
    axis = share_axis(w, shape)
    if axis is None or len(x_TX) > 1:
        return product(x_TX, whole(w, shape), dtype)
    if axis == 0:  # S: the tokens of all devices
        x_SX = jax.lax.all_gather(x_TX, DATA, axis=0, tiled=True)
        return _scattered(product(x_SX, w, dtype))
    x_SX = jax.lax.all_to_all(x_TX, DATA, split_axis=1, concat_axis=0, tiled=True)
    sums_SY = product(x_SX, w, dtype)
    return jax.lax.psum_scatter(sums_SY, DATA, scatter_dimension=0, tiled=True)


def shared_rows(table: jax.Array, shape: tuple[int, int], rows_T: jax.Array) -> jax.Array:
    """Returns rows (T, D) of a table of this shape (V, D), or of a part of it."""
    axis = share_axis(table, shape)
    if axis is None or len(rows_T) > 1:
        return whole(table, shape)[rows_T]
    rows_S = jax.lax.all_gather(rows_T, DATA, axis=0, tiled=True)
    if axis == 1:
        return _scattered(table[rows_S])
    places_S = rows_S - len(table) * jax.lax.axis_index(DATA)
    here_S = (places_S >= 0) & (places_S < len(table))
    found_SD = jnp.where(here_S[:, None], table[jnp.where(here_S, places_S, 0)], 0)
    return jax.lax.psum_scatter(found_SD, DATA, scatter_dimension=0, tiled=True)


def _scattered(y_SY: jax.Array) -> jax.Array:
    """Sends each device the values of its own tokens, of which it had a part of all tokens'."""
    return jax.lax.all_to_all(y_SY, DATA, split_axis=0, concat_axis=1, tiled=True)
