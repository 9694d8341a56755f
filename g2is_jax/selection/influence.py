"""Selection by influence alone (LESS, Xia et al. 2024): similarity to validation rows, no graph."""

import numpy as np

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.selection import (
    Ledger,
    Limits,
    Pick,
    Selection,
    spending,
    take_in_order,
)

BLOCK = 1024  # pool rows that are held in float64 at a time


def less(features_NP, validation_MP, subtasks_M, limits: Limits) -> Selection:
    """Rows with the largest influence on any subtask: cosine, mean inside a subtask, maximum over
    subtasks, then from the top of that ranking. Equal rows by lower index.

    subtasks_M holds any labels. A pick's component is the winning subtask's place among the
    sorted labels. Several checkpoints: lay their unit features side by side, each times the root of
    its weight.
    """
    units_MP = _unit(_check(features_NP, validation_MP, limits))
    labels, codes_M = np.unique(np.asarray(subtasks_M), return_inverse=True)
    if len(codes_M) != len(units_MP):
        raise ValueError(f"{len(codes_M)} subtask labels for {len(units_MP)} validation rows")
    # The mean of the cosines to a subtask's rows is the product with the mean of its unit rows.
    means_SP = np.stack([units_MP[codes_M == code].mean(axis=0) for code in range(len(labels))])
    influence_SN = similarities(features_NP, means_SP)
    scores_N, winners_N = influence_SN.max(axis=0), influence_SN.argmax(axis=0)
    order_N = np.argsort(-scores_N, kind="stable")
    return take_in_order(order_N, scores_N, limits, "largest influence on a subtask", winners_N)


def less_rr(features_NP, validation_MP, limits: Limits) -> Selection:
    """Round-robin: validation rows in file order, each taking its most similar row that is unused
    and fits the limits, again and again. Equal similarities by lower index.

    A pick's component is the validation row that took it.
    """
    units_MP = _unit(_check(features_NP, validation_MP, limits))
    cosines_MN = similarities(features_NP, units_MP)
    ledger = Ledger(limits)
    picks: list[Pick] = []
    while (fits_N := ledger.fitting()).any():
        turn = len(picks) % len(cosines_MN)
        row = int(np.where(fits_N, cosines_MN[turn], -np.inf).argmax())
        ledger.take(row)
        cosine = float(cosines_MN[turn, row])
        reason = "most similar to a validation row"
        picks.append(Pick(row, turn, len(picks), reason, cosine, None, cosine, None))
    return Selection(tuple(picks), spending(limits, picks))


def similarities(features_NP, directions_DP) -> np.ndarray:
    """Products of the unit pool rows with D directions, [D, N] float32.

    Multiplied in float64 in blocks of rows and rounded once, so that exact duplicates tie.
    """
    similarities_DN = np.empty((len(directions_DP), len(features_NP)), np.float32)
    for start in range(0, len(features_NP), BLOCK):
        block = slice(start, start + BLOCK)
        similarities_DN[:, block] = directions_DP @ _unit(features_NP[block]).T
    return similarities_DN


def _unit(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1e-10)


def _check(features_NP, validation_MP, limits: Limits) -> np.ndarray:
    """The validation rows, once they are known to fit the pool."""
    if features_NP.shape[1] != validation_MP.shape[1]:
        raise InputError(
            f"pool features are {features_NP.shape[1]} wide, validation features"
            f" {validation_MP.shape[1]}; extract both with the same projection"
        )
    if len(validation_MP) == 0:
        raise InputError("no validation row; influence needs at least one")
    if len(features_NP) != len(limits.costs_N):
        raise ValueError(f"limits of {len(limits.costs_N)} rows, features of {len(features_NP)}")
    return validation_MP
