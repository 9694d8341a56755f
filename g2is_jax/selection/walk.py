"""The gradient walk: the selection of G2IS (Zhao et al. 2025, section 3; equations 4 to 6).

For each core direction k in order of decreasing weight, S' being the rows chosen in this walk:

    anchor  the unused row with the largest cos(j, k)
    valid   an unused row j with cos(j, s) >= 0 for every s in S'                      (eq. 5)
            and |cos(sum + g_j, k)| >= delta |cos(sum, k)|, sum over S'                (eq. 6)
    next    the valid neighbour of the row s* chosen last with the largest cos(j, s*)  (eq. 4);
            without one, the valid row of the whole pool with the largest cos(j, k);
            without one either, `walk.on_exhausted` decides

The compiled program of one component, and the numerical rule, are in step.py.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.graph import divisors, row_lengths
from g2is_jax.selection.knowledge import Core
from g2is_jax.selection.selection import (
    Ledger,
    Limits,
    Pick,
    Selection,
    largest_remainder,
    spending,
)
from g2is_jax.selection.step import (
    LAST_STAGE,
    LAST_VALID_STAGE,
    REASONS,
    STARTS,
    WalkPool,
    WalkRules,
    WalkTrace,
    walk_component,
)

DELTA_REFERENCES = ("current", "anchor", "best")
ON_EXHAUSTED = ("stop", "relax", "reanchor", "redistribute")


@dataclass(frozen=True)
class WalkConfig:
    """The rules of the walk.

    delta               rule 6: the share of the reference's |cos to k| that must remain
    delta_reference     of the sum so far (`current`), of the `anchor`, or the `best` sum so far
    pull                coherence is (1 - pull) cos(j, s*) + pull cos(j, k)
    conflict_tolerance  rule 5: cos(j, s) >= -conflict_tolerance
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

    def __post_init__(self):
        for field, low, high in (
            *(("delta", 0, 1), ("pull", 0, 1)),
            *(("conflict_tolerance", 0, 1), ("max_similarity", -1, 1)),
        ):
            if not low <= getattr(self, field) <= high:
                raise InputError(
                    f"walk.{field}: {getattr(self, field)} must be from {low} to {high}"
                )
        for field, names in (("delta_reference", DELTA_REFERENCES), ("on_exhausted", ON_EXHAUSTED)):
            if getattr(self, field) not in names:
                raise InputError(
                    f"walk.{field}: {getattr(self, field)!r} is none of {', '.join(names)}"
                )


def gradient_walk(
    features_NP, core: Core, limits: Limits, config: WalkConfig, neighbours_NE=None
) -> Selection:
    """Chooses rows component by component; without `neighbours_NE` the graph is exact.

    The components' budgets are the weights' shares of limits.budget by largest remainder. What a
    component cannot spend only because no unused row is small enough carries over to the next one.
    What is left by a walk that ended for want of a valid row (`stop`), and whatever is left after
    the last component, is reported as unspent. Rows need not have unit length.
    """
    features_NP, core_CP = (
        jnp.asarray(features_NP, jnp.float32),
        jnp.asarray(core.core_CP, jnp.float32),
    )
    _check(features_NP, core_CP, limits, neighbours_NE)
    pool = _pool(features_NP, limits, neighbours_NE)
    rules = _rules(config)
    ledger = Ledger(limits)
    picks: list[Pick] = []
    components = []
    budgets_C = largest_remainder(limits.budget, core.weights_C)
    for component, weight in enumerate(core.weights_C):
        ledger.remaining = budget = int(budgets_C[component])
        chosen = _walk(pool, rules, core_CP[component], ledger, component, len(picks))
        for pick in chosen:
            ledger.take(pick.row)
        picks += chosen
        ended = _how_it_ended(ledger)
        later_C = slice(component + 1, None)
        if ended == "rest too small" and len(budgets_C[later_C]):
            budgets_C[component + 1] += ledger.remaining
        elif config.on_exhausted == "redistribute" and len(budgets_C[later_C]):
            budgets_C[later_C] += largest_remainder(ledger.remaining, core.weights_C[later_C])
        reasons = [pick.reason for pick in chosen]
        components.append(
            {
                "weight": float(weight),
                "budget": budget,
                "spent": budget - ledger.remaining,
                "rows": len(chosen),
                "reasons": {name: reasons.count(name) for name in sorted(set(reasons))},
                "ended": ended,
            }
        )
    summary = {**spending(limits, picks), "components": components}
    return Selection(tuple(picks), summary)


