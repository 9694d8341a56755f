"""The walk in turns: the direction that the chosen rows serve least takes the next row.

S is what has been chosen so far, S_d the part of it chosen for direction d, and

    served_d = sum over s in S of max(0, cos(s, k_d)), divided by d's weight.

Until the budget is spent the least served direction takes a row (of several the one with the fewest
rows of its own, then the first). Its first one, the anchor, has the largest cos(j, k_d); a later
one the largest coherence with the row it took last, pulled towards k_d. A valid row

    conflicts with no row of S      rule 5, over all walks and for anchors too; but not over rows of
                                    directions against this one, cos(k_d, k_e) < 0: a target that
                                    pulls two ways (answers yes and no) needs rows in conflict
    is consistent with S_d          rule 6, sum over S_d
    is no near-copy of a row of S   the similarity cap.

Without one, rules are dropped as in the other walk, or the direction takes no more turns.

Differs from the paper, which finishes one component before it begins the next, lets rows of
different components conflict, and gives a component rows by its weight, served or not.

Cost. One product of the features serves a round of up to ROUND rows of different directions. In a
round the rows chosen since the last product have not told the pool their cosines yet. They can but
take rows from those that are valid: so the best row stands if it is in no conflict with these few,
which is looked up one by one, and else the round ends. Beside the features 16 bytes are held for
each row and direction. Numerical rule and reasons are those of step.py.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from g2is_jax.selection.rows import cosines_to_directions, cosines_to_rows, unit_rows
from g2is_jax.selection.step import (
    ANCHOR,
    LAST_VALID_STAGE,
    SLACK,
    Choice,
    State,
    WalkPool,
    WalkRules,
    WalkTrace,
    advance,
    choose,
    empty,
    fitting,
    no_trace,
    record,
)

ROUND = 16
EQUALLY_SERVED = 10 * SLACK  # a sum of cosines is rounded more than a cosine


class Turns(NamedTuple):
    """What was chosen: the trace, for which direction each row was, the closest decision, and the
    reads of the features."""

    trace: WalkTrace
    direction_N: jax.Array
    closest: jax.Array
    passes: jax.Array


class _Known(NamedTuple):
    """Of all rows: cosines to each direction and to its last row, products with its sum, smallest
    cosine to its rows. agree_DD: directions whose rows must not conflict."""

    agree_DD: jax.Array
    core_DN: jax.Array
    previous_DN: jax.Array
    along_sum_DN: jax.Array
    smallest_DN: jax.Array


class _Directions(NamedTuple):
    """What is known of each direction's own rows. Without any, its row is -1 and its sums 0."""

    served_D: jax.Array
    taken_D: jax.Array
    ended_D: jax.Array
    last_D: jax.Array
    sum_squared_D: jax.Array
    sum_core_D: jax.Array
    references_D3: jax.Array


class _Round(NamedTuple):
    """Rows chosen since the last product, -1 where there is none yet, and their directions."""

    rows_R: jax.Array
    directions_R: jax.Array
    units_RP: jax.Array
    size: jax.Array
    over: jax.Array  # the next choice needs the cosines of these rows


class _Walk(NamedTuple):
    """`walk` is that of all directions together: S in place of S', without the round's rows in its
    largest cosines; the smallest are in `_Known`."""

    walk: State
    directions: _Directions
    round: _Round
    trace: WalkTrace
    direction_N: jax.Array
    closest: jax.Array


@jax.jit
def walk_in_turns(
    pool: WalkPool, rules: WalkRules, core_DP, weights_D, used_N, spent_S, budget
) -> Turns:
    """Walks until the budget is spent or no row can be taken.

    core_DP are unit directions, weights_D their shares (0: never served).
    """
    core_DN, passes = _core_cosines(pool, core_DP)
    agree_DD = jnp.matmul(core_DP, core_DP.T, precision=lax.Precision.HIGHEST) >= -SLACK
    zeros_DN = jnp.zeros_like(core_DN)
    known = _Known(agree_DD, core_DN, zeros_DN, zeros_DN, jnp.full_like(core_DN, jnp.inf))
    state = _beginning(pool, core_DP, weights_D, used_N, spent_S, budget)

    def goes_on(carry):
        return _goes_on(pool, carry[1])

    def one_round(carry):
        known, state, passes = carry
        state = lax.while_loop(
            lambda state: _goes_on(pool, state) & ~state.round.over,
            partial(_turn, pool, rules, weights_D, known),
            state,
        )
        known, state = _told(pool, known, state)
        return known, state, passes + 1

    _, state, passes = lax.while_loop(goes_on, one_round, (known, state, jnp.int32(passes)))
    return Turns(state.trace, state.direction_N, state.closest, passes)


