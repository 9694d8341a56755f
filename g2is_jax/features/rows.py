"""Feature rows in memory, in the dtype of the store that they came from: float32, bfloat16 or int8,
which rows of bits are in memory too.

A row is normalised before it is stored. Its former length is kept beside it, for the selectors that
give a longer gradient a larger say.
"""

from collections.abc import Sequence

import jax
import ml_dtypes
import numpy as np

from g2is_jax.features.bits import sign_rows
from g2is_jax.runs.errors import InputError

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
}
BITS = "bits"  # one a value; in memory int8
STORED = (*DTYPES, BITS)  # kinds of rows on disk
LARGEST_INT8 = 127  # the levels of an int8 row, on either side of zero


class Rows:
    """The one type of a feature matrix in memory; slices of it are float32 NumPy arrays.

    values_NP  float32, bfloat16 or int8
    scales_N   float32, for int8 alone: the factor of each row's values
    norms_NK   float32: the factor that gives a row the length it had before it was normalised, for
               each of K checkpoints whose features lie side by side; None for rows that were not
    finite_N   bool: False for a row whose feature or gradient was not finite, which is zero and
               stands for nothing; all True by default
    """

    def __init__(
        self,
        values_NP: np.ndarray | jax.Array,
        scales_N: np.ndarray | None = None,
        norms_NK: np.ndarray | None = None,
        finite_N: np.ndarray | None = None,
    ):
        dtype = np.dtype(values_NP.dtype)
        if values_NP.ndim != 2 or dtype not in DTYPES.values():
            raise ValueError(f"rows must be [N, P] of {', '.join(DTYPES)}, not {dtype}")
        count = values_NP.shape[0]
        if (scales_N is not None) != (dtype == np.int8):
            raise ValueError(f"int8 rows have scales and no others have; these are {dtype}")
        if scales_N is not None and scales_N.shape != (count,):
            raise ValueError(f"{count} rows, scales of shape {scales_N.shape}")
        if norms_NK is not None and (norms_NK.ndim != 2 or len(norms_NK) != count):
            raise ValueError(f"{count} rows, norms of shape {norms_NK.shape}")
        self.values_NP, self.scales_N, self.norms_NK = values_NP, scales_N, norms_NK
        self.finite_N = np.ones(count, bool) if finite_N is None else finite_N

    def __len__(self) -> int:
        return self.values_NP.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (N, P)."""
        return self.values_NP.shape

    def __getitem__(self, chosen) -> np.ndarray:
        """The rows of a slice, of indices or of a mask, [B, P] in float32."""
        values_BP = np.asarray(self.values_NP[chosen]).astype(np.float32)
        if self.scales_N is None:
            return values_BP
        return values_BP * np.asarray(self.scales_N, np.float32)[chosen][..., None]

    @property
    def on_disk(self) -> bool:
        """True if the values are not in memory."""
        return isinstance(self.values_NP, np.memmap)

    def take(self, chosen_N: np.ndarray) -> "Rows":
        """The rows of indices or of a mask, as rows of their own."""
        return Rows(
            self.values_NP[chosen_N],
            None if self.scales_N is None else self.scales_N[chosen_N],
            None if self.norms_NK is None else self.norms_NK[chosen_N],
            self.finite_N[chosen_N],
        )

    def freeze(self) -> None:
        """Makes the arrays read-only."""
        for array in (self.values_NP, self.scales_N, self.norms_NK, self.finite_N):
            if isinstance(array, np.ndarray):
                array.setflags(write=False)

    def at_former_length(self) -> np.ndarray:
        """All rows at the length they had before they were normalised, [N, P] in float32."""
        if self.norms_NK is None:
            return self[:]
        parts_NKP = self[:].reshape(*self.norms_NK.shape, -1)
        return (parts_NKP * self.norms_NK[:, :, None]).reshape(self.shape)


class Cosines(Rows):
    """The cosines of N pool rows to M validation rows, [N, M], as rows that are not normalised.

    With `axes` as the validation rows, products are the cosines themselves.
    """


def axes(count: int) -> Rows:
    """The validation rows that cosines are to: unit vectors."""
    return Rows(np.eye(count, dtype=np.float32))


def as_rows(features_NP) -> Rows:
    """The matrix as `Rows`; an array of any type but bfloat16 is converted to float32."""
    if isinstance(features_NP, Rows):
        return features_NP
    if not isinstance(features_NP, jax.Array):
        features_NP = np.asarray(features_NP)
    if np.dtype(features_NP.dtype) != DTYPES["bfloat16"]:
        features_NP = features_NP.astype(np.float32, copy=False)
    return Rows(features_NP)


def one_below_the_other(parts: Sequence[Rows]) -> Rows:
    """Joins rows of one width and dtype, as those of several files, [M1 + M2 + ..., P]."""
    if len(parts) == 1:
        return parts[0]

    def joined(name: str) -> np.ndarray | None:
        known = [array for part in parts if (array := getattr(part, name)) is not None]
        return np.concatenate(known) if len(known) == len(parts) else None

    values_MP = np.concatenate([part.values_NP for part in parts])
    return Rows(values_MP, joined("scales_N"), joined("norms_NK"), joined("finite_N"))


def side_by_side(checkpoints: Sequence[Rows], weights: Sequence[float]) -> Rows:
    """Joins checkpoints into rows whose cosines are the weighted means of theirs (LESS): the unit
    rows of K checkpoints side by side, [N, K P], each times the root of its checkpoint's weight.

    A row is finite where it is so at every checkpoint.
    """
    parts = [weight**0.5 * rows[:] for weight, rows in zip(weights, checkpoints, strict=True)]
    norms_NK, finite_N = of_checkpoints([(rows.norms_NK, rows.finite_N) for rows in checkpoints])
    return Rows(np.concatenate(parts, axis=1), norms_NK=norms_NK, finite_N=finite_N)


def of_checkpoints(
    parts: Sequence[tuple[np.ndarray | None, np.ndarray]],
) -> tuple[np.ndarray | None, np.ndarray]:
    """The norms_NK and finite_N of checkpoints side by side, from those of each: all know their
    rows' lengths, or none does."""
    norms = [norms_NK for norms_NK, _ in parts if norms_NK is not None]
    if len(norms) not in (0, len(parts)):
        raise ValueError(f"{len(norms)} of {len(parts)} checkpoints know their rows' lengths")
    norms_NK = np.concatenate(norms, axis=1) if norms else None
    return norms_NK, np.logical_and.reduce([finite_N for _, finite_N in parts])


