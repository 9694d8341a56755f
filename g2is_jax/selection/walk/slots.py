"""The arrays of walks side by side, and the compiled steps on them (side_by_side.py has the walks).

A slot is one component's place in the arrays: core_LN are the cosines to its direction, states its
`State`, each with an axis L of slots in front. What a step saw of each slot comes back in two small
arrays (`fetched`).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from g2is_jax.features.unit_rows import cosines_to_directions, cosines_to_rows
from g2is_jax.runs.mesh import on_host
from g2is_jax.selection.walk.choice import Choice, choose
from g2is_jax.selection.walk.equations import (
    State,
    Sum,
    WalkPool,
    advance,
    cosines_after,
    empty,
    joined,
    no_cosines,
)

NO_SUM = Sum._make([np.int32(0), *np.zeros(2, np.float32), np.zeros(3, np.float32)])


def _get(tree, slot):
    return jax.tree.map(lambda of_L: of_L[slot], tree)


def _put(tree, slot, new):
    return jax.tree.map(lambda of_L, leaf: of_L.at[slot].set(leaf), tree, new)


def _look(pool, rules, core_LN, states: State) -> tuple[jax.Array, jax.Array]:
    """Each slot's next choice and its sum, in two arrays: each array that is fetched is a wait."""
    choices = jax.vmap(partial(choose, pool, rules))(core_LN, states)
    whole = (choices.row, choices.reason, choices.top, states.sum.size)
    seen = (choices.score, choices.previous, choices.core, choices.smallest, choices.closest)
    sums = (states.sum.squared, states.sum.core, *states.sum.references_3.T)
    return jnp.stack(whole, axis=1), jnp.stack([*seen, *sums], axis=1)


def fetched(seen) -> list[tuple[Choice, Sum]]:
    """The choice and the sum that `_look` saw of each slot, on the host."""
    pairs = []
    for whole, of_L in zip(*map(on_host, seen), strict=True):
        row, reason, top, size = whole
        *chosen, closest, squared, core = of_L[:7]
        choice = Choice._make((row, reason, *chosen, top, closest))
        pairs.append((choice, Sum(size, squared, core, of_L[7:])))
    return pairs


@partial(jax.jit, static_argnames="slots")
def nothing(pool: WalkPool, slots: int) -> tuple[jax.Array, State]:
    """The arrays core_LN and states of slots with nothing in them."""
    zeros_N = 0 * pool.rows.inverse_length_N  # on the pool's devices
    core_LN = jnp.stack([zeros_N] * slots)
    used_N, spent_S = zeros_N > 0, jnp.zeros(1, jnp.int32)
    return core_LN, jax.vmap(partial(empty, used_N, spent_S, jnp.int32(0)))(core_LN)


@partial(jax.jit, donate_argnames=("core_LN", "states"))
def started(pool, rules, core_LN, states: State, slots_B, directions_BP, used_N, budgets_B):
    """Puts walks that have chosen nothing into their slots; a slot beyond the last is dropped."""
    core_BN = cosines_to_directions(pool.rows, directions_BP)
    empty_walk = partial(empty, used_N, states.spent_S[0])
    new = jax.vmap(empty_walk)(budgets_B, core_BN)
    states = jax.tree.map(lambda of_L, of_B: of_L.at[slots_B].set(of_B, mode="drop"), states, new)
    return core_LN.at[slots_B].set(core_BN, mode="drop"), states, _look(pool, rules, core_BN, new)


@partial(jax.jit, donate_argnames="states")
def without(pool, rules, core_LN, states: State, slot, row):
    """Bars a row from a slot's walk, and looks for its next choice."""
    states = states._replace(used_N=states.used_N.at[slot, row].set(True))
    return states, _look_at(pool, rules, core_LN, states, slot)


@partial(jax.jit, donate_argnames="states")
def with_sum(pool, rules, core_LN, states: State, slot, used_N, counters, total: Sum):
    """Puts a slot's walk back to an earlier place; its cosines are those of that place already."""
    remaining, taken, last = counters
    state = _get(states, slot)._replace(
        used_N=used_N, remaining=remaining, taken=taken, last=last, sum=total
    )
    states = _put(states, slot, state)
    return states, _look_at(pool, rules, core_LN, states, slot)


def _look_at(pool, rules, core_LN, states: State, slot):
    alone = jax.tree.map(lambda of_L: of_L[slot][None], states)
    return _look(pool, rules, core_LN[slot][None], alone)


@partial(jax.jit, donate_argnames="states")
def folded(pool: WalkPool, states: State, slot, rows_R, count, first) -> State:
    """Adds the cosines of `count` rows to a slot's; `first` drops what the slot had before."""
    cosines_RN = cosines_to_rows(pool.rows, rows_R)

    def enter(place, cosines):
        return cosines_after(cosines, cosines_RN[place], starts=False)

    none = no_cosines(cosines_RN[0])
    later = lax.fori_loop(0, count, enter, none)
    state = _get(states, slot)
    earlier = jax.tree.map(lambda of_N, old_N: jnp.where(first, of_N, old_N), none, state.cosines)
    return _put(states, slot, state._replace(cosines=joined(earlier, later)))


@partial(jax.jit, donate_argnames="states")
def stepped(pool: WalkPool, rules, core_LN, states: State, rows_L, starts_L, cores_L):
    """Lets every slot take its row; one whose row is -1 stays as it is."""
    cosines_LN = cosines_to_rows(pool.rows, jnp.maximum(rows_L, 0))

    def move(state: State, row, starts, core, row_N) -> State:
        moved = advance(pool, state, row, starts, core, row_N)
        return jax.tree.map(lambda new, old: jnp.where(row >= 0, new, old), moved, state)

    states = jax.vmap(move)(states, rows_L, starts_L, cores_L, cosines_LN)
    return states, _look(pool, rules, core_LN, states)
