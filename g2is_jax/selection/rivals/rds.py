"""RDS+ (Ivison et al. 2025): round-robin by hidden states."""

import numpy as np

from g2is_jax.selection.budget import Ledger, Limits, Pick, Selection, spending
from g2is_jax.selection.rivals.similarity import pick_of, similarities, unit_validation


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
                picks.append(pick_of(row, turn, len(picks), cosines_MN, reason))
            turn = (turn + 1) % len(rankings)
    return Selection(tuple(picks), spending(limits, picks))


def _next(ranking_N, places_M: list[int], turn: int, ledger: Ledger) -> int | None:
    """Returns the next row of a ranking that is used or fits; moves the turn's place past it."""
    while places_M[turn] < len(ranking_N):
        row = int(ranking_N[places_M[turn]])
        places_M[turn] += 1
        if not ledger.open_N[row] or ledger.fits(row):
            return row
    return None
