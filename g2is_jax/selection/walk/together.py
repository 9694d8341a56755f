"""One walk towards all directions together, each weighted by how little it is served so far.

S is what has been chosen, and direction d is served so far by

    served_d = sum over s in S of max(0, cos(s, k_d)).

What a row j would add is the marginal gain of an alpha-fair utility (Mo and Walrand 2000):

    aim(j) = sum over d of need_d max(0, cos(j, k_d)),  need_d = weight_d (1 + served_d / c)^-alpha,

the needs normalised to sum 1, c being what the best row gives a direction, on average. alpha 0 is
the mean influence (LESS's ranking without subtasks), 1/2 nearly the greedy step of `coverage`; the
larger it is, the more the least served direction decides. From this is taken

    drift |m| beside(j),  beside(j) = mean over s in S' of cos(j, s) - cos(j, m) cos(s, m),

what j has in common with the chosen rows across m, the mean of the directions: rows of one kind
lead somewhere together, and not all of it is the target. With <j, m> for the aim this is the step
of Frank and Wolfe (1956) towards the mean s of chosen rows that has the largest
<s, m> / |m| - drift / 2 |s across m|^2. It is measured anew when S has grown by a sixteenth.

The walk is that of choice.py with what remains in place of cos(j, k): S' is all of S, and Eq. 6
measures against m.

Differs from the paper, which walks component by component and gives each rows by its weight,
whether other rows serve it or not. Cost: one read of the features for each row, and 4 bytes beside
them for each row and direction.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from g2is_jax.features.unit_rows import cosines_to_directions, cosines_to_rows, unit_rows
from g2is_jax.selection.walk.choice import Choice, WalkTrace, choose, no_trace, record
from g2is_jax.selection.walk.equations import (
    SHORTEST_SUM,
    State,
    WalkPool,
    WalkRules,
    advance,
    empty,
)

COLUMNS = 16  # directions whose cosines are computed at a time
LAG = 16  # beside(j) is measured anew when one row for as many chosen has come


class Together(NamedTuple):
    """The trace, the direction that gained most by each row, and the closest decision."""

    trace: WalkTrace
    direction_N: jax.Array
    closest: jax.Array


class Directions(NamedTuple):
    """The directions of a walk, and how the pool's rows lie to them."""

    core_CP: jax.Array
    weights_C: jax.Array
    served_CN: jax.Array  # what each row would add to each direction
    mean_N: jax.Array  # cosines to the mean
    best: jax.Array  # c
    fairness: jax.Array  # alpha
    drift: jax.Array  # times |m|


class Beside(NamedTuple):
    """How far each row leads the walk beside the directions, as it was measured last."""

    of_N: jax.Array
    due: jax.Array  # when as many rows are chosen it is measured anew


@jax.jit
def walk_together(
    pool: WalkPool, rules: WalkRules, core_CP, weights_C, fairness, drift, used_N, spent_S, budget
) -> Together:
    """Walks until the budget is spent or no row can be taken.

    core_CP are unit directions, weights_C their shares (0: does not count), fairness is alpha.
    """
    directions = directions_of(pool, core_CP, weights_C, fairness, drift)
    state = empty(used_N, spent_S, budget, directions.mean_N)
    trace = no_trace(directions.mean_N)
    served_C, beside = jnp.zeros_like(weights_C), nothing_beside(directions)

    def step(carry):
        state, served_C, beside, trace, direction_N, closest, (choice, direction) = carry
        trace = record(trace, state.taken, choice)
        direction_N = direction_N.at[choice.row].set(direction)
        row_N = cosines_to_rows(pool.rows, choice.row[None])[0]
        mean = directions.mean_N[choice.row]
        state = advance(pool, state, choice.row, choice.starts, mean, row_N)
        served_C = served_C + column(directions, choice.row)
        beside = measured(directions, state, beside)
        following = look(pool, rules, directions, state, served_C, beside)
        closest = jnp.minimum(closest, following[0].closest)
        return state, served_C, beside, trace, direction_N, closest, following

    first = look(pool, rules, directions, state, served_C, beside)
    carry = state, served_C, beside, trace, trace.order_N, first[0].closest, first
    carry = lax.while_loop(lambda carry: carry[-1][0].row >= 0, step, carry)
    return Together(*carry[3:6])


