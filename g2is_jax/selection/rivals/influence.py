"""Selection by similarity to validation rows, no graph: LESS (Xia et al. 2024), GIST (Min et al.
2026), RDS+ (Ivison et al. 2025), round-robin and equal shares.

Features may be an array, or anything with `len()`, `.shape` and `[slice]` to rows that
`np.asarray` can convert: they are read in blocks, so a compressed matrix is never held whole.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import (
    Ledger,
    Limits,
    Pick,
    Selection,
    largest_remainder,
    spending,
    take_in_order,
)

BLOCK = 1024  # pool rows that are held in float64 at a time
NOTHING = 1e-7  # share of a row's length that float32 features cannot tell from none


def less(features_NP, validation_MP, subtasks_M, limits: Limits) -> Selection:
    """Rows with the largest influence on any subtask: cosine, mean inside a subtask, maximum over
    subtasks, then from the top of that ranking. Equal rows by lower index.

    subtasks_M holds any labels. A pick's component is the winning subtask's place among the
    sorted labels. Several checkpoints: lay their unit features side by side, each times the root of
    its weight.
    """
    units_MP = unit_validation(features_NP, validation_MP, limits)
    # The mean of the cosines to a subtask's rows is the product with the mean of its unit rows.
    influence_SN = similarities(features_NP, _subtask_means(units_MP, subtasks_M))
    return _from_the_top(influence_SN, limits, "largest influence on a subtask")


def gist(features_NP, validation_MP, subtasks_M, rank: int, limits: Limits) -> Selection:
    """`less` inside the validation gradients' own subspace: largest cosine to any subtask's mean,
    both projected on the first `rank` right singular vectors of the validation rows, uncentred.

    Equal rows by lower index. A pick's component is the subtask, as in `less`. The summary says
    how many directions were used (no more than the validation rows span) and the share of their
    squared length these hold. A row with nothing in the subspace has cosine 0.

    As in the released code: SGD gradients on both sides, subtask means of rows that keep their own
    lengths (so give validation rows with their norms), cosine, maximum, top of the ranking, and a
    rank that is set by hand for each task (its README: 9, its scripts: 50, its default: 150).
    Differs from the released code: there the subspace is cut out of full gradients, here out of
    whatever features are given; and a validation set that its subtasks do not divide evenly is
    grouped all the same.
    """
    if rank < 1:
        raise InputError(f"gist: a rank of {rank} leaves no direction; it must be 1 or more")
    unit_validation(features_NP, validation_MP, limits)
    rows_MP = np.asarray(validation_MP[:], np.float64)
    _, lengths_C, directions_CP = np.linalg.svd(rows_MP, full_matrices=False)
    spanned = int((lengths_C > NOTHING * lengths_C[0]).sum())
    if spanned == 0:
        raise InputError("gist: every validation row is zero, so they span no subspace")
    basis_CP = directions_CP[: min(rank, spanned)]
    means_SC = unit_rows(_subtask_means(rows_MP @ basis_CP.T, subtasks_M))
    alignment_SN = np.empty((len(means_SC), len(features_NP)), np.float32)
    for block, units_BP in unit_blocks(features_NP):
        inside_BC = units_BP @ basis_CP.T
        inside_BC[np.linalg.norm(inside_BC, axis=1) < NOTHING] = 0
        alignment_SN[:, block] = means_SC @ unit_rows(inside_BC).T
    selection = _from_the_top(alignment_SN, limits, "largest cosine to a subtask in its subspace")
    held = float((lengths_C[: len(basis_CP)] ** 2).sum() / (lengths_C**2).sum())
    found = {"directions": len(basis_CP), "directions_hold": held}
    return dataclasses.replace(selection, summary={**selection.summary, **found})


def less_rr(features_NP, validation_MP, limits: Limits) -> Selection:
    """Round-robin: validation rows in file order, each taking its most similar row that is unused
    and fits the limits, again and again. Equal similarities by lower index.

    A pick's component is the validation row that took it.
    """
    cosines_MN = similarities(features_NP, unit_validation(features_NP, validation_MP, limits))
    ledger = Ledger(limits)
    picks: list[Pick] = []
    while (fits_N := ledger.fitting()).any():
        turn = len(picks) % len(cosines_MN)
        row = int(np.where(fits_N, cosines_MN[turn], -np.inf).argmax())
        ledger.take(row)
        picks.append(_pick(row, turn, len(picks), cosines_MN, "most similar to a validation row"))
    return Selection(tuple(picks), spending(limits, picks))


def rds_plus(hidden_ND, validation_MD, limits: Limits) -> Selection:
    """Round-robin by cosine of position-weighted mean hidden states: validation rows in file order,
    each looking at the next row of its own ranking, and taking it if it is unused.

    As in the released code, and unlike `less_rr`, a turn that meets a used row is lost: the
    validation rows that agree with each other take fewer. Rows that do not fit the limits are
    passed over without losing the turn. Equal similarities by lower index. A pick's component is
    the validation row that took it.
    """
    cosines_MN = similarities(hidden_ND, unit_validation(hidden_ND, validation_MD, limits))
    rankings = [np.argsort(-own_N, kind="stable").astype(np.int32) for own_N in cosines_MN]
    places_M = [0] * len(rankings)
    ledger = Ledger(limits)
    picks: list[Pick] = []
    turn = 0
    while ledger.fitting().any():
        taken = len(picks)
        while len(picks) == taken:
            row = _next(rankings[turn], places_M, turn, ledger)
            if row is not None and ledger.fits(row):
                ledger.take(row)
                reason = "next in a validation row's ranking"
                picks.append(_pick(row, turn, len(picks), cosines_MN, reason))
            turn = (turn + 1) % len(rankings)
    return Selection(tuple(picks), spending(limits, picks))


def knn_uniform(features_NP, validation_MP, limits: Limits) -> Selection:
    """The budget in equal shares (by largest remainder) for the validation rows: in file order,
    each spends its share on the most similar rows that are unused and fit the limits.

    A share is up when the total spent reaches the sum of the shares so far, so what a long row
    takes too much is made up for by the next share, and the whole budget is spent. Equal
    similarities by lower index. A pick's component is the validation row that took it.
    """
    cosines_MN = similarities(features_NP, unit_validation(features_NP, validation_MP, limits))
    shares_M = largest_remainder(limits.budget, np.ones(len(cosines_MN)))
    ledger = Ledger(limits)
    picks: list[Pick] = []
    for own, until in enumerate(np.cumsum(shares_M)):
        while limits.budget - ledger.remaining < until and (fits_N := ledger.fitting()).any():
            row = int(np.where(fits_N, cosines_MN[own], -np.inf).argmax())
            ledger.take(row)
            picks.append(_pick(row, own, len(picks), cosines_MN, "near to a validation row"))
    return Selection(tuple(picks), spending(limits, picks))


def similarities(features_NP, directions_DP) -> np.ndarray:
    """Products of the unit pool rows with D directions, [D, N] float32.

    Multiplied in float64 in blocks of rows and rounded once, so that exact duplicates tie.
    """
    similarities_DN = np.empty((len(directions_DP), len(features_NP)), np.float32)
    for block, units_BP in unit_blocks(features_NP):
        similarities_DN[:, block] = directions_DP @ units_BP.T
    return similarities_DN


def unit_blocks(features_NP) -> Iterator[tuple[slice, np.ndarray]]:
    """Where each block of pool rows lies, and its rows in float64 at unit length (zero rows stay).

    InputError names the first row that holds a NaN or an infinity.
    """
    for start in range(0, len(features_NP), BLOCK):
        block = slice(start, min(start + BLOCK, len(features_NP)))
        rows_BP = np.asarray(features_NP[block], np.float64)
        _check_finite(rows_BP, "pool row", start)
        yield block, unit_rows(rows_BP)


def unit_rows(rows) -> np.ndarray:
    """The rows in float64 at unit length; zero rows stay zero."""
    rows = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1e-10)


def unit_validation(features_NP, validation_MP, limits: Limits) -> np.ndarray:
    """The validation rows in float64 at unit length, once they are known to fit the pool."""
    if features_NP.shape[1] != validation_MP.shape[1]:
        raise InputError(
            f"pool features are {features_NP.shape[1]} wide, validation features"
            f" {validation_MP.shape[1]}; extract both with the same projection"
        )
    if len(validation_MP) == 0:
        raise InputError("no validation row; influence needs at least one")
    if len(features_NP) != len(limits.costs_N):
        raise ValueError(f"limits of {len(limits.costs_N)} rows, features of {len(features_NP)}")
    rows_MP = np.asarray(validation_MP[:], np.float64)
    _check_finite(rows_MP, "validation row", 0)
    return unit_rows(rows_MP)


def _from_the_top(scores_SN, limits: Limits, reason: str) -> Selection:
    """Best subtask first, then down the ranking of rows."""
    scores_N, winners_N = scores_SN.max(axis=0), scores_SN.argmax(axis=0)
    order_N = np.argsort(-scores_N, kind="stable")
    return take_in_order(order_N, scores_N, limits, reason, winners_N)


def _subtask_means(rows_MP, subtasks_M) -> np.ndarray:
    labels, codes_M = np.unique(np.asarray(subtasks_M), return_inverse=True)
    if len(codes_M) != len(rows_MP):
        raise ValueError(f"{len(codes_M)} subtask labels for {len(rows_MP)} validation rows")
    return np.stack([rows_MP[codes_M == code].mean(axis=0) for code in range(len(labels))])


def _next(ranking_N, places_M: list[int], turn: int, ledger: Ledger) -> int | None:
    """The next row of a ranking that is used or fits; moves the place in the ranking behind it."""
    while places_M[turn] < len(ranking_N):
        row = int(ranking_N[places_M[turn]])
        places_M[turn] += 1
        if not ledger.open_N[row] or ledger.fits(row):
            return row
    return None


def _pick(row: int, own: int, order: int, cosines_MN, reason: str) -> Pick:
    cosine = float(cosines_MN[own, row])
    return Pick(row, own, order, reason, cosine, None, cosine, None)


def _check_finite(rows_BP, name: str, start: int) -> None:
    finite_B = np.isfinite(rows_BP).all(axis=1)
    if not finite_B.all():
        row = start + int(finite_B.argmin())
        raise InputError(f"{name} {row} has a feature that is not finite; drop the row")