def _core_cosines(pool: WalkPool, core_DP) -> tuple[jax.Array, int]:
    blocks = [core_DP[start : start + ROUND] for start in range(0, len(core_DP), ROUND)]
    found = [cosines_to_directions(pool.rows, block_BP) for block_BP in blocks]
    return jnp.concatenate(found), len(blocks)


def _beginning(pool: WalkPool, core_DP, weights_D, used_N, spent_S, budget) -> _Walk:
    zeros_N = jnp.zeros_like(pool.rows.inverse_length_N)
    walk = empty(used_N, spent_S, budget, zeros_N)
    walk = walk._replace(largest_N=jnp.full_like(zeros_N, -jnp.inf))
    count, width = core_DP.shape
    zeros_D, nowhere_D = jnp.zeros(count), jnp.full(count, -1, jnp.int32)
    directions = _Directions(
        zeros_D, 0 * nowhere_D, weights_D <= 0, nowhere_D, zeros_D, zeros_D, jnp.zeros((count, 3))
    )
    trace = no_trace(zeros_N)
    return _Walk(walk, directions, _no_rows(width), trace, trace.order_N, jnp.float32(jnp.inf))


def _no_rows(width: int) -> _Round:
    nowhere_R = jnp.full(ROUND, -1, jnp.int32)
    return _Round(nowhere_R, nowhere_R, jnp.zeros((ROUND, width)), jnp.int32(0), jnp.bool_(False))


def _goes_on(pool: WalkPool, state: _Walk) -> jax.Array:
    return fitting(pool, state.walk).any() & ~state.directions.ended_D.all()


def _turn(pool: WalkPool, rules: WalkRules, weights_D, known: _Known, state: _Walk) -> _Walk:
    """One direction's turn, unless the round is over before."""
    direction, gap = _least_served(state.directions, weights_D)
    own = _of_direction(known, state, direction)
    core_N = known.core_DN[direction]
    choice = choose(pool, rules, core_N, own)
    units_2P = unit_rows(pool.rows, jnp.stack([choice.row, choice.top]))
    agree_R = known.agree_DD[direction, state.round.directions_R]
    choice, stands = _beside_the_round(rules, state.round, agree_R, choice, units_2P)
    waiting = (state.round.directions_R == direction).any() | ~stands
    over = (state.round.size == ROUND) | (waiting & (state.round.size > 0))

    begins = own.last < 0
    anchor = begins & (choice.reason <= LAST_VALID_STAGE)
    choice = choice._replace(reason=jnp.where(anchor, ANCHOR, choice.reason))
    moved = advance(
        pool, own, choice.row, jnp.where(begins, ANCHOR, choice.reason), choice.core, core_N
    )

    def is_over():
        return state._replace(round=state.round._replace(over=jnp.bool_(True)))

    def ends():
        ended_D = state.directions.ended_D.at[direction].set(True)
        return state._replace(directions=state.directions._replace(ended_D=ended_D))

    def takes():
        walk, size = state.walk, state.round.size
        return _Walk(
            walk._replace(
                used_N=moved.used_N,
                spent_S=moved.spent_S,
                remaining=moved.remaining,
                taken=walk.taken + 1,
            ),
            _with_row(known, state.directions, direction, choice.row, moved),
            _Round(
                state.round.rows_R.at[size].set(choice.row),
                state.round.directions_R.at[size].set(direction),
                state.round.units_RP.at[size].set(units_2P[0]),
                size + 1,
                state.round.over,
            ),
            record(state.trace, walk.taken, choice),
            state.direction_N.at[choice.row].set(direction),
            jnp.minimum(state.closest, jnp.minimum(choice.closest, gap)),
        )

    return lax.switch(jnp.where(over, 0, jnp.where(choice.row < 0, 1, 2)), (is_over, ends, takes))


