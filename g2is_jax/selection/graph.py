"""The similarity graph of the pool: cosines between rows, and the most similar rows of each."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from g2is_jax.runs.errors import InputError

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


@jax.jit
def row_lengths(features_NP) -> jax.Array:
    """L2 norm of each row, computed in float32."""
    return jnp.sqrt(jnp.sum(jnp.square(features_NP.astype(jnp.float32)), axis=1))


def divisors(lengths_N) -> jax.Array:
    """The norms to divide rows by: 1e-10 in place of 0."""
    return jnp.where(lengths_N > 0, lengths_N, 1e-10)


@jax.jit
def unit_rows(features_NP) -> jax.Array:
    """The rows divided by their L2 norm, float32; a zero row stays zero."""
    return features_NP.astype(jnp.float32) / divisors(row_lengths(features_NP))[:, None]


def neighbours(features_NP, E: int) -> tuple[np.ndarray, np.ndarray]:
    """The E most similar rows of each row and their cosines: [N, E] int32, [N, E] float32.

    Exact, self excluded, most similar first, equal similarities by lower index.
    """
    features_NP = jnp.asarray(features_NP)
    rows = len(features_NP)
    if not 1 <= E < rows:
        raise InputError(
            f"graph.neighbours: {E} asked, a pool of {rows} rows has at most {rows - 1} for each"
        )
    unit_NP = unit_rows(features_NP)
    block = min(BLOCK, rows)
    indices_NE = np.empty((rows, E), np.int32)
    similarities_NE = np.empty((rows, E), np.float32)
    for start in range(0, rows, block):
        start = min(start, rows - block)  # the last block overlaps: one shape, one compilation
        indices_BE, similarities_BE = _most_similar(unit_NP, start, block, E)
        indices_NE[start : start + block] = indices_BE
        similarities_NE[start : start + block] = similarities_BE
    return indices_NE, similarities_NE


@functools.partial(jax.jit, static_argnames=("block", "E"))
def _most_similar(unit_NP, start, block: int, E: int):
    rows_BP = lax.dynamic_slice_in_dim(unit_NP, start, block)
    cosines_BN = jnp.matmul(rows_BP, unit_NP.T, precision=lax.Precision.HIGHEST)
    itself_B = start + jnp.arange(block)
    cosines_BN = cosines_BN.at[jnp.arange(block), itself_B].set(-jnp.inf)
    similarities_BE, indices_BE = lax.top_k(cosines_BN, E)
    return indices_BE.astype(jnp.int32), similarities_BE
