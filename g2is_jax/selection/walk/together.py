"""One walk towards all directions together, each weighted by how little it is served so far.

S is what has been chosen, and direction d is served so far by

    served_d = sum over s in S of max(0, cos(s, k_d)).

What a row j would add is the marginal gain of an alpha-fair utility (Mo and Walrand 2000):

    aim(j) = sum over d of need_d max(0, cos(j, k_d)),  need_d = weight_d (1 + served_d / c)^-alpha,

the needs normalised to sum 1, c being what the best row gives a direction, on average. alpha 0 is
the mean influence (LESS's ranking without subtasks), 1/2 nearly the greedy step of `coverage`; the
larger it is, the more the least served direction decides. The walk is that of choice.py with aim(j)
in place of cos(j, k): S' is all of S, and Eq. 6 measures against the mean of the directions.

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


@jax.jit
def walk_together(
    pool: WalkPool, rules: WalkRules, core_CP, weights_C, fairness, used_N, spent_S, budget
) -> Together:
    """Walks until the budget is spent or no row can be taken.

    core_CP are unit directions, weights_C their shares (0: does not count), fairness is alpha.
    """
    directions = directions_of(pool, core_CP, weights_C, fairness)
    state = empty(used_N, spent_S, budget, directions.mean_N)
    trace = no_trace(directions.mean_N)
    served_C = jnp.zeros_like(weights_C)

    def step(carry):
        state, served_C, trace, direction_N, closest, (choice, direction) = carry
        trace = record(trace, state.taken, choice)
        direction_N = direction_N.at[choice.row].set(direction)
        row_N = cosines_to_rows(pool.rows, choice.row[None])[0]
        mean = directions.mean_N[choice.row]
        state = advance(pool, state, choice.row, choice.starts, mean, row_N)
        served_C = served_C + column(directions, choice.row)
        following = look(pool, rules, directions, state, served_C)
        closest = jnp.minimum(closest, following[0].closest)
        return state, served_C, trace, direction_N, closest, following

    first = look(pool, rules, directions, state, served_C)
    carry = state, served_C, trace, trace.order_N, first[0].closest, first
    carry = lax.while_loop(lambda carry: carry[-1][0].row >= 0, step, carry)
    return Together(*carry[2:5])


def directions_of(pool: WalkPool, core_CP, weights_C, fairness) -> Directions:
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
    return Directions(core_CP, weights_C, served_CN, mean_N, jnp.where(best > 0, best, 1), fairness)


def look(
    pool: WalkPool, rules: WalkRules, directions: Directions, state: State, served_C
) -> tuple[Choice, jax.Array]:
    """The next choice from the whole pool, and the direction that gains most by it."""
    need_C = needs(directions, served_C)
    aim_N = aims(need_C, directions.served_CN)
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


def aims(need_C, served_CN) -> jax.Array:
    """Each row's worth to the walk, aim(j) above."""
    return jnp.matmul(need_C, served_CN, precision=lax.Precision.HIGHEST)


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