def _of_direction(known: _Known, state: _Walk, direction) -> State:
    """The walk as this direction sees it: S for rules against other rows, S_d for the rest."""
    one = jax.tree.map(lambda of_D: of_D[direction], state.directions)
    begins = one.last_D < 0
    agree_D1 = known.agree_DD[direction][:, None]
    return state.walk._replace(
        size=jnp.int32(1),  # rules hold for anchors too
        smallest_N=jnp.where(agree_D1, known.smallest_DN, jnp.inf).min(axis=0),
        last=one.last_D,
        previous_N=jnp.where(begins, known.core_DN[direction], known.previous_DN[direction]),
        along_sum_N=known.along_sum_DN[direction],
        sum_squared=one.sum_squared_D,
        sum_core=one.sum_core_D,
        references_3=one.references_D3,
    )


def _beside_the_round(
    rules: WalkRules, round: _Round, agree_R, choice: Choice, units_2P
) -> tuple[Choice, jax.Array]:
    """The choice with the round's rows in what is seen of it, and whether they leave it as it is.

    Dropped rules may be dropped for others now: such a choice never stands beside a row.
    """
    cosines_2R = jnp.matmul(units_2P, round.units_RP.T, precision=lax.Precision.HIGHEST)
    is_row_R = (round.rows_R >= 0)[None]
    smallest_2 = jnp.where(is_row_R & agree_R[None], cosines_2R, jnp.inf).min(axis=1)
    largest_2 = jnp.where(is_row_R, cosines_2R, -jnp.inf).max(axis=1)
    conflict_2 = -(rules.tolerance + SLACK) - smallest_2
    similar_2 = largest_2 - (rules.max_similarity + SLACK)
    stands = (jnp.maximum(conflict_2, similar_2) <= 0).all() & (choice.reason <= LAST_VALID_STAGE)
    nearest = jnp.minimum(jnp.abs(conflict_2), jnp.abs(similar_2)).min()
    choice = choice._replace(
        smallest=jnp.minimum(choice.smallest, smallest_2[0]),
        closest=jnp.minimum(choice.closest, nearest),
    )
    return choice, stands | (choice.row < 0)


def _told(pool: WalkPool, known: _Known, state: _Walk) -> tuple[_Known, _Walk]:
    """The round's rows tell all rows their cosines, and a new round begins."""
    done = state.round
    cosines_RN = cosines_to_rows(pool.rows, jnp.maximum(done.rows_R, 0))
    is_row_R1 = (done.rows_R >= 0)[:, None]
    largest_N = jnp.where(is_row_R1, cosines_RN, -jnp.inf).max(axis=0)
    place_R = jnp.where(done.rows_R >= 0, done.directions_R, len(known.core_DN))  # dropped
    known = known._replace(
        previous_DN=known.previous_DN.at[place_R].set(cosines_RN, mode="drop"),
        along_sum_DN=known.along_sum_DN.at[place_R].add(cosines_RN, mode="drop"),
        smallest_DN=known.smallest_DN.at[place_R].min(cosines_RN, mode="drop"),
    )
    walk = state.walk._replace(largest_N=jnp.maximum(state.walk.largest_N, largest_N))
    return known, state._replace(walk=walk, round=_no_rows(done.units_RP.shape[1]))


def _least_served(directions: _Directions, weights_D) -> tuple[jax.Array, jax.Array]:
    """The direction whose turn it is, and how far from another choice that is."""
    relative_D = jnp.where(weights_D > 0, weights_D, 1) * len(weights_D)  # 1 where all are equal
    served_D = jnp.where(directions.ended_D, jnp.inf, directions.served_D / relative_D)
    equal = served_D.min() + EQUALLY_SERVED
    most = jnp.iinfo(jnp.int32).max
    direction = jnp.argmin(jnp.where(served_D <= equal, directions.taken_D, most))
    others_D = jnp.arange(len(served_D)) != jnp.argmin(served_D)
    gap = jnp.where(others_D, jnp.abs(served_D - equal), jnp.inf).min()
    return direction.astype(jnp.int32), gap


def _with_row(known: _Known, directions: _Directions, direction, row, moved: State) -> _Directions:
    """`row` was chosen for this direction, whose sums are now those of `moved`; it serves all."""
    served_D = directions.served_D + jnp.maximum(known.core_DN[:, row], 0)
    return directions._replace(
        served_D=served_D,
        taken_D=directions.taken_D.at[direction].add(1),
        last_D=directions.last_D.at[direction].set(row),
        sum_squared_D=directions.sum_squared_D.at[direction].set(moved.sum_squared),
        sum_core_D=directions.sum_core_D.at[direction].set(moved.sum_core),
        references_D3=directions.references_D3.at[direction].set(moved.references_3),
    )
