"""The gradient walk: the selection of G2IS (Zhao et al. 2025, section 3; equations 4 to 6).

For each core direction k in order of decreasing weight, S' being the rows chosen in this walk:

    anchor  the unused row with the largest cos(j, k)
    valid   an unused row j with cos(j, s) >= 0 for every s in S'                      (eq. 5)
            and |cos(sum + g_j, k)| >= delta |cos(sum, k)|, sum over S'                (eq. 6)
    next    the valid neighbour of the row s* chosen last with the largest cos(j, s*)  (eq. 4);
            without one, the valid row of the whole pool with the largest cos(j, k);
            without one either, `walk.on_exhausted` decides

One choice as a compiled program, and the numerical rule, are in step.py. Components walk one after
another, or side by side with the same outcome (lockstep.py); or one walk serves them all together
(together.py).
"""

import dataclasses
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from g2is_jax.features.rows import Rows, as_rows
from g2is_jax.features.unit_rows import over_rows, unit_rows_of
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import Ledger, Limits, Pick, Selection, largest_remainder, spending
from g2is_jax.selection.core import Core
from g2is_jax.selection.walk.equations import (
    REASONS,
    STARTS,
    Choice,
    WalkPool,
    WalkTrace,
    walk_component,
)
from g2is_jax.selection.walk.front import walk_on_front
from g2is_jax.selection.walk.lockstep import Lockstep, lanes_that_fit
from g2is_jax.selection.walk.rules import WalkConfig, rules_of
from g2is_jax.selection.walk.together import COLUMNS, walk_together

# Of a walk together: rows that it looks at between two reads of the features, and the most that one
# read enters, each of which takes 4 bytes a row of the pool.
FRONT, WAITING = 2_048, 32


def gradient_walk(
    features_NP: Rows | np.ndarray | jax.Array,
    core: Core,
    limits: Limits,
    config: WalkConfig,
    neighbours_NE=None,
    mesh: Mesh | None = None,
    lanes: int | None = None,
) -> Selection:
    """Chooses rows by the order of `config`; without `neighbours_NE` the graph is exact.

    Component by component, their budgets are the weights' shares of limits.budget by largest
    remainder. What a component cannot spend only because no unused row is small enough carries over
    to the next one.
    What is left by a walk that ended for want of a valid row (`stop`), and whatever is left after
    the last component, is reported as unspent. Rows need not have unit length.

    mesh    shares the rows out over its devices
    lanes   components that walk side by side, where that is possible; 1 for one after another,
            None for as many as take little memory beside the features
    Neither changes what is chosen. The summary's `closest_decision` (None where nothing was to
    decide) is the distance of the closest one from turning, see step.Choice: where it is about
    1e-7, rounding decided. `passes` counts the reads of the features.
    """
    rows, core_CP = as_rows(features_NP), jnp.asarray(core.core_CP, jnp.float32)
    _check(rows, core_CP, limits, neighbours_NE)
    pool, rules = _pool(rows, limits, neighbours_NE, mesh), rules_of(config)
    if config.order == "together":
        return _together(pool, rules, core, core_CP, limits, config, mesh)
    budgets_C = largest_remainder(limits.budget, core.weights_C)
    if lanes is None:
        lanes = lanes_that_fit(rows.shape, rows.values_NP.itemsize, len(budgets_C))
    if lanes > 1 and _independent(limits, config):
        return _side_by_side(pool, rules, core, core_CP, limits, budgets_C, lanes)
    return _one_by_one(pool, rules, core, core_CP, limits, budgets_C, config, mesh)


def _independent(limits: Limits, config: WalkConfig) -> bool:
    """Whether earlier components touch later ones by the rows they take and in no other way."""
    unit_costs = ((limits.costs_N == 1) | (limits.costs_N > limits.budget)).all()
    return bool(
        unit_costs
        and limits.cap >= limits.budget
        and config.on_exhausted != "redistribute"
        and config.conflict_worth == 0  # a row that is not on top may decide whether rule 5 yields
    )


