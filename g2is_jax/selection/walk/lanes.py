"""The arrays of walks side by side, and the compiled steps on them (the walks are lockstep.py's).

A lane is one component's place in the arrays: core_LN are the cosines to its direction, states its
`State` with an axis L in front. What a step saw of each lane comes back in two small arrays
(`fetched`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from g2is_jax.features.unit_rows import cosines_to_directions, cosines_to_rows
from g2is_jax.selection.walk.equations import Choice, State, WalkPool, advance, choose, empty


class Sums(NamedTuple):
    """The part of a walk's state that decides with its rows and is no array over the pool."""

    size: jax.Array
    sum_squared: jax.Array
    sum_core: jax.Array
    references_3: jax.Array


NO_SUMS = Sums._make([np.int32(0), *np.zeros(2, np.float32), np.zeros(3, np.float32)])


def _one(tree, place):
    return jax.tree.map(lambda of_L: of_L[place], tree)


def _put(tree, place, one):
    return jax.tree.map(lambda of_L, new: of_L.at[place].set(new), tree, one)


def _look(pool, rules, core_LN, states: State) -> tuple[jax.Array, jax.Array]:
    """Each lane's next choice and its sums, in two arrays: each one fetched is a wait."""
    choices = jax.vmap(partial(choose, pool, rules))(core_LN, states)
    whole = (choices.row, choices.reason, choices.top, states.size)
    seen = (choices.score, choices.previous, choices.core, choices.smallest, choices.closest)
    sums = (states.sum_squared, states.sum_core, *states.references_3.T)
    return jnp.stack(whole, axis=1), jnp.stack([*seen, *sums], axis=1)


def fetched(seen) -> list[tuple[Choice, Sums]]:
    """What `_look` saw of each lane, on the host."""
    pairs = []
    for whole, of_L in zip(*jax.device_get(seen), strict=True):
        row, reason, top, size = whole
        *chosen, closest, sum_squared, sum_core = of_L[:7]
        choice = Choice._make((row, reason, *chosen, top, closest))
        pairs.append((choice, Sums(size, sum_squared, sum_core, of_L[7:])))
    return pairs


@partial(jax.jit, static_argnames="lanes")
def nothing(pool: WalkPool, lanes: int) -> tuple[jax.Array, State]:
    """core_LN and states with nothing in them."""
    zeros_N = 0 * pool.rows.inverse_length_N  # on the pool's devices
    core_LN = jnp.stack([zeros_N] * lanes)
    used_N, spent_S = zeros_N > 0, jnp.zeros(1, jnp.int32)
    return core_LN, jax.vmap(partial(empty, used_N, spent_S, jnp.int32(0)))(core_LN)


@partial(jax.jit, donate_argnames=("core_LN", "states"))
def begun(pool, rules, core_LN, states: State, places_B, directions_BP, used_N, budgets_B):
    """Walks that have chosen nothing, put in their places; a place beyond the last is dropped."""
    core_BN = cosines_to_directions(pool.rows, directions_BP)
    empty_walk = partial(empty, used_N, states.spent_S[0])
    new = jax.vmap(empty_walk)(budgets_B, core_BN)
    states = jax.tree.map(lambda of_L, of_B: of_L.at[places_B].set(of_B, mode="drop"), states, new)
    return core_LN.at[places_B].set(core_BN, mode="drop"), states, _look(pool, rules, core_BN, new)


@partial(jax.jit, donate_argnames="states")
def without(pool, rules, core_LN, states: State, place, row):
    """A lane's walk with one row less to choose from."""
    states = states._replace(used_N=states.used_N.at[place, row].set(True))
    return states, _look_at(pool, rules, core_LN, states, place)


@partial(jax.jit, donate_argnames="states")
def with_sums(pool, rules, core_LN, states: State, place, used_N, counters, sums: Sums):
    """A lane's walk as it was; its cosines over the pool are right already."""
    remaining, taken, last = counters
    state = _one(states, place)._replace(
        used_N=used_N, remaining=remaining, taken=taken, last=last, **sums._asdict()
    )
    states = _put(states, place, state)
    return states, _look_at(pool, rules, core_LN, states, place)


def _look_at(pool, rules, core_LN, states: State, place):
    one = jax.tree.map(lambda of_L: of_L[place][None], states)
    return _look(pool, rules, core_LN[place][None], one)


@partial(jax.jit, donate_argnames="states")
def folded(pool: WalkPool, states: State, place, rows_R, count, first) -> State:
    """Adds the cosines of `count` rows to a lane's; `first`: to a lane's that has none."""
    cosines_RN = cosines_to_rows(pool.rows, rows_R)
    is_row_R1 = (jnp.arange(len(rows_R)) < count)[:, None]
    state = _one(states, place)
    smallest_N = jnp.where(is_row_R1, cosines_RN, jnp.inf).min(axis=0)
    largest_N = jnp.where(is_row_R1, cosines_RN, -jnp.inf).max(axis=0)
    state = state._replace(
        previous_N=cosines_RN[count - 1],
        smallest_N=jnp.where(first, smallest_N, jnp.minimum(state.smallest_N, smallest_N)),
        largest_N=jnp.where(first, largest_N, jnp.maximum(state.largest_N, largest_N)),
        along_sum_N=jnp.where(first, 0, state.along_sum_N)
        + jnp.where(is_row_R1, cosines_RN, 0).sum(axis=0),
    )
    return _put(states, place, state)


@partial(jax.jit, donate_argnames="states")
def stepped(pool: WalkPool, rules, core_LN, states: State, rows_L, reasons_L, cores_L):
    """Every lane takes its row; one whose row is -1 stays as it is."""
    previous_LN = cosines_to_rows(pool.rows, jnp.maximum(rows_L, 0))

    def lane(state: State, row, reason, core, previous_N) -> State:
        moved = advance(pool, state, row, reason, core, previous_N)
        return jax.tree.map(lambda new, old: jnp.where(row >= 0, new, old), moved, state)

    states = jax.vmap(lane)(states, rows_L, reasons_L, cores_L, previous_LN)
    return states, _look(pool, rules, core_LN, states)
