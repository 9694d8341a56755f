"""A feature matrix of another program, in memory for a selection and checked row by row."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from etils import epath

from g2is_jax.features.exchange import Matrix, open_matrix
from g2is_jax.features.rows import Rows, divisors
from g2is_jax.features.store import SETTINGS, Store, open_store
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import aligned_array

BLOCK = 1024  # rows that are checked at a time


@dataclass(frozen=True)
class OwnMatrix:
    """The rows of a file or a store, and what it says of them (None where it says nothing).

    rows: a store's in its own dtype, a file's in float32; zero where the source itself marks a row
    as not finite. numbers_N: their numbers in the file of instructions that they came from.
    tokens_N: their supervised tokens.
    """

    source: epath.Path
    rows: Rows
    numbers_N: np.ndarray | None
    tokens_N: np.ndarray | None


def read_own(source: epath.Path, rows_of: Callable[[Store], Rows] = Store.read) -> OwnMatrix:
    """Reads a .npy, .safetensors or .pt file, or a store, for a selection.

    rows_of: how a store's rows are read. InputError names the shape that is not a matrix, or the
    first row that is not finite.
    """
    if source.is_dir():
        if not (source / SETTINGS).exists():
            raise InputError(f"{source}: no {SETTINGS} here; give a store, or a file of features")
        store = open_store(source)
        return OwnMatrix(source, rows_of(store), store.rows_N, store.tokens_N)
    matrix = open_matrix(source)
    known = matrix.known
    return OwnMatrix(source, _rows(matrix, source), known.get("rows"), known.get("tokens"))


def _rows(matrix: Matrix, source: epath.Path) -> Rows:
    known, count = matrix.known, matrix.shape[0]
    finite_N = known.get("finite", np.ones(count, np.bool_)).astype(bool)
    features_NP = aligned_array(matrix.shape, np.dtype(np.float32))
    lengths_N = np.empty(count)
    for start in range(0, count, BLOCK):
        block = slice(start, min(start + BLOCK, count))
        with np.errstate(over="ignore", invalid="ignore"):
            features_NP[block] = matrix.read(block)
            features_NP[block][~finite_N[block]] = 0
            lengths_N[block] = np.linalg.norm(features_NP[block].astype(np.float64), axis=1)
    _check_finite(lengths_N, source)
    if "norms" not in known:
        return Rows(features_NP, finite_N=finite_N)
    # Rows that were rounded are not of length 1: what leads to the norm is not the norm itself.
    factors_N = np.where(finite_N, known["norms"], 0) / divisors(lengths_N)
    _check_finite(factors_N, source)
    return Rows(features_NP, None, factors_N.astype(np.float32)[:, None], finite_N)


def _check_finite(lengths_N: np.ndarray, source: epath.Path) -> None:
    """Raises InputError where the length of a row is not finite, in float32."""
    odd_N = ~(lengths_N <= np.finfo(np.float32).max)
    if odd_N.any():
        raise InputError(
            f"{source}: row {int(odd_N.argmax())} is not finite ({int(odd_N.sum())} of "
            f"{len(odd_N)} rows are not); mend or drop it on both sides"
        )