def _side_by_side(pool, rules, core, core_CP, limits, budgets_C, lanes: int) -> Selection:
    open_N = limits.costs_N <= limits.budget
    one_source = pool._replace(sources_N=jnp.zeros_like(pool.sources_N))  # no cap is in force
    lockstep = Lockstep(one_source, rules, core_CP, budgets_C, open_N, lanes)
    ledger = Ledger(limits)
    picks: list[Pick] = []
    components, closest = [], math.inf
    for component, choices in enumerate(lockstep.run()):
        ledger.remaining = int(budgets_C[component])
        chosen = _picks(choices[:-1], component, len(picks))
        picks += chosen
        components.append(_spend(ledger, chosen, core.weights_C[component]))
        closest = min([closest, *(float(choice.closest) for choice in choices)])
    told = {"passes": lockstep.passes, "rolled_back": lockstep.rolled_back}
    return _selection(limits, picks, components, closest, told)


def _one_by_one(pool, rules, core, core_CP, limits, budgets_C, config, mesh) -> Selection:
    ledger = Ledger(limits)
    picks: list[Pick] = []
    components, closest = [], math.inf
    for component, weight in enumerate(core.weights_C):
        ledger.remaining = int(budgets_C[component])
        choices, distance = _walk(pool, rules, core_CP[component], ledger, mesh)
        chosen = _picks(choices, component, len(picks))
        picks += chosen
        components.append(_spend(ledger, chosen, weight))
        closest = min(closest, distance)
        later_C = slice(component + 1, None)
        if components[-1]["ended"] == "rest too small" and len(budgets_C[later_C]):
            budgets_C[component + 1] += ledger.remaining
        elif config.on_exhausted == "redistribute" and core.weights_C[later_C].any():
            budgets_C[later_C] += largest_remainder(ledger.remaining, core.weights_C[later_C])
    told = {"passes": len(picks) + len(components), "rolled_back": 0}
    return _selection(limits, picks, components, closest, told)


def goes_on_a_front(config: WalkConfig, has_lists: bool, rows: int) -> bool:
    """Whether a walk reads the features once for up to WAITING rows, instead of for each of them
    (front.py). has_lists: of neighbours."""
    return config.order == "together" and config.pull == 1 and not has_lists and rows > 2 * FRONT


