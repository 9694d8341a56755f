"""The rules of the gradient walk, as the config has them and as numbers."""

import math
from dataclasses import dataclass

import numpy as np

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.walk.choice import LAST_TIER, LAST_VALID_TIER
from g2is_jax.selection.walk.equations import WalkRules

DELTA_REFERENCES = ("current", "anchor", "best")
ORDERS = ("components", "together")
ON_EXHAUSTED = ("stop", "relax", "reanchor", "redistribute")


@dataclass(frozen=True)
class WalkConfig:
    """The rules of the walk.

    order               `components`: one finishes before the next begins; `together`: one walk is
                        pulled to all, the more to each the less it is served so far (together.py)
    fairness            how much more: 0 not at all; read if the order is together
    drift               how much the walk avoids rows that lead it beside all of them; 0 not at all;
                        read if the order is together
    delta               Eq. 6: the share of the reference's |cos to k| that must remain
    delta_reference     of the sum so far (`current`), of the `anchor`, or the `best` sum so far
    pull                Eq. 4: coherence is (1 - pull) cos(j, s*) + pull cos(j, k)
    conflict_tolerance  Eq. 5: cos(j, s) >= -conflict_tolerance
    conflict_worth      Eq. 5 yields in a step where its best row aims at less than this share of
                        what the best row without it does, (cos to k, or its counterpart of a walk
                        together); 0: never
    max_similarity      rows more similar than this to a row of S' are not valid; 1.0 is off
    on_exhausted        when no row is valid: `stop` leaves the budget unspent; `relax` drops for
                        this step the conflict rule, then consistency too, then the similarity cap
                        too; `reanchor` starts a new S' for the same component; `redistribute`
                        shares what is left over the components still to walk, by their weights
    """

    delta: float
    delta_reference: str
    pull: float
    conflict_tolerance: float
    max_similarity: float
    on_exhausted: str
    order: str
    fairness: float
    conflict_worth: float
    drift: float

    def __post_init__(self):
        for field, low, high in (
            *(("delta", 0, 1), ("pull", 0, 1)),
            *(("conflict_tolerance", 0, 1), ("max_similarity", -1, 1), ("conflict_worth", 0, 1)),
        ):
            if not low <= getattr(self, field) <= high:
                raise InputError(
                    f"walk.{field}: {getattr(self, field)} must be from {low} to {high}"
                )
        for field, names in (
            *(("order", ORDERS), ("delta_reference", DELTA_REFERENCES)),
            ("on_exhausted", ON_EXHAUSTED),
        ):
            if getattr(self, field) not in names:
                raise InputError(
                    f"walk.{field}: {getattr(self, field)!r} is none of {', '.join(names)}"
                )
        for field in ("fairness", "drift"):
            if not 0 <= getattr(self, field) < math.inf:
                raise InputError(
                    f"walk.{field}: {getattr(self, field)} must be a finite number from 0"
                )
        if self.order == "together" and self.on_exhausted == "redistribute":
            raise InputError(
                "walk.on_exhausted: redistribute needs walk.order components; a walk together has"
                " no other walk to give to: choose relax, reanchor or stop"
            )


def rules_of(config: WalkConfig) -> WalkRules:
    """The rules of a config as numbers."""
    off = config.max_similarity >= 1
    relax = config.on_exhausted == "relax"
    numbers = (
        np.float32(config.delta),
        np.int32(DELTA_REFERENCES.index(config.delta_reference)),
        np.float32(config.pull),
        np.float32(config.conflict_tolerance),
        np.float32(config.conflict_worth),
        np.float32(np.inf if off else config.max_similarity),
        np.int32(LAST_TIER if relax else LAST_VALID_TIER),
        np.bool_(config.on_exhausted == "reanchor"),
    )
    return WalkRules._make(numbers)
