"""A feature matrix of another program, in memory for a selection and checked row by row."""

from dataclasses import dataclass

import numpy as np
from etils import epath

from g2is_jax.features.exchange import open_matrix
from g2is_jax.features.store import SETTINGS, open_store
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import aligned_array

BLOCK = 1024  # rows that are checked at a time


@dataclass(frozen=True)
class Given:
    """A matrix as it was given, and what its file says of each row (None where it says nothing).

    values_NP: of a store as they lie in it, and of int8 the scales_N that multiply them; else
    float32. Zero where finite_N is False, which the file itself said of the row.
    factors_N: lead to the lengths that its rows had before they were normalised.
    rows_N: their numbers in the file they came from. tokens_N: their supervised tokens.
    """

    source: epath.Path
    values_NP: np.ndarray
    scales_N: np.ndarray | None
    factors_N: np.ndarray | None
    finite_N: np.ndarray
    rows_N: np.ndarray | None
    tokens_N: np.ndarray | None

    @property
    def features_NP(self) -> np.ndarray:
        """The rows in float32."""
        values_NP = np.asarray(self.values_NP, np.float32)
        return values_NP if self.scales_N is None else values_NP * self.scales_N[:, None]

    @property
    def unnormalised_NP(self) -> np.ndarray:
        """The rows at the length they had before they were normalised."""
        if self.factors_N is None:
            return self.features_NP
        return self.features_NP * self.factors_N[:, None]


def read_given(source: epath.Path) -> Given:
    """Read a .npy, .safetensors or .pt file, or a store, for a selection.

    InputError names the shape that is not a matrix, or the first row that is not finite.
    """
    if source.is_dir():
        return _given_store(source)
    matrix = open_matrix(source)
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
    factors_N = None
    if "norms" in known:
        divisors_N = np.where(finite_N & (lengths_N > 0), lengths_N, 1)
        factors_N = np.where(finite_N, known["norms"], 0) / divisors_N
        _check_finite(factors_N, source)
        factors_N = factors_N.astype(np.float32)
    return Given(
        source, features_NP, None, factors_N, finite_N, known.get("rows"), known.get("tokens")
    )


def _given_store(source: epath.Path) -> Given:
    if not (source / SETTINGS).exists():
        raise InputError(f"{source}: no {SETTINGS} here; give a store, or a file of features")
    store = open_store(source)
    return Given(
        source, *store.stored(), store.norms_N, store.finite_N, store.rows_N, store.tokens_N
    )


def _check_finite(lengths_N: np.ndarray, source: epath.Path) -> None:
    """InputError where the length of a row is not finite, in float32."""
    odd_N = ~(lengths_N <= np.finfo(np.float32).max)
    if odd_N.any():
        raise InputError(
            f"{source}: row {int(odd_N.argmax())} is not finite ({int(odd_N.sum())} of "
            f"{len(odd_N)} rows are not); mend or drop it on both sides"
        )
