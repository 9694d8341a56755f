"""GIST (Min et al. 2026): influence inside the subspace of the validation gradients."""

import dataclasses

import numpy as np

from g2is_jax.features.rows import unit_length
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import Limits, Selection
from g2is_jax.selection.rivals.similarity import (
    from_the_top,
    subtask_means,
    unit_blocks,
    unit_validation,
)

NOTHING = 1e-7  # share of a row's length that float32 features cannot tell from none


def gist(features_NP, validation_MP, subtasks_M, rank: int, limits: Limits) -> Selection:
    """Ranks like `less` inside the validation gradients' own subspace: largest cosine to any
    subtask's mean, both projected on the first `rank` right singular vectors of the validation
    rows, uncentred.

    Equal rows by lower index. A pick's component is the subtask, as in `less`. The summary says
    how many directions were used (no more than the validation rows span) and the share of their
    squared length these hold. A row with nothing in the subspace has cosine 0.

    As in the released code: SGD gradients on both sides, subtask means of rows that keep their own
    lengths (so give validation rows with their norms), cosine, maximum, top of the ranking, and a
    rank that is set by hand for each task (its README: 9, its scripts: 50, its default: 150).
    Differs from the released code: there the subspace is cut out of full gradients, here out of
    whatever features it gets; and a validation set that its subtasks do not divide evenly is
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
    means_SC = unit_length(subtask_means(rows_MP @ basis_CP.T, subtasks_M))
    alignment_SN = np.empty((len(means_SC), len(features_NP)), np.float32)
    for block, units_BP in unit_blocks(features_NP):
        inside_BC = units_BP @ basis_CP.T
        inside_BC[np.linalg.norm(inside_BC, axis=1) < NOTHING] = 0
        alignment_SN[:, block] = means_SC @ unit_length(inside_BC).T
    selection = from_the_top(alignment_SN, limits, "largest cosine to a subtask in its subspace")
    held = float((lengths_C[: len(basis_CP)] ** 2).sum() / (lengths_C**2).sum())
    found = {"directions": len(basis_CP), "directions_hold": held}
    return dataclasses.replace(selection, summary={**selection.summary, **found})
