"""The selection that every selector returns, and the budget and caps that it keeps to."""

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from g2is_jax.runs.errors import InputError

UNITS = ("fraction", "rows", "tokens")
LARGEST_BUDGET = 2**31 - 2  # costs, and one more, are counted in int32 on the device


@dataclass(frozen=True)
class Pick:
    """One chosen row, and why it was chosen.

    row            index in the pool
    component      what it was chosen for: the core direction (walk), the validation row (less_rr),
                   the subtask (less); -1 where the method knows no such thing
    order          position in the whole selection, from 0
    reason         in words. Walk: `anchor` (best for the component), `neighbour` (most coherent
                   with the row before), `fallback` (no stored neighbour was valid: best for the
                   component), `reanchor` (anchor of a new walk for the same component), `relaxed
                   conflict`, `relaxed consistency`, `relaxed similarity` (the last rule that had
                   to be dropped; those named before it were dropped too), `worth a conflict`
                   (rule 5 yielded). Other selectors: one phrase each
    score          the number that won; larger is better. 0 where the method has none
    cos_previous   cosine to the row chosen before it in the same walk; None for an anchor
    cos_component  cosine to the component
    cos_smallest   smallest cosine to the rows chosen before it in the same walk; None for an anchor
    """

    row: int
    component: int
    order: int
    reason: str
    score: float
    cos_previous: float | None
    cos_component: float | None
    cos_smallest: float | None


@dataclass(frozen=True)
class Selection:
    """Rows in the order they were chosen, and a summary that can be written as JSON."""

    picks: tuple[Pick, ...]
    summary: dict

    @property
    def rows(self) -> list[int]:
        """The chosen rows alone, in order."""
        return [pick.row for pick in self.picks]


@dataclass(frozen=True)
class BudgetConfig:
    """The amount to choose, its unit, and the largest share that one source may take.

    unit `fraction` is a share of the pool's rows (0.01 is 1 %), `rows` a number of rows, `tokens` a
    number of supervised tokens. source_cap is a share of the budget; 1.0 switches it off.
    """

    budget: float
    unit: str
    source_cap: float

    def __post_init__(self):
        if self.unit not in UNITS:
            raise InputError(f"selection.unit: {self.unit!r} is none of {', '.join(UNITS)}")
        if not (math.isfinite(self.budget) and self.budget >= 0):
            raise InputError(f"selection.budget: {self.budget} must be a finite number, 0 or more")
        if self.unit == "fraction" and self.budget > 1:
            raise InputError(
                f"selection.budget: a fraction of {self.budget} is more than the whole pool (1.0);"
                " for a number of rows set selection.unit to rows"
            )
        if self.unit != "fraction" and self.budget != int(self.budget):
            raise InputError(
                f"selection.budget: {self.budget} {self.unit} is not a whole number;"
                " for a share of the pool set selection.unit to fraction"
            )
        if not 0 < self.source_cap <= 1:
            raise InputError(
                f"selection.source_cap: {self.source_cap} must be above 0 and at most 1 (1 is off)"
            )


@dataclass(frozen=True, eq=False)
class Limits:
    """The budget of one pool, in cost units (rows or supervised tokens).

    costs_N what each row costs, at least 1; budget what may be spent; sources_N the source of each
    row as codes from 0; cap what may be spent on one source.
    """

    costs_N: np.ndarray
    budget: int
    sources_N: np.ndarray
    cap: int


def without(limits: Limits, barred_N: np.ndarray) -> Limits:
    """The limits under which some rows cannot be chosen: each one costs more than the budget."""
    costs_N = np.where(barred_N, limits.budget + 1, limits.costs_N)
    return dataclasses.replace(limits, costs_N=costs_N)


