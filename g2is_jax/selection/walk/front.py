"""The walk of together.py with few reads of the features: same rows, same order.

A step has to know how the rows chosen so far lie to the candidates alone. The *front* are the rows
of the largest aims, gathered; the walk goes on within it while its choice is certainly that of the
whole pool: the row breaks no rule, and every row outside has a smaller aim by more than the slack;
and until what lies beside the directions is to be measured anew.
The rows chosen meanwhile wait; then one read of the features enters all of them, a step on the
whole pool is taken, and a new front is gathered. Walks of coherence (pull below 1) or with stored
neighbours choose rows of small aims too and have no front.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from g2is_jax.features.rows_on_disk import UnitRowsOnDisk, extremes
from g2is_jax.features.unit_rows import cosines_to_rows, taken_rows, unit_rows
from g2is_jax.selection.walk.choice import (
    YIELDED,
    Choice,
    WalkTrace,
    choose,
    no_trace,
    of_row,
    record,
)
from g2is_jax.selection.walk.equations import (
    SLACK,
    Cosines,
    State,
    WalkPool,
    WalkRules,
    conflict,
    cosines_after,
    empty,
    fitting,
    joined,
    no_cosines,
    state_after,
)
from g2is_jax.selection.walk.together import (
    Beside,
    Directions,
    Together,
    aims,
    column,
    directions_of,
    look,
    measured,
    needs,
    nothing_beside,
    seen_by,
)

FEW = (1, 4, 12)  # waiting rows that have a program of their own


class _Walk(NamedTuple):
    """An unfinished walk, and its next choice."""

    state: State  # over N; its cosines and its sum are without the waiting rows
    served_C: jax.Array
    beside: Beside
    trace: WalkTrace
    direction_N: jax.Array
    closest: jax.Array
    choice: Choice
    direction: jax.Array
    along: jax.Array  # <g, sum> of the choice
    reads: jax.Array  # of the features so far


class _Front(NamedTuple):
    """The rows of the largest aims, in the pool's order."""

    places_F: jax.Array  # in the pool
    inside_N: jax.Array
    in_conflict_N: jax.Array  # rows of the pool that break Eq. 5, whatever else is chosen
    pool: WalkPool
    mean_F: jax.Array
    served_CF: jax.Array
    beside_F: jax.Array


class _Waiting(NamedTuple):
    """Rows chosen since the last read, and which of them started a new S'."""

    rows_W: jax.Array
    starts_W: jax.Array
    number: jax.Array


@functools.partial(jax.jit, static_argnames=("front_rows", "waiting_rows"))
def walk_on_front(
    pool: WalkPool,
    rules: WalkRules,
    core_CP,
    weights_C,
    fairness,
    drift,
    used_N,
    spent_S,
    budget,
    front_rows: int,
    waiting_rows: int,
) -> tuple[Together, jax.Array]:
    """Walks as `walk_together` does, with pull 1 and no stored neighbours; returns the number of
    reads of the features too.

    The pool must have more than front_rows. waiting_rows: the most that one read enters.
    """
    directions = directions_of(pool, core_CP, weights_C, fairness, drift)
    state = empty(used_N, spent_S, budget, directions.mean_N)
    served_C, trace = jnp.zeros_like(weights_C), no_trace(directions.mean_N)
    beside = nothing_beside(directions)
    choice, direction = look(pool, rules, directions, state, served_C, beside)
    walk = _Walk(state, served_C, beside, trace, trace.order_N, choice.closest, choice, direction,
                 jnp.float32(0), jnp.int32(0))  # fmt: skip

    def until_the_next_read(walk: _Walk) -> _Walk:
        front = _gather(pool, rules, directions, walk, front_rows)
        walk, of_front, waiting = _walk_within(pool, rules, directions, front, walk, waiting_rows)
        state = _entered(pool, walk.state, of_front, waiting)
        beside = measured(directions, state, walk.beside)
        choice, direction = look(pool, rules, directions, state, walk.served_C, beside)
        return walk._replace(
            state=state,
            beside=beside,
            choice=choice,
            direction=direction,
            along=of_row(state.cosines.along_sum_N, choice.row),
            closest=jnp.minimum(walk.closest, choice.closest),
            reads=walk.reads + 1,
        )

    walk = lax.while_loop(lambda walk: walk.choice.row >= 0, until_the_next_read, walk)
    return Together(walk.trace, walk.direction_N, walk.closest), walk.reads


