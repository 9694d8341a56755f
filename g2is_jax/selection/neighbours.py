"""The similarity graph of the pool: cosines between rows, and the most similar rows of each."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from g2is_jax.features.rows import as_rows
from g2is_jax.features.unit_rows import UnitRows, cosines_to_values, unit_rows_of
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.mesh import on_host

KINDS = ("exact", "knn")
BLOCK = 1024  # rows whose similarities to the whole pool are held at a time


@dataclass(frozen=True)
class GraphConfig:
    """`exact`: edges are never stored, the walk computes a row when it needs one. `knn`: the
    `neighbours` most similar rows of each row are stored (`exact` does not read that number)."""

    kind: str
    neighbours: int

    def __post_init__(self):
        if self.kind not in KINDS:
            raise InputError(f"graph.kind: {self.kind!r} is none of {', '.join(KINDS)}")
        if self.neighbours < 1:
            raise InputError(f"graph.neighbours: {self.neighbours} must be 1 or more")


def neighbours(features_NP, E: int, mesh: Mesh | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The E most similar rows of each row and their cosines: [N, E] int32, [N, E] float32.

    Exact, self excluded, most similar first, equal similarities by lower index. With a mesh each
    device compares a block with its own share of the rows; the best of all shares are merged.
    """
    rows = as_rows(features_NP)
    count = len(rows)
    if not 1 <= E < count:
        raise InputError(
            f"graph.neighbours: {E} asked, a pool of {count} rows has at most {count - 1} for each"
        )
    units = unit_rows_of(rows, mesh)
    block = min(BLOCK, count)
    indices_NE = np.empty((count, E), np.int32)
    similarities_NE = np.empty((count, E), np.float32)
    for start in range(0, count, block):
        start = min(start, count - block)  # the last block overlaps: one shape, one compilation
        stored_BP = jnp.asarray(np.asarray(rows.values_NP[start : start + block]))
        shares = 1 if mesh is None else mesh.size
        found = _most_similar(units, stored_BP, start, count, E, shares)
        own = slice(start, start + block)
        indices_NE[own], similarities_NE[own] = map(on_host, found)
    return indices_NE, similarities_NE


@functools.partial(jax.jit, static_argnames=("E", "shares"))
def _most_similar(units: UnitRows, stored_BP, start, count, E: int, shares: int):
    block = len(stored_BP)
    itself_B = start + jnp.arange(block)
    inverse_B = jnp.take(units.inverse_length_N, itself_B, mode="clip")
    cosines_BN = cosines_to_values(units, stored_BP, inverse_B)
    padded = cosines_BN.shape[1]
    places_N = jnp.arange(padded)
    barred_BN = (places_N[None] == itself_B[:, None]) | (places_N >= count)[None]
    cosines_BN = jnp.where(barred_BN, -jnp.inf, cosines_BN)
    share = padded // shares
    kept = min(E, share)
    best_BSK, places_BSK = lax.top_k(cosines_BN.reshape(block, shares, share), kept)
    if shares == 1:
        return places_BSK[:, 0].astype(jnp.int32), best_BSK[:, 0]
    places_BSK = places_BSK + share * jnp.arange(shares)[None, :, None]
    # Shares and, within one, equal similarities are in the order of rows: so are ties here.
    best_BE, where_BE = lax.top_k(best_BSK.reshape(block, -1), E)
    places_BE = jnp.take_along_axis(places_BSK.reshape(block, -1), where_BE, axis=1)
    return places_BE.astype(jnp.int32), best_BE
