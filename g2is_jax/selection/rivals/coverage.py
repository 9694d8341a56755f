"""Greedy selection of a set that serves the target as a whole: coverage and pursuit, no graph."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import Ledger, Limits, Pick, Selection, spending
from g2is_jax.selection.rivals import influence
from g2is_jax.selection.rivals.influence import (
    similarities,
    unit_blocks,
    unit_rows,
    unit_validation,
)

FIRST, MOST = 64, 4096  # rows whose gain is computed anew at a time: at first, and at most
SIGN_NOISE = 1e-12  # a cosine this close to 0 has no sign worth the name
PRODUCT_NOISE = 1e-6  # error of a float32 product of two unit rows
SCORE_NOISE = 1e-12  # of a cosine in float64


def coverage(features_NP, validation_MP, limits: Limits, no_conflict: bool) -> Selection:
    """Greedy maximum of the sum over validation rows v of sqrt(sum over chosen j of
    max(0, cos(j, v))): a target row that is served already counts less and less.

    Each step takes the row that adds most, equal ones by lower index; exact, because a gain never
    grows as rows are added, so that old gains are bounds (lazy greedy). With no_conflict a row
    whose cosine to a chosen row is negative is taken only when no other that fits is left. A pick's
    score is its gain, its component the validation row where it adds most (-1 where it adds
    nothing, then no cos_component).
    """
    units_MP = unit_validation(features_NP, validation_MP, limits)
    served_NM = np.maximum(similarities(features_NP, units_MP).T, 0, order="C")
    covered_M = np.zeros(len(units_MP))
    bounds_N = _first_bounds(served_NM)
    ledger, conflicts = Ledger(limits), _Conflicts(features_NP, np.zeros(len(bounds_N), bool))
    picks: list[Pick] = []
    while (fits_N := ledger.fitting()).any():
        free_N = fits_N & ~conflicts.opposed_N
        opposed = not free_N.any()
        row = _largest_gain(fits_N if opposed else free_N, bounds_N, served_NM, covered_M)
        if no_conflict and not opposed:
            if conflicts.opposes(row):
                conflicts.sweep(row, free_N)
                continue
            conflicts.add(row)
        ledger.take(row)
        reason = "adds most to the coverage" + (", in conflict" if opposed else "")
        picks.append(_coverage_pick(row, len(picks), reason, served_NM[row], covered_M))
        covered_M += served_NM[row]
    return Selection(tuple(picks), spending(limits, picks))


def _coverage_pick(row: int, order: int, reason: str, served_M, covered_M) -> Pick:
    gains_M = np.sqrt(covered_M + served_M) - np.sqrt(covered_M)
    gain, best = float(gains_M.sum()), int(gains_M.argmax())
    if gain == 0:
        return Pick(row, -1, order, reason, gain, None, None, None)
    return Pick(row, best, order, reason, gain, None, float(served_M[best]), None)


def _gains(served_BM, covered_M) -> np.ndarray:
    """What each of these rows would add, [B]."""
    roots_BM = np.sqrt(served_BM + covered_M[None, :])
    roots_BM -= np.sqrt(covered_M)[None, :]
    return roots_BM.sum(axis=1)


def _first_bounds(served_NM) -> np.ndarray:
    nothing_M = np.zeros(served_NM.shape[1])
    starts = range(0, len(served_NM), MOST)
    return np.concatenate([_gains(served_NM[start : start + MOST], nothing_M) for start in starts])


def _largest_gain(open_N, bounds_N, served_NM, covered_M) -> int:
    """The open row that adds most, equal ones by lower index. Tightens the bounds it looks at."""
    stale_N = np.where(open_N, bounds_N, -1.0)
    best, gain, size = int(stale_N.argmax()), -0.5, FIRST
    if stale_N[best] == 0:  # nothing adds anything: argmax gave the lowest index
        return best
    while True:
        rows = np.flatnonzero(stale_N >= max(gain, 0))
        if len(rows) == 0:
            return best
        if len(rows) > size:
            rows = rows[np.argpartition(-stale_N[rows], size)[:size]]
        bounds_N[rows] = fresh = _gains(served_NM[rows], covered_M)
        stale_N[rows] = -1
        top = int(rows[fresh == fresh.max()].min())
        if (fresh.max(), -top) > (gain, -best):
            best, gain = top, float(fresh.max())
        size = min(2 * size, MOST)


@dataclass
class _Conflicts:
    """Which rows oppose a chosen row, found out only as far as it is asked.

    opposed_N marks rows known to be in conflict, once and for all. `recent` holds the chosen unit
    rows that the last sweep did not know.
    """

    features_NP: Any
    opposed_N: np.ndarray
    recent: list[np.ndarray] = field(default_factory=list)

    def add(self, row: int) -> None:
        """Takes note of a chosen row."""
        self.recent.append(_unit_row(self.features_NP, row))

    def opposes(self, row: int) -> bool:
        """Whether this row, not opposed when the last sweep was made, is in conflict now."""
        own_P = _unit_row(self.features_NP, row)
        return any(chosen_P @ own_P < -SIGN_NOISE for chosen_P in self.recent)

    def sweep(self, row: int, free_N) -> None:
        """Marks the free rows that are in conflict, and this one, which is known to be."""
        recent_KP = np.stack(self.recent)
        for start in np.unique(np.flatnonzero(free_N) // influence.BLOCK) * influence.BLOCK:
            block = slice(int(start), int(start) + influence.BLOCK)
            cosines_BK = unit_rows(self.features_NP[block]) @ recent_KP.T
            self.opposed_N[block] |= (cosines_BK < -SIGN_NOISE).any(axis=1)
        self.opposed_N[row] = True
        self.recent.clear()


def pursuit(features_NP, validation_MP, limits: Limits) -> Selection:
    """Greedy: each step takes the row that brings the direction of the chosen rows' sum closest to
    the mean of the unit validation rows. Equal cosines by lower index.

    One read of the features a step, in float32; rows that its rounding cannot tell from the best
    are compared again in float64. A pick's score is the cosine of the sum with the row in it, its
    component 0 (there is one direction), cos_component its own cosine to the mean.
    """
    mean_P = unit_validation(features_NP, validation_MP, limits).mean(axis=0)
    length = np.linalg.norm(mean_P)
    if length < SIGN_NOISE:
        raise InputError("pursuit: the validation rows cancel out, so their mean has no direction")
    target_P = mean_P / length
    rows = _read(features_NP, target_P)
    sum_P, along_N = np.zeros(len(target_P)), np.zeros(len(rows.towards_N))
    ledger = Ledger(limits)
    picks: list[Pick] = []
    while (fits_N := ledger.fitting()).any():
        noise = PRODUCT_NOISE * len(picks)
        close = _close_to_best(rows, fits_N, sum_P @ target_P, sum_P @ sum_P, along_N, noise)
        # From the lowest index up, max keeps the first of equals.
        exact = [_cosine(sum_P + _unit_row(features_NP, row), target_P) for row in close]
        best = int(np.argmax(exact))
        row, cosine = int(close[best]), float(rows.towards_N[close[best]])
        ledger.take(row)
        reason = "brings the sum closest to the target"
        picks.append(Pick(row, 0, len(picks), reason, exact[best], None, cosine, None))
        own_P = _unit_row(features_NP, row)
        sum_P += own_P
        along_N += rows.inverse_N * _products(features_NP, own_P)
    return Selection(tuple(picks), spending(limits, picks))


@dataclass(frozen=True, eq=False)
class _Rows:
    """What pursuit keeps of the pool rows: cosine to the target, 1 / length, unit length squared.

    A zero row has 0 for all three.
    """

    towards_N: np.ndarray
    inverse_N: np.ndarray
    squares_N: np.ndarray


def _read(features_NP, target_P) -> _Rows:
    towards_N, inverse_N = np.zeros(len(features_NP)), np.zeros(len(features_NP))
    for block, units_BP in unit_blocks(features_NP):
        towards_N[block] = units_BP @ target_P
        lengths_B = np.linalg.norm(np.asarray(features_NP[block], np.float64), axis=1)
        inverse_N[block] = (lengths_B > 0) / np.where(lengths_B > 0, lengths_B, 1)
    return _Rows(towards_N, inverse_N, (inverse_N > 0).astype(np.float64))


def _close_to_best(rows: _Rows, fits_N, along, square, along_N, noise: float) -> np.ndarray:
    """The fitting rows that may be the best when their products along_N with the sum are only
    known to +- noise; ascending."""
    squares_N = np.maximum(square + 2 * along_N + rows.squares_N, 1e-20)
    scores_N = (along + rows.towards_N) / np.sqrt(squares_N)
    slack_N = np.abs(scores_N) * noise / squares_N + SCORE_NOISE
    lowest = (scores_N - slack_N)[fits_N].max()
    return np.flatnonzero(fits_N & (scores_N + slack_N >= lowest))


def _products(features_NP, own_P) -> np.ndarray:
    """Products of all pool rows with one, in float32: no copy is made of a float32 matrix."""
    products_N = np.empty(len(features_NP), np.float32)
    for start in range(0, len(products_N), influence.BLOCK):
        block = slice(start, start + influence.BLOCK)
        products_N[block] = np.asarray(features_NP[block], np.float32) @ own_P.astype(np.float32)
    return products_N


def _unit_row(features_NP, row: int) -> np.ndarray:
    return unit_rows(features_NP[row : row + 1])[0]


def _cosine(sum_P, target_P) -> float:
    return float(sum_P @ target_P / max(np.linalg.norm(sum_P), 1e-10))