def _together(pool, rules, core, core_CP, limits, config, mesh) -> Selection:
    """A direction is given no budget beforehand: its `budget` is what was spent for it."""
    ledger = Ledger(limits)
    used_N, spent_S = over_rows(~ledger.open_N, mesh, fill=True), jnp.asarray(ledger.spent_S)
    arguments = (
        pool,
        rules,
        core_CP,
        jnp.asarray(core.weights_C, jnp.float32),
        jnp.float32(config.fairness),
        used_N,
        spent_S.astype(jnp.int32),
        jnp.int32(limits.budget),
    )
    if goes_on_a_front(config, pool.neighbours_NE is not None, len(used_N)):
        walked, reads = walk_on_front(*arguments, FRONT, WAITING)
    else:
        walked = walk_together(*arguments)
        reads = (walked.trace.order_N >= 0).sum()
    directions_N = np.asarray(walked.direction_N)
    picks = [
        dataclasses.replace(pick, component=int(directions_N[pick.row]))
        for pick in _picks(_in_order(walked.trace), 0, 0)
    ]
    for pick in picks:
        ledger.take(pick.row)
    ended = _how_it_ended(ledger)
    components = []
    for direction, weight in enumerate(core.weights_C):
        own = [pick for pick in picks if pick.component == direction]
        spent = int(limits.costs_N[[pick.row for pick in own]].sum())
        components.append(_told(own, weight, spent, spent, ended))
    passes = int(reads) + -(-len(core.weights_C) // COLUMNS)
    told = {"passes": passes, "rolled_back": 0}
    return _selection(limits, picks, components, float(walked.closest), told)


def _spend(ledger: Ledger, chosen: list[Pick], weight) -> dict:
    """Enters one component's rows; returns its part of the summary."""
    budget = ledger.remaining
    for pick in chosen:
        ledger.take(pick.row)
    return _told(chosen, weight, budget, budget - ledger.remaining, _how_it_ended(ledger))


def _told(chosen: list[Pick], weight, budget: int, spent: int, ended: str) -> dict:
    reasons = [pick.reason for pick in chosen]
    return {
        "weight": float(weight),
        "budget": budget,
        "spent": spent,
        "rows": len(chosen),
        "reasons": {name: reasons.count(name) for name in sorted(set(reasons))},
        "ended": ended,
    }


def _selection(limits, picks, components, closest: float, told: dict) -> Selection:
    summary = {**spending(limits, picks), "components": components, **told}
    summary["closest_decision"] = closest if math.isfinite(closest) else None
    return Selection(tuple(picks), summary)


def _check(rows: Rows, core_CP, limits: Limits, neighbours_NE) -> None:
    count, width = rows.shape
    if core_CP.shape[1] != width:
        raise InputError(
            f"pool features are {width} wide, validation features {core_CP.shape[1]};"
            " extract both with the same projection"
        )
    if len(limits.costs_N) != count:
        raise ValueError(f"limits of {len(limits.costs_N)} rows, features of {count}")
    if neighbours_NE is not None and len(neighbours_NE) != count:
        raise ValueError(f"neighbours of {len(neighbours_NE)} rows, features of {count}")


def _how_it_ended(ledger: Ledger) -> str:
    """`filled`; `no valid row`; `rest too small` for any row left; `no row left` under the caps."""
    if ledger.remaining == 0:
        return "filled"
    if ledger.fitting().any():
        return "no valid row"
    costs_N, sources_N, cap = ledger.limits.costs_N, ledger.limits.sources_N, ledger.limits.cap
    affordable_N = ledger.open_N & (ledger.spent_S[sources_N] + costs_N <= cap)
    return "rest too small" if affordable_N.any() else "no row left"


def _pool(rows: Rows, limits: Limits, neighbours_NE, mesh: Mesh | None) -> WalkPool:
    if neighbours_NE is not None:
        neighbours_NE = over_rows(np.asarray(neighbours_NE, np.int32), mesh)
    return WalkPool(
        unit_rows_of(rows, mesh),
        over_rows(np.asarray(limits.costs_N, np.int32), mesh),
        over_rows(np.asarray(limits.sources_N, np.int32), mesh),
        jnp.int32(limits.cap),
        neighbours_NE,
    )


def _walk(pool, rules, core_P, ledger: Ledger, mesh) -> tuple[list[Choice], float]:
    """The choices of one component's walk, in order, and the closest decision."""
    used_N = over_rows(~ledger.open_N, mesh, fill=True)
    spent_S = jnp.asarray(ledger.spent_S, jnp.int32)
    trace, closest = walk_component(
        pool, rules, core_P, used_N, spent_S, jnp.int32(ledger.remaining)
    )
    return _in_order(trace), float(closest)


def _in_order(trace: WalkTrace) -> list[Choice]:
    """The choices of a trace."""
    trace = WalkTrace._make(map(np.asarray, trace))
    rows_K = np.flatnonzero(trace.order_N >= 0)
    rows_K = rows_K[np.argsort(trace.order_N[rows_K])]
    seen = (of_N[rows_K] for of_N in trace[1:])
    return [Choice._make((*of, -1, 0)) for of in zip(rows_K, *seen, strict=True)]


def _picks(choices: Iterable[Choice], component: int, before: int) -> list[Pick]:
    """As picks; `before` rows were chosen before them."""
    return [
        Pick(
            row=int(choice.row),
            component=component,
            order=before + order,
            reason=REASONS[choice.reason],
            score=float(choice.score),
            cos_previous=_unless_start(choice, choice.previous),
            cos_component=float(choice.core),
            cos_smallest=_unless_start(choice, choice.smallest),
        )
        for order, choice in enumerate(choices)
    ]


def _unless_start(choice: Choice, cosine) -> float | None:
    return None if REASONS[choice.reason] in STARTS else float(cosine)
