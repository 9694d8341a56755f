"""Core knowledge: the principal directions of the validation features, with their weights."""

import math
from dataclasses import dataclass

import numpy as np

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.selection import decimal, round_half_up

SIGNS = ("svd", "mean")
KEEPS = ("variance", "count", "ratio")
ZERO_VARIANCE = 1e-12  # of the largest; what the rounding of a float64 Gram matrix leaves


@dataclass(frozen=True)
class KnowledgeConfig:
    """How the core directions are made.

    center      subtract the mean validation feature first (PCA proper)
    sign        `svd`: the entry of largest magnitude is positive; `mean`: the inner product with
                the mean of the uncentred validation features is positive
    keep        `variance`: the fewest components whose cumulative explained variance exceeds
                keep_value; `count`: keep_value components; `ratio`: keep_value of the rank,
                rounded half up, at least 1
    keep_value  (0, 1], a whole number from 1, (0, 1]
    unit_rows   L2-normalise the validation rows first
    """

    center: bool
    sign: str
    keep: str
    keep_value: float
    unit_rows: bool

    def __post_init__(self):
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
    """Core directions in order of decreasing variance.

    core_CP      float32 unit rows, those kept
    weights_C    their explained variance, normalised to sum 1
    explained_C  explained-variance ratio of all min(M, P) components, kept or not
    """

    core_CP: np.ndarray
    weights_C: np.ndarray
    explained_C: np.ndarray


def core_knowledge(features_MP, config: KnowledgeConfig) -> Core:
    """PCA of the validation features, in float64.

    "Explained variance" is the squared singular value over their sum, uncentred too. A component
    without variance is never kept: centred, at most min(M - 1, P) have any, so one validation row
    alone has none (scikit-learn would return a 0/0 there) and is refused with the way out.
    """
    rows_MP = np.asarray(features_MP, np.float64)
    if rows_MP.ndim != 2 or 0 in rows_MP.shape:
        raise InputError(f"validation features of shape {rows_MP.shape}: need [M, P], M >= 1")
    if not np.isfinite(rows_MP).all():
        row = int(np.argmin(np.isfinite(rows_MP).all(axis=1)))
        raise InputError(f"validation row {row} has a feature that is not finite")
    if config.unit_rows:
        lengths_M1 = np.linalg.norm(rows_MP, axis=1, keepdims=True)
        rows_MP = rows_MP / np.where(lengths_M1 > 0, lengths_M1, 1e-10)
    mean_P = rows_MP.mean(axis=0)
    energy = np.square(rows_MP).sum()
    if config.center:
        rows_MP = rows_MP - mean_P
    variances_C, directions_CP = principal_directions(rows_MP)
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
    core_CP = directions_CP[:kept]
    signs_C1 = _signs(core_CP, mean_P, config.sign)[:, None]
    weights_C = explained_C[:kept] / explained_C[:kept].sum()
    return Core((core_CP * signs_C1).astype(np.float32), weights_C, explained_C)


def principal_directions(rows_MP) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values [C] and right singular vectors [C, P], largest first; C = min(M, P).

    By the eigenvectors of the smaller of X X^T [M, M] and X^T X [P, P]. A vector whose squared
    singular value is numerically zero has no meaning.
    """
    rows, width = rows_MP.shape
    if rows > width:
        values_C, vectors_PC = np.linalg.eigh(rows_MP.T @ rows_MP)
        return np.maximum(values_C[::-1], 0), vectors_PC.T[::-1]
    values_C, vectors_MC = np.linalg.eigh(rows_MP @ rows_MP.T)
    directions_CP = vectors_MC.T[::-1] @ rows_MP
    lengths_C1 = np.linalg.norm(directions_CP, axis=1, keepdims=True)
    return np.maximum(values_C[::-1], 0), directions_CP / np.where(lengths_C1 > 0, lengths_C1, 1)


def _kept(explained_C, rank: int, config: KnowledgeConfig) -> int:
    if config.keep == "variance":
        # scikit-learn's rule for a float n_components: side="right" makes it exceed, not reach.
        fewest = int(np.searchsorted(np.cumsum(explained_C), config.keep_value, side="right")) + 1
        return min(fewest, rank)
    if config.keep == "ratio":
        return max(1, round_half_up(decimal(config.keep_value) * rank))
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
