"""The walks of the components one after another, each on the rows that the earlier ones left."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from g2is_jax.features.unit_rows import cosines_to_directions, cosines_to_rows, over_rows
from g2is_jax.selection.budget import Ledger, Limits, largest_remainder
from g2is_jax.selection.walk.choice import Choice, WalkTrace, choose, in_order, no_trace, record
from g2is_jax.selection.walk.equations import WalkPool, WalkRules, advance, empty


class Walked(NamedTuple):
    """A component's finished walk."""

    choices: list[Choice]  # in order
    budget: int
    ended: str  # see `how_it_ended`


def one_after_another(
    pool: WalkPool, rules: WalkRules, core_CP, weights_C, limits: Limits, redistribute: bool, mesh
) -> tuple[list[Walked], float]:
    """Walks every component; returns the walks, and the closest decision in them.

    redistribute: what a walk leaves is shared over the components still to walk, by their weights.
    What it leaves only because no unused row is small enough goes to the next one in any case.
    """
    ledger, budgets_C = Ledger(limits), largest_remainder(limits.budget, weights_C)
    walks: list[Walked] = []
    closest = math.inf
    for component, core_P in enumerate(core_CP):
        budget = ledger.remaining = int(budgets_C[component])
        choices, distance = _walk(pool, rules, core_P, ledger, mesh)
        walks.append(entered(ledger, budget, choices))
        closest = min(closest, distance)
        later_C = slice(component + 1, None)
        if walks[-1].ended == "rest too small" and len(budgets_C[later_C]):
            budgets_C[component + 1] += ledger.remaining
        elif redistribute and weights_C[later_C].any():
            budgets_C[later_C] += largest_remainder(ledger.remaining, weights_C[later_C])
    return walks, closest


def _walk(pool, rules, core_P, ledger: Ledger, mesh) -> tuple[list[Choice], float]:
    """The choices of one component's walk, in order, and the closest decision."""
    used_N = over_rows(~ledger.open_N, mesh, fill=True)
    spent_S = jnp.asarray(ledger.spent_S, jnp.int32)
    trace, closest = walk_component(
        pool, rules, core_P, used_N, spent_S, jnp.int32(ledger.remaining)
    )
    return in_order(trace), float(closest)


@jax.jit
def walk_component(
    pool: WalkPool, rules: WalkRules, core_P, used_N, spent_S, remaining
) -> tuple[WalkTrace, jax.Array]:
    """Walks until `remaining` is spent or no row can be taken; returns the closest decision too.

    core_P is the unit core direction, used_N what earlier walks took, spent_S what they spent on
    each source, all costs in units of the budget.
    """
    core_N = cosines_to_directions(pool.rows, core_P[None])[0]
    state = empty(used_N, spent_S, remaining, core_N)

    def step(carry):
        state, trace, choice, closest = carry
        trace = record(trace, state.taken, choice)
        row_N = cosines_to_rows(pool.rows, choice.row[None])[0]
        state = advance(pool, state, choice.row, choice.starts, choice.core, row_N)
        choice = choose(pool, rules, core_N, state)
        return state, trace, choice, jnp.minimum(closest, choice.closest)

    choice = choose(pool, rules, core_N, state)
    carry = state, no_trace(core_N), choice, choice.closest
    _, trace, _, closest = lax.while_loop(lambda carry: carry[2].row >= 0, step, carry)
    return trace, closest


def entered(ledger: Ledger, budget: int, choices: list[Choice]) -> Walked:
    """The walk of these choices, entered into the ledger, which then holds what it left."""
    ledger.remaining = budget
    for choice in choices:
        ledger.take(int(choice.row))
    return Walked(choices, budget, how_it_ended(ledger))


def how_it_ended(ledger: Ledger) -> str:
    """Says how a walk ended: `filled`, `no valid row`, `no row left` under the caps, or `rest too
    small` for any row left."""
    if ledger.remaining == 0:
        return "filled"
    if ledger.fitting().any():
        return "no valid row"
    costs_N, sources_N, cap = ledger.limits.costs_N, ledger.limits.sources_N, ledger.limits.cap
    affordable_N = ledger.open_N & (ledger.spent_S[sources_N] + costs_N <= cap)
    return "rest too small" if affordable_N.any() else "no row left"
