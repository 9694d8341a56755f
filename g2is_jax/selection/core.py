"""Core knowledge: the principal directions of the validation features, with their weights."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from g2is_jax.features.rows import check_finite, divisors, unit_length
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import decimal

SIGNS = ("svd", "mean")
KEEPS = ("variance", "count", "ratio")
ANCHORS = ("components", "rows")
ZERO_VARIANCE = 1e-12  # of the largest; what the rounding of a float64 Gram matrix leaves
SMALLEST_PROJECTION = 1e-6  # of a row's length; a shorter one is rounding
BLOCK = 1024  # rows that are held in float64 at a time


@dataclass(frozen=True)
class KnowledgeConfig:
    """The rules by which the core directions are made.

    center      subtract the mean validation feature first (PCA proper)
    sign        `svd`: the entry of largest magnitude is positive; `mean`: the inner product with
                the mean of the uncentred validation features is positive
    keep        `variance`: the fewest components whose cumulative explained variance exceeds
                keep_value; `count`: keep_value components; `ratio`: keep_value of the rank,
                rounded half up, at least 1
    keep_value  (0, 1], a whole number from 1, (0, 1]
    unit_rows   L2-normalise the validation rows first
    anchors     the directions are the components kept (`components`), or what these explain of each
                validation row (`rows`): its projection on them, which leaves out what no other row
                confirms. The sign of a component does not matter then
    """

    center: bool
    sign: str
    keep: str
    keep_value: float
    unit_rows: bool
    anchors: str

    def __post_init__(self):
        if self.anchors not in ANCHORS:
            raise InputError(f"knowledge.anchors: {self.anchors!r} is none of {', '.join(ANCHORS)}")
        if self.sign not in SIGNS:
            raise InputError(f"knowledge.sign: {self.sign!r} is none of {', '.join(SIGNS)}")
        if self.keep not in KEEPS:
            raise InputError(f"knowledge.keep: {self.keep!r} is none of {', '.join(KEEPS)}")
        if self.keep == "count":
            if not (math.isfinite(self.keep_value) and self.keep_value >= 1) or (
                self.keep_value != int(self.keep_value)
            ):
                raise InputError(
                    f"knowledge.keep_value: {self.keep_value} must be a whole number from 1"
                    " (knowledge.keep is count)"
                )
        elif not 0 < self.keep_value <= 1:
            raise InputError(
                f"knowledge.keep_value: {self.keep_value} must be above 0 and at most 1"
                f" (knowledge.keep is {self.keep})"
            )


@dataclass(frozen=True, eq=False)
class Core:
    """Core directions: components in order of decreasing variance, or one of each validation row.

    core_CP      float32 unit rows; zero for a validation row that the components do not touch
    weights_C    explained variance of the components, normalised to sum 1; equal for validation
                 rows, and 0 for one without a direction
    explained_C  explained-variance ratio of all min(M, P) components, kept or not
    components   how many of these are kept
    """

    core_CP: np.ndarray
    weights_C: np.ndarray
    explained_C: np.ndarray
    components: int

    def summary(self) -> dict:
        """Counts the components kept and those with variance, the share of the variance that is
        explained, and the effective rank: exp of the entropy of the explained-variance ratios (Roy
        and Vetterli 2007), which is n for n equal components."""
        some_C = self.explained_C[self.explained_C > ZERO_VARIANCE]
        return {
            "components": self.components,
            "directions": len(self.weights_C),
            "components_with_variance": len(some_C),
            "explained": float(self.explained_C[: self.components].sum()),
            "effective_rank": float(np.exp(-(some_C * np.log(some_C)).sum())),
        }


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Reads rows [M, P] in float64, block by block; scales and shifts them where asked to."""

    features_MP: Any
    scales_M: np.ndarray | None = None
    shift_P: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.features_MP)

    def blocks(self, stop: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields the blocks of the rows before `stop`, in order."""
        for start in range(0, stop, BLOCK):
            block = slice(start, min(start + BLOCK, stop))
            yield block, self.read(block)

    def read(self, block: slice) -> np.ndarray:
        rows_BP = np.array(self.features_MP[block], np.float64)
        if self.scales_M is not None:
            rows_BP *= self.scales_M[block, None]
        if self.shift_P is not None:
            rows_BP -= self.shift_P
        return rows_BP


def core_knowledge(features_MP, config: KnowledgeConfig) -> Core:
    """Computes the PCA of the validation features, in float64.

    features_MP may be of any float kind, and anything that has a length, a shape and slices of
    rows: 1,024 rows are in memory as float64 at a time, beside a matrix of min(M, P) squared.

    "Explained variance" is the squared singular value over their sum, uncentred too. A component
    without variance is never kept: centred, at most min(M - 1, P) have any, so one validation row
    alone has none (scikit-learn would return a 0/0 there) and is refused with the way out.
    """
    if len(features_MP.shape) != 2 or 0 in features_MP.shape:
        raise InputError(f"validation features of shape {features_MP.shape}: need [M, P], M >= 1")
    scales_M = _scales(features_MP) if config.unit_rows else None
    mean_P, energy = _mean(_Blocks(features_MP, scales_M))
    rows = _Blocks(features_MP, scales_M, mean_P if config.center else None)
    variances_C, vectors = _decomposed(rows)
    # Against the energy before centring: equal rows leave rounding behind, not exact zeros.
    rank = int((variances_C > ZERO_VARIANCE * max(variances_C[0], 1e-12 * energy)).sum())
    if rank == 0:
        raise InputError(
            "the validation rows are all equal, so nothing is left after centring them;"
            " set knowledge.center to false"
            if config.center and energy > 0
            else "the validation features are all zero; check the validation rows"
        )
    explained_C = variances_C / variances_C.sum()
    kept = _kept(explained_C, rank, config)
    core_CP = _directions(rows, vectors[:, :kept])
    if config.anchors == "rows":
        core_MP, weights_M = _projections(rows, core_CP)
        return Core(core_MP, weights_M, explained_C, kept)
    signs_C1 = _signs(core_CP, mean_P, config.sign)[:, None]
    weights_C = explained_C[:kept] / explained_C[:kept].sum()
    return Core((core_CP * signs_C1).astype(np.float32), weights_C, explained_C, kept)


def joined(cores: Sequence[Core]) -> Core:
    """The directions of several targets, one target after another, each with the same share of the
    weight."""
    if len(cores) == 1:
        return cores[0]
    kept = [core.explained_C[: core.components] for core in cores]
    others = [core.explained_C[core.components :] for core in cores]
    return Core(
        np.concatenate([core.core_CP for core in cores]),
        np.concatenate([core.weights_C for core in cores]) / len(cores),
        np.concatenate([*kept, *others]) / len(cores),
        sum(core.components for core in cores),
    )


def _projections(rows: _Blocks, core_CP) -> tuple[np.ndarray, np.ndarray]:
    """The direction of each row's projection on the components, [M, P], and weights [M]."""
    core_MP = np.empty((len(rows), core_CP.shape[1]), np.float32)
    weights_M = np.empty(len(rows))
    for block, rows_BP in rows.blocks(len(rows)):
        coordinates_BC = rows_BP @ core_CP.T
        lengths_B = np.linalg.norm(coordinates_BC, axis=1)
        has_direction_B = lengths_B > SMALLEST_PROJECTION * np.linalg.norm(rows_BP, axis=1)
        divisors_B1 = np.where(has_direction_B, lengths_B, np.inf)[:, None]
        core_MP[block] = (coordinates_BC / divisors_B1) @ core_CP
        weights_M[block] = has_direction_B
    return core_MP, weights_M / weights_M.sum()


def _scales(features_MP) -> np.ndarray:
    """The factors that bring the rows to unit length."""
    lengths_M = np.empty(len(features_MP))
    for block, rows_BP in _Blocks(features_MP).blocks(len(features_MP)):
        lengths_M[block] = np.linalg.norm(rows_BP, axis=1)
    return 1 / divisors(lengths_M)


def _mean(rows: _Blocks) -> tuple[np.ndarray, float]:
    """The mean row, and the sum of all squared values, which must be finite."""
    total_P, energy = np.zeros(rows.features_MP.shape[1]), 0.0
    for block, rows_BP in rows.blocks(len(rows)):
        energies_B = np.einsum("bp,bp->b", rows_BP, rows_BP)
        check_finite(np.isfinite(energies_B), "validation row", block.start)
        total_P += rows_BP.sum(axis=0)
        energy += float(energies_B.sum())
    return total_P / len(rows), energy


def principal_directions(rows_MP) -> tuple[np.ndarray, np.ndarray]:
    """The squared singular values [C] and right singular vectors [C, P], largest first.

    C is min(M, P). They come from the smaller of X X^T [M, M] and X^T X [P, P]. A vector whose
    squared singular value is numerically zero has no meaning.
    """
    rows = _Blocks(rows_MP)
    values_C, vectors = _decomposed(rows)
    return values_C, _directions(rows, vectors)


def _decomposed(rows: _Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [C], largest first, and eigenvectors in columns, [M, C] or [P, C]."""
    count, width = rows.features_MP.shape
    values_C, vectors = np.linalg.eigh(
        _covariance(rows) if count > width else _gram(rows), UPLO="L"
    )
    return np.maximum(values_C[::-1], 0), vectors[:, ::-1]


def _covariance(rows: _Blocks) -> np.ndarray:
    width = rows.features_MP.shape[1]
    total_PP = np.zeros((width, width))
    for _, rows_BP in rows.blocks(len(rows)):
        total_PP += rows_BP.T @ rows_BP
    return total_PP


def _gram(rows: _Blocks) -> np.ndarray:
    """The products of all rows, below the diagonal alone: eigh reads no other."""
    gram_MM = np.zeros((len(rows), len(rows)))
    for block, rows_BP in rows.blocks(len(rows)):
        gram_MM[block, block] = rows_BP @ rows_BP.T
        for other, others_BP in rows.blocks(block.start):
            gram_MM[block, other] = rows_BP @ others_BP.T
    return gram_MM


def _directions(rows: _Blocks, vectors) -> np.ndarray:
    """The right singular vectors, [C, P], from the eigenvectors of the Gram matrix, [M, C], or of
    the covariance, [P, C], which are those vectors already."""
    count, width = rows.features_MP.shape
    if count > width:
        return vectors.T
    directions_CP = np.zeros((vectors.shape[1], width))
    for block, rows_BP in rows.blocks(count):
        directions_CP += vectors[block].T @ rows_BP
    return unit_length(directions_CP)


def _kept(explained_C, rank: int, config: KnowledgeConfig) -> int:
    if config.keep == "variance":
        # scikit-learn's rule for a float n_components: side="right" makes it exceed, not reach.
        fewest = int(np.searchsorted(np.cumsum(explained_C), config.keep_value, side="right")) + 1
        return min(fewest, rank)
    if config.keep == "ratio":
        return max(1, math.floor(decimal(config.keep_value) * rank + Fraction(1, 2)))
    if config.keep_value > rank:
        raise InputError(
            f"knowledge.keep_value: {int(config.keep_value)} components asked, the validation"
            f" features have {rank}; ask for fewer or give more validation rows"
        )
    return int(config.keep_value)


def _signs(core_CP, mean_P, sign: str) -> np.ndarray:
    """+1 or -1 for each direction; `mean` leaves the decision to `svd` where it has none."""
    largest_C = np.abs(core_CP).argmax(axis=1)
    signs_C = np.where(core_CP[np.arange(len(core_CP)), largest_C] < 0, -1.0, 1.0)
    if sign == "svd":
        return signs_C
    along_mean_C = core_CP @ mean_P
    decided_C = np.abs(along_mean_C) > 1e-12 * np.linalg.norm(mean_P)
    return np.where(decided_C, np.sign(along_mean_C), signs_C)
