"""The paper's walk on a stored graph in plain NumPy: the other side of the benchmark of the walk.

All cosines of the pool in one matrix product first; then each step goes down the rows sorted by
their cosine to the last one until a row keeps the rules. It shares no code with the walk, and holds
the N x N cosines and one copy of the features.
"""

from collections.abc import Callable

import numpy as np

EQUAL = 1e-6  # similarities that differ by less are equal, and the lower index comes first


def plain_walk(features_NP, core_CP, budgets_C, delta: float, near_NE=None) -> list[int]:
    """Returns rows in the order they are chosen; without a valid row the budget stays unspent.

    features_NP are float32 unit rows, budgets_C the rows to choose for each unit direction, near_NE
    the neighbours of each row; without them all rows are.
    """
    lengths_N = np.sqrt(np.einsum("np,np->n", features_NP, features_NP))  # no square of them all
    units_NP = features_NP / np.where(lengths_N > 0, lengths_N, 1)[:, None]
    cosines_NN = units_NP @ units_NP.T  # of a matrix and itself: one triangle, copied in place
    used_N = np.zeros(len(units_NP), bool)
    chosen: list[int] = []
    for core_P, budget in zip(np.asarray(core_CP), budgets_C, strict=True):
        chosen += _one_walk(cosines_NN, near_NE, units_NP, core_P, budget, delta, used_N)
    return chosen


def _one_walk(
    cosines_NN, near_NE, units_NP, core_P, budget: int, delta: float, used_N
) -> list[int]:
    core_N = units_NP @ core_P
    by_core_N = np.argsort(-core_N, kind="stable")
    conflict_N = np.zeros(len(units_NP), bool)
    sum_P = np.zeros(len(core_P), units_NP.dtype)
    rows: list[int] = []

    def valid(j: int) -> bool:
        if used_N[j] or conflict_N[j]:
            return False
        return not rows or _along(sum_P + units_NP[j], core_P) >= needed - EQUAL

    while len(rows) < budget:
        needed = delta * _along(sum_P, core_P) if rows else 0.0
        row = None
        if rows:
            cosines_N = cosines_NN[rows[-1]]
            row = _first(_by_cosine(cosines_N, near_NE, rows[-1]), cosines_N, valid)
        if row is None:
            row = _first(by_core_N, core_N, valid)
        if row is None:
            break
        rows.append(row)
        used_N[row] = True
        conflict_N |= cosines_NN[row] < -EQUAL
        sum_P += units_NP[row]
    return rows


def _by_cosine(cosines_N, near_NE, last: int) -> np.ndarray:
    if near_NE is None:
        return np.argsort(-cosines_N, kind="stable")
    near_E = near_NE[last]
    return near_E[np.argsort(-cosines_N[near_E], kind="stable")]


def _along(sum_P, core_P) -> float:
    return abs(float(sum_P @ core_P)) / max(float(np.linalg.norm(sum_P)), 1e-10)


def _first(order_N, scores_N, valid: Callable[[int], bool]) -> int | None:
    """The best valid row; of equal ones that of the lowest index."""
    best, lowest = None, 0.0
    for j in order_N.tolist():
        if best is not None and scores_N[j] < lowest:
            break
        if valid(j) and (best is None or j < best):
            lowest = scores_N[j] - EQUAL if best is None else lowest
            best = j
    return best
