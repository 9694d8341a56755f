"""Cosines of pool rows to validation rows, for the selectors without a graph.

Features are an array, or anything with `len()`, `.shape` and `[slice]` to rows that `np.asarray`
can convert, such as `Rows`: they are read in blocks, so a compressed matrix is never held whole.
"""

from collections.abc import Iterator

import numpy as np

from g2is_jax.features.rows import Cosines, check_finite, check_width, unit_length
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.processes import joined_columns, process_share
from g2is_jax.selection.budget import Limits, Pick, Selection, take_in_order

BLOCK = 1024  # pool rows that are held in float64 at a time


def similarities(features_NP, directions_LP) -> np.ndarray:
    """The products of the unit pool rows with L directions, [L, N] float32.

    They are computed in float64 in blocks of rows and rounded once, so that exact duplicates tie.
    Processes that share the work compute some of the blocks each.
    """
    first, end = _own_rows(len(features_NP))
    similarities_LO = np.empty((len(directions_LP), end - first), np.float32)
    for block, units_BP in unit_blocks(features_NP, first, end):
        similarities_LO[:, block.start - first : block.stop - first] = directions_LP @ units_BP.T
    return joined_columns(similarities_LO)


def _own_rows(count: int) -> tuple[int, int]:
    """The first of the rows that are this process's share of whole blocks, and the one behind."""
    index, processes = process_share()
    blocks = -(-count // BLOCK)
    first, end = (BLOCK * (blocks * n // processes) for n in (index, index + 1))
    return min(first, count), min(end, count)


def unit_blocks(
    features_NP, start: int = 0, end: int | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields the pool rows block by block: the block's slice, and its rows in float64 at length 1.

    start, end: the first row, and the one behind the last. A zero row stays zero, and cosines stay
    what they are. InputError names the first row that holds a NaN or an infinity.
    """
    end = len(features_NP) if end is None else end
    for first in range(start, end, BLOCK):
        block = slice(first, min(first + BLOCK, end))
        rows_BP = np.asarray(features_NP[block], np.float64)
        check_finite(np.isfinite(rows_BP).all(axis=1), "pool row", first)
        yield block, rows_BP if isinstance(features_NP, Cosines) else unit_length(rows_BP)


def unit_row(features_NP, row: int) -> np.ndarray:
    """One pool row in float64 at length 1."""
    return unit_length(np.asarray(features_NP[row : row + 1], np.float64))[0]


def unit_validation(features_NP, validation_MP, limits: Limits) -> np.ndarray:
    """The validation rows in float64 at length 1, once they are known to fit the pool."""
    check_width(features_NP.shape[1], validation_MP.shape[1])
    if len(validation_MP) == 0:
        raise InputError("no validation row; influence needs at least one")
    if len(features_NP) != len(limits.costs_N):
        raise ValueError(f"limits of {len(limits.costs_N)} rows, features of {len(features_NP)}")
    rows_MP = np.asarray(validation_MP[:], np.float64)
    check_finite(np.isfinite(rows_MP).all(axis=1), "validation row")
    return unit_length(rows_MP)


def subtask_means(rows_MP, subtasks_M) -> np.ndarray:
    """The mean row of each subtask, in the order of the sorted labels, [S, P]."""
    labels, codes_M = np.unique(np.asarray(subtasks_M), return_inverse=True)
    if len(codes_M) != len(rows_MP):
        raise ValueError(f"{len(codes_M)} subtask labels for {len(rows_MP)} validation rows")
    return np.stack([rows_MP[codes_M == code].mean(axis=0) for code in range(len(labels))])


def from_the_top(scores_SN, limits: Limits, reason: str) -> Selection:
    """Takes the rows of the largest score for any of S subtasks, from the top of that ranking."""
    scores_N, winners_N = scores_SN.max(axis=0), scores_SN.argmax(axis=0)
    order_N = np.argsort(-scores_N, kind="stable")
    return take_in_order(order_N, scores_N, limits, reason, winners_N)


def by_mass(masses_N, components_N, cosines_MN, limits: Limits, reason: str) -> Selection:
    """Takes the rows of the largest mass; of equal ones those with the largest cosine to any
    validation row first, then by lower index.

    Masses are rounded to float32, so that sums of the same shares tie.
    """
    masses_N = masses_N.astype(np.float32)
    order_N = np.lexsort((-cosines_MN.max(axis=0), -masses_N))  # stable: equal rows stay in order
    own_N = cosines_MN[components_N, np.arange(len(masses_N))]
    return take_in_order(order_N, masses_N, limits, reason, components_N, own_N)


def pick_of(row: int, own: int, order: int, cosines_MN, reason: str) -> Pick:
    """The pick of a pool row for validation row `own`, which scores its cosine to that one."""
    cosine = float(cosines_MN[own, row])
    return Pick(row, own, order, reason, cosine, None, cosine, None)
