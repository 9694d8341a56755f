"""The gradient walk: the selection of G2IS (Zhao et al. 2025, section 3; equations 4 to 6).

For each core direction k in order of decreasing weight, S' being the rows chosen in this walk:

    anchor  the unused row with the largest cos(j, k)
    valid   an unused row j with cos(j, s) >= 0 for every s in S'                      (Eq. 5)
            and |cos(sum + g_j, k)| >= delta |cos(sum, k)|, sum over S'                (Eq. 6)
    next    the valid neighbour of the row s* chosen last with the largest cos(j, s*)  (Eq. 4);
            without one, the valid row of the whole pool with the largest cos(j, k);
            without one either, `walk.on_exhausted` decides

The equations and the numerical rule are in equations.py, one choice in choice.py. Components walk
one after another (by_component.py), or side by side with the same outcome (side_by_side.py); or one
walk serves them all together (together.py), with few reads of the features where it can (front.py).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from g2is_jax.features.rows import Rows, as_rows, check_width
from g2is_jax.features.unit_rows import over_rows, unit_rows_of
from g2is_jax.runs.mesh import on_host, spans_processes
from g2is_jax.selection.budget import Ledger, Limits, Pick, Selection, largest_remainder, spending
from g2is_jax.selection.core import Core
from g2is_jax.selection.walk.by_component import (
    Walked,
    entered,
    how_it_ended,
    one_after_another,
)
from g2is_jax.selection.walk.choice import REASONS, Choice, in_order
from g2is_jax.selection.walk.equations import WalkPool
from g2is_jax.selection.walk.front import walk_on_front
from g2is_jax.selection.walk.rules import WalkConfig, rules_of
from g2is_jax.selection.walk.side_by_side import SideBySide, slots_that_fit
from g2is_jax.selection.walk.together import COLUMNS, walk_together

# Of a walk together: rows that it looks at between two reads of the features, and the most that one
# read enters. Each of these takes 4 bytes a row of the pool in memory; from a disk, where a read
# takes longer, it does not.
FRONT, WAITING = 2_048, 32
FRONT_ON_DISK, WAITING_ON_DISK = 8_192, 256


def gradient_walk(
    features_NP: Rows | np.ndarray | jax.Array,
    core: Core,
    limits: Limits,
    config: WalkConfig,
    neighbours_NE=None,
    mesh: Mesh | None = None,
    slots: int | None = None,
) -> Selection:
    """Chooses rows by the order of `config`; without `neighbours_NE` the graph is exact.

    Component by component, their budgets are the weights' shares of limits.budget by largest
    remainder. What a component cannot spend only because no unused row is small enough carries over
    to the next one.
    What is left by a walk that ended for want of a valid row (`stop`), and whatever is left after
    the last component, is reported as unspent. Rows need not have unit length.

    mesh    shares the rows out over its devices, whichever processes they belong to; all of these
            must call with the same arguments
    slots   components that walk side by side, where that is possible; 1 for one after another,
            None for as many as take little memory beside the features
    Neither changes what is chosen. The summary's `closest_decision` (None where nothing was to
    decide) is the distance of the closest one from turning, see Choice: where it is about 1e-7,
    rounding decided. `passes` counts the reads of the features.
    """
    rows, core_CP = as_rows(features_NP), jnp.asarray(core.core_CP, jnp.float32)
    _check(rows, core_CP, limits, neighbours_NE)
    if rows.on_disk and not spans_processes(mesh):
        mesh = None
    pool, rules = _pool(rows, limits, neighbours_NE, mesh), rules_of(config)
    if config.order == "together":
        sizes = _front_sizes(rows)
        return _together(pool, rules, core, core_CP, limits, config, mesh, sizes)
    if slots is None:
        slots = slots_that_fit(rows.shape, rows.values_NP.itemsize, len(core_CP))
    if slots > 1 and _independent(limits, config):
        return _side_by_side(pool, rules, core, core_CP, limits, slots)
    redistribute = config.on_exhausted == "redistribute"
    walks, closest = one_after_another(
        pool, rules, core_CP, core.weights_C, limits, redistribute, mesh
    )
    passes = len(walks) + sum(len(walk.choices) for walk in walks)
    return _by_component(limits, core, walks, closest, {"passes": passes, "rolled_back": 0})


def _check(rows: Rows, core_CP, limits: Limits, neighbours_NE) -> None:
    count, width = rows.shape
    check_width(width, core_CP.shape[1])
    if len(limits.costs_N) != count:
        raise ValueError(f"limits of {len(limits.costs_N)} rows, features of {count}")
    if neighbours_NE is not None and len(neighbours_NE) != count:
        raise ValueError(f"neighbours of {len(neighbours_NE)} rows, features of {count}")


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


def _independent(limits: Limits, config: WalkConfig) -> bool:
    """True if earlier components touch later ones by the rows they take and in no other way."""
    unit_costs = ((limits.costs_N == 1) | (limits.costs_N > limits.budget)).all()
    return bool(
        unit_costs
        and limits.cap >= limits.budget
        and config.on_exhausted != "redistribute"
        and config.conflict_worth == 0  # a row that is not on top may decide whether Eq. 5 yields
    )


def _side_by_side(pool, rules, core, core_CP, limits, slots: int) -> Selection:
    open_N = limits.costs_N <= limits.budget
    budgets_C = largest_remainder(limits.budget, core.weights_C)
    one_source = pool._replace(sources_N=jnp.zeros_like(pool.sources_N))  # no cap is in force
    side_by_side = SideBySide(one_source, rules, core_CP, budgets_C, open_N, slots)
    choices_C, ledger = side_by_side.run(), Ledger(limits)
    walks = [
        entered(ledger, int(budget), choices[:-1])
        for budget, choices in zip(budgets_C, choices_C, strict=True)
    ]
    closest = min([math.inf, *(float(c.closest) for choices in choices_C for c in choices)])
    counts = {"passes": side_by_side.passes, "rolled_back": side_by_side.rolled_back}
    return _by_component(limits, core, walks, closest, counts)


def _by_component(limits, core: Core, walks: list[Walked], closest: float, counts) -> Selection:
    picks: list[Pick] = []
    components = []
    for component, (walk, weight) in enumerate(zip(walks, core.weights_C, strict=True)):
        own = [_pick(choice, component, len(picks) + n) for n, choice in enumerate(walk.choices)]
        picks += own
        spent = spending(limits, own)["spent"]
        components.append(_component_summary(own, weight, walk.budget, spent, walk.ended))
    return _selection(limits, picks, components, closest, counts)


def goes_on_a_front(config: WalkConfig, has_lists: bool, rows: int) -> bool:
    """True if a walk reads the features once for up to WAITING rows, instead of for each of them
    (front.py). has_lists: of neighbours."""
    return config.order == "together" and config.pull == 1 and not has_lists and rows > 2 * FRONT


def _front_sizes(rows: Rows) -> tuple[int, int]:
    """The rows of a front, and those that may wait."""
    if rows.on_disk and len(rows) > 2 * FRONT_ON_DISK:
        return FRONT_ON_DISK, WAITING_ON_DISK
    return FRONT, WAITING


def _together(
    pool, rules, core, core_CP, limits, config, mesh, sizes: tuple[int, int]
) -> Selection:
    """Walks towards all directions together; the `budget` of each is what was spent for it."""
    ledger = Ledger(limits)
    used_N, spent_S = over_rows(~ledger.open_N, mesh, fill=True), jnp.asarray(ledger.spent_S)
    arguments = (
        pool,
        rules,
        core_CP,
        jnp.asarray(core.weights_C, jnp.float32),
        jnp.float32(config.fairness),
        jnp.float32(config.drift),
        used_N,
        spent_S.astype(jnp.int32),
        jnp.int32(limits.budget),
    )
    if goes_on_a_front(config, pool.neighbours_NE is not None, len(used_N)):
        walked, reads = walk_on_front(*arguments, *sizes)
    else:
        walked = walk_together(*arguments)
        reads = (walked.trace.order_N >= 0).sum()
    directions_N = on_host(walked.direction_N)
    choices = in_order(walked.trace)
    picks = [
        _pick(choice, int(directions_N[choice.row]), order) for order, choice in enumerate(choices)
    ]
    for pick in picks:
        ledger.take(pick.row)
    ended = how_it_ended(ledger)
    components = []
    for direction, weight in enumerate(core.weights_C):
        own = [pick for pick in picks if pick.component == direction]
        spent = spending(limits, own)["spent"]
        components.append(_component_summary(own, weight, spent, spent, ended))
    passes = int(reads) + -(-len(core.weights_C) // COLUMNS)
    counts = {"passes": passes, "rolled_back": 0}
    return _selection(limits, picks, components, float(walked.closest), counts)


def _pick(choice: Choice, component: int, order: int) -> Pick:
    return Pick(
        row=int(choice.row),
        component=component,
        order=order,
        reason=REASONS[choice.reason],
        score=float(choice.score),
        cos_previous=None if choice.starts else float(choice.previous),
        cos_component=float(choice.core),
        cos_smallest=None if choice.starts else float(choice.smallest),
    )


def _component_summary(own: list[Pick], weight, budget: int, spent: int, ended: str) -> dict:
    reasons = [pick.reason for pick in own]
    return {
        "weight": float(weight),
        "budget": budget,
        "spent": spent,
        "rows": len(own),
        "reasons": {name: reasons.count(name) for name in sorted(set(reasons))},
        "ended": ended,
    }


def _selection(limits, picks, components, closest: float, counts: dict) -> Selection:
    summary = {**spending(limits, picks), "components": components, **counts}
    summary["closest_decision"] = closest if math.isfinite(closest) else None
    return Selection(tuple(picks), summary)
