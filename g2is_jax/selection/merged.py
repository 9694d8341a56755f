"""One selection out of those of several targets: they take a row each, in turn."""

import dataclasses
import itertools
from collections.abc import Sequence

from g2is_jax.selection.budget import Ledger, Limits, Pick, Selection, spending


def merged(selections: Sequence[Sequence[Pick]], limits: Limits) -> tuple[Selection, list[int]]:
    """Lets the targets in turn take the next row of their own selection that is unused and fits,
    until the budget is spent or no row is left; returns each pick's target as well.

    A target whose next rows were all taken by others goes on to those after them, and loses no
    turn.
    """
    ledger = Ledger(limits)
    picks: list[Pick] = []
    targets: list[int] = []
    waiting = [iter(own) for own in selections]
    for target in itertools.cycle(range(len(waiting))):
        own = next((pick for pick in waiting[target] if ledger.fits(pick.row)), None)
        if own is not None:
            ledger.take(own.row)
            picks.append(dataclasses.replace(own, order=len(picks)))
            targets.append(target)
        elif not any(ledger.fits(pick.row) for rest in selections for pick in rest):
            return Selection(tuple(picks), spending(limits, picks)), targets
    return Selection((), spending(limits, [])), []