def directions_of(pool: WalkPool, core_CP, weights_C, fairness, drift) -> Directions:
    """Computes how the pool's rows lie to the directions; reads the features once per COLUMNS."""
    weights_C = weights_C / weights_C.sum()
    mean_P = jnp.matmul(weights_C, core_CP, precision=lax.Precision.HIGHEST)
    length = jnp.linalg.norm(mean_P)
    served, mean_N = [], jnp.zeros_like(pool.rows.inverse_length_N)
    for start in range(0, len(core_CP), COLUMNS):
        block = slice(start, start + COLUMNS)
        cosines_BN = cosines_to_directions(pool.rows, core_CP[block])
        mean_N += jnp.matmul(weights_C[block], cosines_BN, precision=lax.Precision.HIGHEST)
        served.append(jnp.maximum(cosines_BN, 0))
    served_CN = jnp.concatenate(served)
    mean_N = jnp.where(length > SHORTEST_SUM, mean_N / length, 0)
    best = jnp.vdot(weights_C, served_CN.max(axis=1))
    best = jnp.where(best > 0, best, 1)
    return Directions(core_CP, weights_C, served_CN, mean_N, best, fairness, drift * length)


def nothing_beside(directions: Directions) -> Beside:
    """As nothing is chosen; due after the first row."""
    return Beside(jnp.zeros_like(directions.mean_N), jnp.int32(1))


def measured(directions: Directions, state: State, before: Beside) -> Beside:
    """Measured anew where that is due, beside(j) above."""
    across_N = state.cosines.along_sum_N - directions.mean_N * state.sum.core
    is_due = state.taken >= before.due
    return Beside(
        jnp.where(is_due, across_N / jnp.maximum(state.sum.size, 1), before.of_N),
        jnp.where(is_due, state.taken + jnp.maximum(state.taken // LAG, 1), before.due),
    )


def look(
    pool: WalkPool,
    rules: WalkRules,
    directions: Directions,
    state: State,
    served_C,
    beside: Beside,
) -> tuple[Choice, jax.Array]:
    """The next choice from the whole pool, and the direction that gains most by it."""
    need_C = needs(directions, served_C)
    aim_N = aims(directions, need_C, directions.served_CN, beside.of_N)
    choice = choose(pool, rules, directions.mean_N, state, aim_N)
    return seen_by(pool, directions, need_C, choice)


def needs(directions: Directions, served_C) -> jax.Array:
    """The need of each direction, need_d above.

    Computed by logarithms: the power of a large alpha would be 0 for every direction.
    """
    logs_C = jnp.log(directions.weights_C) - directions.fairness * jnp.log1p(
        served_C / directions.best
    )
    return jax.nn.softmax(logs_C)


def aims(directions: Directions, need_C, served_CN, beside_N) -> jax.Array:
    """Each row's worth to the walk, aim(j) - drift |m| beside(j) above."""
    aim_N = jnp.matmul(need_C, served_CN, precision=lax.Precision.HIGHEST)
    return aim_N - directions.drift * beside_N


def seen_by(
    pool: WalkPool, directions: Directions, need_C, choice: Choice
) -> tuple[Choice, jax.Array]:
    """The choice with its cosine to the direction that gains most by it, and that direction."""
    gains_C = need_C * column(directions, choice.row)
    direction = jnp.argmax(gains_C).astype(jnp.int32)
    core = jnp.vdot(unit_rows(pool.rows, choice.row[None])[0], directions.core_CP[direction])
    return choice._replace(core=core), direction


def column(directions: Directions, row) -> jax.Array:
    """The row's gain to each direction. A plain index would gather all rows on each device."""
    return jnp.take(directions.served_CN, row[None], axis=1, mode="clip")[:, 0]
