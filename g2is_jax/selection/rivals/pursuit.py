"""Greedy pursuit: rows whose sum points where the validation rows point."""

from dataclasses import dataclass

import numpy as np

from g2is_jax.features.rows import divisors
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import Ledger, Limits, Pick, Selection, spending
from g2is_jax.selection.rivals import similarity
from g2is_jax.selection.rivals.similarity import unit_blocks, unit_row, unit_validation

NO_DIRECTION = 1e-12  # the length of a mean of unit rows that cancel out
PRODUCT_NOISE = 1e-6  # error of a float32 product of two unit rows
SCORE_NOISE = 1e-12  # of a cosine in float64


def pursuit(features_NP, validation_MP, limits: Limits) -> Selection:
    """Chooses greedily: each step takes the row that brings the chosen rows' sum closest in
    direction to the mean of the unit validation rows. Equal cosines by lower index.

    Each step reads the features once, in float32; rows that its rounding cannot tell from the best
    are compared again in float64. A pick's score is the cosine of the sum with the row in it, its
    component 0 (there is one direction), cos_component its own cosine to the mean.
    """
    mean_P = unit_validation(features_NP, validation_MP, limits).mean(axis=0)
    length = np.linalg.norm(mean_P)
    if length < NO_DIRECTION:
        raise InputError("pursuit: the validation rows cancel out, so their mean has no direction")
    target_P = mean_P / length
    pool = _read(features_NP, target_P)
    sum_P, along_N = np.zeros(len(target_P)), np.zeros(len(pool.towards_N))
    ledger = Ledger(limits)
    picks: list[Pick] = []
    while (fits_N := ledger.fitting()).any():
        noise = PRODUCT_NOISE * len(picks)
        close = _close_to_best(pool, fits_N, sum_P @ target_P, sum_P @ sum_P, along_N, noise)
        # From the lowest index up, max keeps the first of equals.
        exact = [_cosine(sum_P + unit_row(features_NP, row), target_P) for row in close]
        best = int(np.argmax(exact))
        row, cosine = int(close[best]), float(pool.towards_N[close[best]])
        ledger.take(row)
        reason = "brings the sum closest to the target"
        picks.append(Pick(row, 0, len(picks), reason, exact[best], None, cosine, None))
        own_P = unit_row(features_NP, row)
        sum_P += own_P
        along_N += pool.inverse_N * _products(features_NP, own_P)
    return Selection(tuple(picks), spending(limits, picks))


@dataclass(frozen=True, eq=False)
class _Pool:
    """The pool rows' cosines to the target, 1 / their lengths, and their unit lengths squared.

    A zero row has 0 for all three.
    """

    towards_N: np.ndarray
    inverse_N: np.ndarray
    squares_N: np.ndarray


def _read(features_NP, target_P) -> _Pool:
    towards_N, inverse_N = np.zeros(len(features_NP)), np.zeros(len(features_NP))
    for block, units_BP in unit_blocks(features_NP):
        towards_N[block] = units_BP @ target_P
        lengths_B = np.linalg.norm(np.asarray(features_NP[block], np.float64), axis=1)
        inverse_N[block] = (lengths_B > 0) / divisors(lengths_B)
    return _Pool(towards_N, inverse_N, (inverse_N > 0).astype(np.float64))


def _close_to_best(pool: _Pool, fits_N, along, square, along_N, noise: float) -> np.ndarray:
    """The fitting rows that may be the best when their products along_N with the sum are only
    known to +- noise; ascending."""
    squares_N = np.maximum(square + 2 * along_N + pool.squares_N, 1e-20)
    scores_N = (along + pool.towards_N) / np.sqrt(squares_N)
    slack_N = np.abs(scores_N) * noise / squares_N + SCORE_NOISE
    lowest = (scores_N - slack_N)[fits_N].max()
    return np.flatnonzero(fits_N & (scores_N + slack_N >= lowest))


def _products(features_NP, own_P) -> np.ndarray:
    """The products of all pool rows with one row, in float32."""
    products_N = np.empty(len(features_NP), np.float32)
    for start in range(0, len(products_N), similarity.BLOCK):
        block = slice(start, start + similarity.BLOCK)
        products_N[block] = np.asarray(features_NP[block], np.float32) @ own_P.astype(np.float32)
    return products_N


def _cosine(sum_P, target_P) -> float:
    return float(sum_P @ target_P / max(np.linalg.norm(sum_P), 1e-10))