def _check(features_NP, core_CP, limits: Limits, neighbours_NE) -> None:
    rows, width = features_NP.shape
    if core_CP.shape[1] != width:
        raise InputError(
            f"pool features are {width} wide, validation features {core_CP.shape[1]};"
            " extract both with the same projection"
        )
    if len(limits.costs_N) != rows:
        raise ValueError(f"limits of {len(limits.costs_N)} rows, features of {rows}")
    if neighbours_NE is not None and len(neighbours_NE) != rows:
        raise ValueError(f"neighbours of {len(neighbours_NE)} rows, features of {rows}")
    finite_N = np.isfinite(row_lengths(features_NP))
    if not finite_N.all():
        raise InputError(f"pool row {int(np.argmin(finite_N))} has a feature that is not finite")


def _how_it_ended(ledger: Ledger) -> str:
    """`filled`; `no valid row`; `rest too small` for any row left; `no row left` under the caps."""
    if ledger.remaining == 0:
        return "filled"
    if ledger.fitting().any():
        return "no valid row"
    costs_N, sources_N, cap = ledger.limits.costs_N, ledger.limits.sources_N, ledger.limits.cap
    affordable_N = ledger.open_N & (ledger.spent_S[sources_N] + costs_N <= cap)
    return "rest too small" if affordable_N.any() else "no row left"


def _pool(features_NP, limits: Limits, neighbours_NE) -> WalkPool:
    lengths_N = row_lengths(features_NP)
    return WalkPool(
        features_NP,
        1 / divisors(lengths_N),
        (lengths_N > 0).astype(jnp.float32),
        jnp.asarray(limits.costs_N, jnp.int32),
        jnp.asarray(limits.sources_N, jnp.int32),
        jnp.asarray(limits.cap, jnp.int32),
        None if neighbours_NE is None else jnp.asarray(neighbours_NE, jnp.int32),
    )


def _rules(config: WalkConfig) -> WalkRules:
    off = config.max_similarity >= 1
    relax = config.on_exhausted == "relax"
    return WalkRules(
        jnp.float32(config.delta),
        jnp.int32(DELTA_REFERENCES.index(config.delta_reference)),
        jnp.float32(config.pull),
        jnp.float32(config.conflict_tolerance),
        jnp.float32(jnp.inf if off else config.max_similarity),
        jnp.int32(LAST_STAGE if relax else LAST_VALID_STAGE),
        jnp.bool_(config.on_exhausted == "reanchor"),
    )


def _walk(pool, rules, core_P, ledger: Ledger, component: int, before: int) -> list[Pick]:
    """The picks of one component's walk, in order; `before` rows were chosen before it."""
    used_N = jnp.asarray(~ledger.open_N)
    spent_S = jnp.asarray(ledger.spent_S, jnp.int32)
    trace = walk_component(pool, rules, core_P, used_N, spent_S, jnp.int32(ledger.remaining))
    trace = WalkTrace._make(map(np.asarray, trace))
    rows_K = np.flatnonzero(trace.order_N >= 0)
    picks = []
    for row in rows_K[np.argsort(trace.order_N[rows_K])].tolist():
        reason = REASONS[trace.reason_N[row]]
        starts = reason in STARTS
        picks.append(
            Pick(
                row=row,
                component=component,
                order=before + int(trace.order_N[row]),
                reason=reason,
                score=float(trace.score_N[row]),
                cos_previous=None if starts else float(trace.previous_N[row]),
                cos_component=float(trace.core_N[row]),
                cos_smallest=None if starts else float(trace.smallest_N[row]),
            )
        )
    return picks
