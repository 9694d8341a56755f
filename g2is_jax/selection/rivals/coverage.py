"""Greedy coverage: a set of rows that serves every validation row, none of them alone."""

import numpy as np

from g2is_jax.selection.budget import Ledger, Limits, Pick, Selection, spending
from g2is_jax.selection.rivals.similarity import similarities, unit_validation

FIRST, MOST = 64, 4096  # rows whose gain is computed anew at a time: at first, and at most


def coverage(features_NP, validation_MP, limits: Limits) -> Selection:
    """Maximises greedily the sum over validation rows v of sqrt(sum over chosen j of
    max(0, cos(j, v))): a target row that is served already counts less and less.

    Each step takes the row that adds most, equal ones by lower index; exact, because a gain never
    grows as rows are added, so that old gains are bounds (lazy greedy). A pick's score is its gain,
    its component the validation row where it adds most (-1 where it adds nothing, then no
    cos_component).
    """
    units_MP = unit_validation(features_NP, validation_MP, limits)
    served_NM = np.maximum(similarities(features_NP, units_MP).T, 0, order="C")
    covered_M = np.zeros(len(units_MP))
    bounds_N = _first_bounds(served_NM)
    ledger = Ledger(limits)
    picks: list[Pick] = []
    while (fits_N := ledger.fitting()).any():
        row = _largest_gain(fits_N, bounds_N, served_NM, covered_M)
        ledger.take(row)
        picks.append(_pick(row, len(picks), served_NM[row], covered_M))
        covered_M += served_NM[row]
    return Selection(tuple(picks), spending(limits, picks))


def _pick(row: int, order: int, served_M, covered_M) -> Pick:
    reason = "adds most to the coverage"
    gains_M = np.sqrt(covered_M + served_M) - np.sqrt(covered_M)
    gain, best = float(gains_M.sum()), int(gains_M.argmax())
    if gain == 0:
        return Pick(row, -1, order, reason, gain, None, None, None)
    return Pick(row, best, order, reason, gain, None, float(served_M[best]), None)


def _gains(served_BM, covered_M) -> np.ndarray:
    """The gain of each of these rows, which is what it would add to the coverage, [B]."""
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
