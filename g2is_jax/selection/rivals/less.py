"""LESS (Xia et al. 2024): influence on a subtask, and the same by round-robin."""

import numpy as np

from g2is_jax.selection.budget import Ledger, Limits, Pick, Selection, spending
from g2is_jax.selection.rivals.similarity import (
    from_the_top,
    pick_of,
    similarities,
    subtask_means,
    unit_validation,
)


def less(features_NP, validation_MP, subtasks_M, limits: Limits) -> Selection:
    """Takes the rows with the largest influence on any subtask: cosine, mean inside a subtask,
    maximum over subtasks, then from the top of that ranking. Equal rows by lower index.

    subtasks_M holds any labels. A pick's component is the winning subtask's place among the
    sorted labels. Several checkpoints: lay their unit features side by side, each times the root of
    its weight.
    """
    units_MP = unit_validation(features_NP, validation_MP, limits)
    # The mean of the cosines to a subtask's rows is the product with the mean of its unit rows.
    influence_SN = similarities(features_NP, subtask_means(units_MP, subtasks_M))
    return from_the_top(influence_SN, limits, "largest influence on a subtask")


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
        picks.append(pick_of(row, turn, len(picks), cosines_MN, "most similar to a validation row"))
    return Selection(tuple(picks), spending(limits, picks))