def limits(config: BudgetConfig, tokens_N, sources_N) -> Limits:
    """The limits that `config` means for a pool with these supervised tokens and sources.

    A fraction is cut to whole rows, as the paper's released script has it, and so is a cap: 3.5
    rows are 3. Both are the decimal numbers they were written as: 0.29 of 100 rows is 29. Sources
    may be any labels. InputError when the budget is more than the pool holds, or less than one row
    although it is not 0.
    """
    tokens_N = np.asarray(tokens_N)
    sources_N = np.unique(np.asarray(sources_N), return_inverse=True)[1].astype(np.int32)
    if tokens_N.ndim != 1 or tokens_N.shape != sources_N.shape:
        raise ValueError(f"tokens {tokens_N.shape} and sources {sources_N.shape} must be [N]")
    if len(tokens_N) == 0:
        raise InputError("the pool has no row to select from")
    costs_N = np.ones(len(tokens_N), np.int64)
    if config.unit == "tokens":
        costs_N = tokens_N.astype(np.int64)
        if (costs_N < 1).any():
            row = int(np.argmax(costs_N < 1))
            raise InputError(f"pool row {row} has no supervised token; drop it before selecting")
    holds = int(costs_N.sum())
    if config.unit == "fraction":
        budget = int(decimal(config.budget) * len(costs_N))
        if config.budget > 0 and budget == 0:
            raise InputError(
                f"selection.budget: {config.budget} of {len(costs_N)} rows is less than one row"
            )
    else:
        budget = int(config.budget)
    if budget > holds:
        raise InputError(f"selection.budget: {budget} {config.unit} asked, the pool holds {holds}")
    if budget > LARGEST_BUDGET:
        raise InputError(
            f"selection.budget: {budget} is above the largest budget, {LARGEST_BUDGET}"
        )
    cap = int(decimal(config.source_cap) * budget)
    if budget > 0 and cap == 0:
        raise InputError(
            f"selection.source_cap: {config.source_cap} of a budget of {budget} leaves nothing"
            " to any source; raise the cap or the budget"
        )
    return Limits(costs_N, budget, sources_N, cap)


class Ledger:
    """Counts what has been spent, and knows which rows still fit into the budget and the caps."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.remaining = limits.budget
        self.open_N = np.ones(len(limits.costs_N), bool)
        self.spent_S = np.zeros(limits.sources_N.max(initial=0) + 1, np.int64)

    def fits(self, row: int) -> bool:
        """True if this row is unused and fits."""
        cost, source = self.limits.costs_N[row], self.limits.sources_N[row]
        return bool(
            self.open_N[row]
            and cost <= self.remaining
            and self.spent_S[source] + cost <= self.limits.cap
        )

    def fitting(self) -> np.ndarray:
        """The rows that are unused and fit, as a mask [N]."""
        costs_N, sources_N = self.limits.costs_N, self.limits.sources_N
        within_cap_N = self.spent_S[sources_N] + costs_N <= self.limits.cap
        return self.open_N & (costs_N <= self.remaining) & within_cap_N

    def take(self, row: int) -> None:
        """Spends what this row costs."""
        self.open_N[row] = False
        self.remaining -= int(self.limits.costs_N[row])
        self.spent_S[self.limits.sources_N[row]] += self.limits.costs_N[row]


def take_in_order(
    order_N, scores_N, limits: Limits, reason: str, components_N=None, cosines_N=None
) -> Selection:
    """Goes down a ranking once and takes every row that still fits.

    order_N holds row numbers, best first; scores_N, components_N and cosines_N, to the component,
    are indexed by row. A row that fits no more is passed over, so a smaller one after it may still
    be taken.
    """
    ledger = Ledger(limits)
    picks: list[Pick] = []
    for row in np.asarray(order_N).tolist():
        if ledger.remaining == 0:
            break
        if not ledger.fits(row):
            continue
        ledger.take(row)
        component = -1 if components_N is None else int(components_N[row])
        cosine = None if cosines_N is None else float(cosines_N[row])
        score = float(scores_N[row])
        picks.append(Pick(row, component, len(picks), reason, score, None, cosine, None))
    return Selection(tuple(picks), spending(limits, picks))


def spending(limits: Limits, picks) -> dict:
    """The part of a summary that all selectors share: budget and spent in cost units, and rows."""
    spent = int(sum(limits.costs_N[pick.row] for pick in picks))
    return {"budget": limits.budget, "spent": spent, "rows": len(picks)}


def largest_remainder(total: int, weights_C) -> np.ndarray:
    """Whole numbers in proportion to the weights that sum exactly to `total`.

    Each gets its share rounded down; the units left go to the largest remainders, equal ones
    (to 1e-6) in order of index.
    """
    weights_C = np.asarray(weights_C, np.float64)
    if total == 0:
        return np.zeros(len(weights_C), np.int64)
    if not ((weights_C >= 0).all() and weights_C.sum() > 0):
        raise ValueError(f"weights must be 0 or more and not all 0: {weights_C}")
    shares_C = total * weights_C / weights_C.sum()
    whole_C = np.floor(shares_C).astype(np.int64)
    by_remainder_C = np.argsort(-np.round(shares_C - whole_C, 6), kind="stable")
    whole_C[by_remainder_C[: total - whole_C.sum()]] += 1
    return whole_C


def decimal(number: float) -> Fraction:
    """The number as it was written: 0.29 is 29/100 and not the nearest binary fraction."""
    return Fraction(str(float(number)))