def _gather(
    pool: WalkPool, rules: WalkRules, directions: Directions, walk: _Walk, front_rows: int
) -> _Front:
    need_C = needs(directions, walk.served_C)
    aim_N = aims(directions, need_C, directions.served_CN, walk.beside.of_N)
    aim_N = jnp.where(fitting(pool, walk.state), aim_N, -jnp.inf)
    places_F = jnp.sort(lax.top_k(aim_N, front_rows)[1])
    of_front = WalkPool(
        taken_rows(pool.rows, places_F),
        pool.costs_N[places_F],
        pool.sources_N[places_F],
        pool.cap,
        None,
    )
    inside_N = jnp.zeros_like(walk.state.used_N).at[places_F].set(True)
    served_CF = jnp.take(directions.served_CN, places_F, axis=1, mode="clip")
    in_conflict_N = conflict(rules, walk.state.cosines) > 0
    in_conflict_N &= ~walk.choice.starts  # else the choice's S' has none of their conflicts
    mean_F, beside_F = directions.mean_N[places_F], walk.beside.of_N[places_F]
    return _Front(places_F, inside_N, in_conflict_N, of_front, mean_F, served_CF, beside_F)


def _walk_within(
    pool: WalkPool,
    rules: WalkRules,
    directions: Directions,
    front: _Front,
    walk: _Walk,
    waiting_rows: int,
) -> tuple[_Walk, State, _Waiting]:
    """Takes the choice, and those after it that are certain on the front."""
    of_front = walk.state._replace(
        used_N=walk.state.used_N[front.places_F],
        cosines=jax.tree.map(lambda of_N: of_N[front.places_F], walk.state.cosines),
    )
    nothing_W = jnp.zeros(waiting_rows, jnp.int32)
    waiting = _Waiting(nothing_W, nothing_W.astype(bool), jnp.int32(0))

    def step(carry):
        walk, of_front, waiting, _ = carry
        walk, of_front, waiting = _enter_choice(pool, directions, front, walk, of_front, waiting)
        need_C = needs(directions, walk.served_C)
        aim_F = aims(directions, need_C, front.served_CF, front.beside_F)
        choice = choose(front.pool, rules, front.mean_F, of_front, aim_F)
        certain, margin = _is_certain(
            rules, choice, *_outside(pool, directions, front, walk, need_C)
        )
        along = of_front.cosines.along_sum_N[choice.row]
        row = jnp.where(choice.row >= 0, front.places_F[choice.row], -1)
        margin = jnp.minimum(choice.closest, margin)
        choice, direction = seen_by(pool, directions, need_C, choice._replace(row=row))
        # Else the whole pool is looked at, and tells.
        certain &= waiting.number < waiting_rows
        certain &= (directions.drift == 0) | (of_front.taken < walk.beside.due)
        closest = jnp.where(certain, jnp.minimum(walk.closest, margin), walk.closest)
        walk = walk._replace(choice=choice, direction=direction, along=along, closest=closest)
        return walk, of_front, waiting, certain

    return lax.while_loop(
        lambda carry: carry[-1], step, (walk, of_front, waiting, jnp.bool_(True))
    )[:3]