def quantised(features_NP: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Float rows as one of STORED has them in memory, and the float32 scales_N of int8 rows.

    An int8 row is round(row / scale) with scale = max |row| / 127; one of bits is the signs of the
    rotated row, and has length 1, or 0 where the row is zero.
    """
    if dtype == BITS:
        signs_NP = sign_rows(features_NP)
        has_length_N = features_NP.any(axis=1)
        return signs_NP, (has_length_N * signs_NP.shape[1] ** -0.5).astype(np.float32)
    if dtype != "int8":
        return features_NP.astype(DTYPES[dtype]), None
    scales_N = (np.abs(features_NP).max(axis=1) / LARGEST_INT8).astype(np.float32)
    return np.rint(features_NP / divisors(scales_N)[:, None]).astype(np.int8), scales_N


def dtype_in_memory(stored: str) -> np.dtype:
    """The dtype of one of STORED in memory."""
    return DTYPES["int8" if stored == BITS else stored]


def unit_length(rows_NP: np.ndarray) -> np.ndarray:
    """The rows at length 1, in their own dtype; a zero row stays zero."""
    return rows_NP / divisors(np.linalg.norm(rows_NP, axis=1, keepdims=True))


def check_width(pool_width: int, validation_width: int) -> None:
    """Raises InputError unless pool and validation features have the same width."""
    if pool_width != validation_width:
        raise InputError(
            f"pool features are {pool_width} wide, validation features {validation_width};"
            " extract both with the same projection"
        )


def check_finite(finite_B, name: str, start: int = 0) -> None:
    """Raises InputError with the number of the first row that is marked as not finite.

    name: what the message calls a row, such as `pool row`. start: the number of the first of them.
    """
    if not finite_B.all():
        row = start + int(finite_B.argmin())
        raise InputError(f"{name} {row} has a feature that is not finite; drop the row")


def divisors(lengths):
    """Row lengths to divide by, in NumPy or JAX: 1 for a zero row, so that it stays zero."""
    return lengths + (lengths == 0)
