"""Nearest neighbours of the validation rows, in equal shares of the budget."""

import numpy as np

from g2is_jax.selection.budget import (
    Ledger,
    Limits,
    Pick,
    Selection,
    largest_remainder,
    spending,
)
from g2is_jax.selection.rivals.similarity import pick_of, similarities, unit_validation


def knn_even(features_NP, validation_MP, limits: Limits) -> Selection:
    """Gives the validation rows equal shares of the budget (by largest remainder): in file order,
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
            picks.append(pick_of(row, own, len(picks), cosines_MN, "near to a validation row"))
    return Selection(tuple(picks), spending(limits, picks))