def _enter_choice(
    pool, directions: Directions, front: _Front, walk: _Walk, of_front: State, waiting: _Waiting
):
    """Enters the choice into all but the cosines and sums of the whole pool."""
    row, starts = walk.choice.row, walk.choice.starts
    trace = record(walk.trace, of_front.taken, walk.choice)
    row_F = cosines_to_rows(pool.rows, row[None], front.pool.rows)[0]
    used_F = of_front.used_N | (front.places_F == row)
    mean = directions.mean_N[row]
    of_front = state_after(pool, of_front, row, starts, mean, row_F, walk.along, used_F)
    state = walk.state._replace(
        used_N=walk.state.used_N.at[row].set(True),
        spent_S=of_front.spent_S,
        remaining=of_front.remaining,
    )
    waiting = _Waiting(
        waiting.rows_W.at[waiting.number].set(row),
        waiting.starts_W.at[waiting.number].set(starts),
        waiting.number + 1,
    )
    walk = walk._replace(
        state=state,
        trace=trace,
        direction_N=walk.direction_N.at[row].set(walk.direction),
        served_C=walk.served_C + column(directions, row),
    )
    return walk, of_front, waiting


def _outside(pool: WalkPool, directions: Directions, front: _Front, walk: _Walk, need_C):
    """The largest aim of the rows that are not in the front and could be chosen; and of those
    among them that may keep Eq. 5."""
    aim_N = aims(directions, need_C, directions.served_CN, walk.beside.of_N)
    aim_N = jnp.where(fitting(pool, walk.state) & ~front.inside_N, aim_N, -jnp.inf)
    return aim_N.max(), jnp.where(front.in_conflict_N, -jnp.inf, aim_N).max()


def _is_certain(rules: WalkRules, choice: Choice, free, kept) -> tuple[jax.Array, jax.Array]:
    """True if no row outside the front could change the choice, and how far from that it is.

    free, kept: as `_outside` returns them. Where Eq. 5 yielded, a row that keeps it must not be
    worth enough; where it did not, a row that breaks it must not be worth too much.
    """
    yielded = choice.reason == YIELDED
    worth = jnp.where(rules.worth > 0, rules.worth, 0)
    margin = jnp.where(
        yielded,
        jnp.minimum(choice.score - free, worth * choice.score - kept),
        jnp.minimum(choice.score - kept, choice.score - worth * jnp.maximum(free, 0)),
    )
    certain = (choice.row >= 0) & ((choice.reason == 0) | yielded) & (margin > 2 * SLACK)
    return certain, margin


def _entered(pool: WalkPool, state: State, of_front: State, waiting: _Waiting) -> State:
    """The state over N with the waiting rows entered in their order; one read of the features."""
    if isinstance(pool.rows, UnitRowsOnDisk):
        cosines = _from_disk(pool.rows, state.cosines, waiting)
    else:
        cosines = _from_memory(pool, state.cosines, waiting)
    return of_front._replace(used_N=state.used_N, cosines=cosines)


def _from_memory(pool: WalkPool, cosines: Cosines, waiting: _Waiting) -> Cosines:
    def entering(size: int):
        def enter_up_to(cosines: Cosines) -> Cosines:
            cosines_SN = cosines_to_rows(pool.rows, waiting.rows_W[:size])

            def enter(place, cosines):
                return cosines_after(cosines, cosines_SN[place], waiting.starts_W[place])

            return lax.fori_loop(0, waiting.number, enter, cosines)

        return enter_up_to

    # A product with fewer rows takes less time.
    sizes = [*(size for size in FEW if size < len(waiting.rows_W)), len(waiting.rows_W)]
    fitting_size = sum(waiting.number > size for size in sizes[:-1])
    return lax.switch(fitting_size, [entering(size) for size in sizes], cosines)


def _from_disk(rows: UnitRowsOnDisk, cosines: Cosines, waiting: _Waiting) -> Cosines:
    starts_W = waiting.starts_W & (jnp.arange(len(waiting.rows_W)) < waiting.number)
    first = jnp.max(jnp.where(starts_W, jnp.arange(len(starts_W)), 0))  # of the S' at the end
    directions_WP = unit_rows(rows, waiting.rows_W)
    later = Cosines._make(extremes(rows, directions_WP, first, waiting.number))
    none = no_cosines(later.previous_N)
    earlier = jax.tree.map(lambda a, b: jnp.where(starts_W.any(), a, b), none, cosines)
    return joined(earlier, later)
