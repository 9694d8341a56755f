"""The gradient walk's choice of one row and what it changes (the rules are at the head of walk.py).

Numerical rule. Cosines and running sums are float32. So that rounding decides nothing
about exact duplicates, orthogonal rows and zero rows, a slack of 1e-6 stands in every comparison:
similarities that differ by less are equal and the lower index wins, a cosine conflicts only below
-(tolerance + 1e-6), rule 6 fails only by more, and a cap is passed only by more. A sum shorter
than 1e-3 has no direction: its cosines are 0.

Cost: one product of the features with one row per pick, O(N) beside it, no N x N graph and no copy
of the features. All settings are traced numbers: sweeping them compiles nothing anew.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from g2is_jax.features.unit_rows import UnitRows, cosines_to_directions, cosines_to_rows

SLACK = 1e-6
SHORTEST_SUM = 1e-3

# A row that fits the budget stands at a stage: which rules it needs dropped (0 none, 1 conflict,
# 2 and consistency, 3 and similarity) times 2, plus 1 when it is no neighbour of the last row.
# A step takes from the lowest stage at hand: even ones by coherence, odd ones by cos(j, k).
LAST_VALID_STAGE, LAST_STAGE, NO_STAGE = 1, 7, 8
STAGE_REASONS = (
    *("neighbour", "fallback", "relaxed conflict", "relaxed conflict"),
    *("relaxed consistency", "relaxed consistency", "relaxed similarity", "relaxed similarity"),
)
WORTH = "worth a conflict"  # rule 5 yielded
STARTS = ("anchor", "reanchor")  # the first row of an S'
REASONS = (*STAGE_REASONS, WORTH, *STARTS)
YIELDED, ANCHOR, REANCHOR = range(len(STAGE_REASONS), len(REASONS))


class WalkPool(NamedTuple):
    """What all walks share. Without neighbours_NE every row is a neighbour."""

    rows: UnitRows
    costs_N: jax.Array
    sources_N: jax.Array
    cap: jax.Array
    neighbours_NE: jax.Array | None


class WalkRules(NamedTuple):
    """WalkConfig as numbers (rules.py)."""

    delta: jax.Array
    reference: jax.Array  # index into rules.DELTA_REFERENCES
    pull: jax.Array
    tolerance: jax.Array
    worth: jax.Array  # 0: rule 5 never yields
    max_similarity: jax.Array  # infinite when off
    last_stage: jax.Array
    reanchor: jax.Array


class State(NamedTuple):
    """One component's walk. Before the first row of S' its cosines and sums mean nothing."""

    used_N: jax.Array
    spent_S: jax.Array
    remaining: jax.Array
    size: jax.Array  # rows in S'
    taken: jax.Array  # rows chosen for this component
    last: jax.Array  # s*
    previous_N: jax.Array  # cos(j, s*)
    smallest_N: jax.Array  # over S'
    largest_N: jax.Array
    along_sum_N: jax.Array  # <g_j, sum>
    sum_squared: jax.Array
    sum_core: jax.Array  # <sum, k>
    references_3: jax.Array  # |cos(., k)| of the current sum, the anchor, the best sum


class Choice(NamedTuple):
    """The next row and what is seen of it.

    row       -1: the walk has ended
    top       the row of the largest score, from which `row` differs only where scores are equal
    closest   the smallest distance of a comparison that would choose another row if it turned: of
              another candidate's score from being equal to the largest, and by how far the row
              keeps rules 5 and 6 and the cap, or a row that would come before it breaks them
              (approximate where rules are dropped)
    """

    row: jax.Array
    reason: jax.Array
    score: jax.Array
    previous: jax.Array
    core: jax.Array
    smallest: jax.Array
    top: jax.Array
    closest: jax.Array


class WalkTrace(NamedTuple):
    """What was seen when a row was chosen, at the row's own place; order -1 where it was not."""

    order_N: jax.Array
    reason_N: jax.Array
    score_N: jax.Array
    previous_N: jax.Array
    core_N: jax.Array
    smallest_N: jax.Array


@jax.jit
def walk_component(
    pool: WalkPool, rules: WalkRules, core_P, used_N, spent_S, remaining
) -> tuple[WalkTrace, jax.Array]:
    """Walks until `remaining` is spent or no row can be taken; the closest decision beside.

    core_P is the unit core direction, used_N what earlier walks took, spent_S what they spent on
    each source, all costs in units of the budget.
    """
    core_N = cosines_to_directions(pool.rows, core_P[None])[0]
    state = empty(used_N, spent_S, remaining, core_N)

    def step(carry):
        state, trace, choice, closest = carry
        trace = record(trace, state.taken, choice)
        previous_N = cosines_to_rows(pool.rows, choice.row[None])[0]
        state = advance(pool, state, choice.row, choice.reason, choice.core, previous_N)
        choice = choose(pool, rules, core_N, state)
        return state, trace, choice, jnp.minimum(closest, choice.closest)

    choice = choose(pool, rules, core_N, state)
    carry = state, no_trace(core_N), choice, choice.closest
    _, trace, _, closest = lax.while_loop(lambda carry: carry[2].row >= 0, step, carry)
    return trace, closest


def empty(used_N, spent_S, remaining, core_N) -> State:
    """A walk that has chosen nothing."""
    zeros_N = jnp.zeros_like(core_N)
    nothing, zero = jnp.int32(0), jnp.float32(0)
    counters = (remaining, nothing, nothing, nothing)
    sums = (zeros_N, zeros_N, zeros_N, zeros_N, zero, zero, jnp.zeros(3, jnp.float32))
    return State(used_N, spent_S, *counters, *sums)


def choose(pool: WalkPool, rules: WalkRules, core_N, state: State, aim_N=None) -> Choice:
    """The next row of this component's walk, given S'.

    aim_N: what a row is worth to the walk, the cosine to the component unless it is given.
    """
    aim_N = core_N if aim_N is None else aim_N
    fits_N = fitting(pool, state)
    dropped_N, broken_N = _dropped_rules(pool, rules, core_N, state)
    first = state.size == 0
    yields, margin = _yields(rules, fits_N, dropped_N, aim_N)
    in_conflict_N = yields & (dropped_N == 1)
    dropped_N = jnp.where(in_conflict_N, 0, dropped_N)
    far_N = _not_near(pool, state)
    stage_N = jnp.where(fits_N, 2 * dropped_N + far_N, NO_STAGE)
    stage = stage_N.min()
    stuck = ~first & (stage > rules.last_stage)
    starts = first | (stuck & rules.reanchor)

    candidates_N = fits_N & (starts | ((stage_N == stage) & ~stuck))
    all_scores_N = jnp.where(
        starts | (stage % 2 == 1), aim_N, coherence(rules, state.previous_N, aim_N)
    )
    scores_N = jnp.where(candidates_N, all_scores_N, -jnp.inf)
    top = jnp.argmax(scores_N).astype(jnp.int32)
    equal = of_row(scores_N, top) - SLACK
    row = jnp.argmax(candidates_N & (scores_N >= equal)).astype(jnp.int32)  # the first such row
    reason = jnp.where(of_row(in_conflict_N, row), YIELDED, stage)
    reason = jnp.where(starts, jnp.where(state.taken == 0, ANCHOR, REANCHOR), reason)

    others_N = candidates_N & (jnp.arange(len(core_N)) != top)
    gap_N = jnp.where(others_N, jnp.abs(scores_N - equal), jnp.inf)
    ahead_N = (stage > 1) | (far_N < stage % 2) | (all_scores_N >= equal)
    rival_N = fits_N & ((dropped_N > 0) & ahead_N | (jnp.arange(len(core_N)) == row))
    turn_N = jnp.where(rival_N & ~first, jnp.abs(broken_N), jnp.inf)
    return Choice(
        row=jnp.where(candidates_N.any(), row, -1),
        reason=reason.astype(jnp.int32),
        score=of_row(scores_N, row),
        previous=of_row(state.previous_N, row),
        core=of_row(core_N, row),
        smallest=of_row(state.smallest_N, row),
        top=top,
        closest=jnp.minimum(jnp.minimum(gap_N, turn_N).min(), jnp.where(first, jnp.inf, margin)),
    )


def of_row(array_N, row) -> jax.Array:
    """The row's value. A plain index would gather the whole array on each device."""
    return jnp.take(array_N, row[None], mode="clip")[0]


def _yields(rules: WalkRules, fits_N, dropped_N, aim_N) -> tuple[jax.Array, jax.Array]:
    """Whether rule 5 yields, its best row being worth too little, and how far from turning."""
    kept = jnp.where(fits_N & (dropped_N == 0), aim_N, -jnp.inf).max()
    free = jnp.where(fits_N & (dropped_N <= 1), aim_N, -jnp.inf).max()
    short = rules.worth * jnp.maximum(free, 0) - SLACK - kept
    can = (rules.worth > 0) & (free > 0)
    return can & (short > 0), jnp.where(can, jnp.abs(short), jnp.inf)


def fitting(pool: WalkPool, state: State) -> jax.Array:
    """The rows that are unused and fit into what is left of the budget and their source's cap."""
    within_cap_N = state.spent_S[pool.sources_N] + pool.costs_N <= pool.cap
    return ~state.used_N & (pool.costs_N <= state.remaining) & within_cap_N


def coherence(rules: WalkRules, previous_N, aim_N) -> jax.Array:
    """The score of a neighbour: its cosine to s*, pulled towards the component."""
    return (1 - rules.pull) * previous_N + rules.pull * aim_N


def _dropped_rules(pool: WalkPool, rules: WalkRules, core_N, state: State):
    """The rules that have to be dropped for each row (see LAST_VALID_STAGE), used or not, and by
    how much the rule it breaks most is broken; below 0 where it keeps them all."""
    conflict_N = -(rules.tolerance + SLACK) - state.smallest_N  # eq. 5
    with_row_N = _cosine_to_core(
        state.sum_core + core_N, state.sum_squared + 2 * state.along_sum_N + pool.rows.squared_N
    )
    inconsistent_N = rules.delta * state.references_3[rules.reference] - SLACK - with_row_N  # eq. 6
    similar_N = state.largest_N - (rules.max_similarity + SLACK)
    dropped_N = jnp.where(
        similar_N > 0, 3, jnp.where(inconsistent_N > 0, 2, jnp.where(conflict_N > 0, 1, 0))
    )
    return dropped_N, jnp.maximum(jnp.maximum(conflict_N, inconsistent_N), similar_N)


def _not_near(pool: WalkPool, state: State) -> jax.Array:
    """1 where a row is not among the stored neighbours of s*."""
    if pool.neighbours_NE is None:
        return jnp.zeros(state.used_N.shape, jnp.int32)
    near_E = jnp.take(pool.neighbours_NE, state.last[None], axis=0, mode="clip")[0]
    return jnp.ones(state.used_N.shape, jnp.int32).at[near_E].set(0)


def _cosine_to_core(sum_core, sum_squared) -> jax.Array:
    """|cos(sum, k)| from <sum, k> and |sum|^2."""
    has_direction = sum_squared > SHORTEST_SUM**2
    length = jnp.sqrt(jnp.where(has_direction, sum_squared, 1))
    return jnp.where(has_direction, jnp.abs(sum_core) / length, 0)


def advance(pool: WalkPool, state: State, row, reason, core, previous_N) -> State:
    """Adds the chosen row to S', or to an empty S' when it is an anchor.

    core: its cosine to the component; previous_N: to all rows.
    """
    used_N = state.used_N.at[row].set(True)
    return enter(pool, state, row, reason, core, previous_N, state.along_sum_N[row], used_N)


def enter(pool: WalkPool, state: State, row, reason, core, previous_N, along_sum, used_N) -> State:
    """As `advance`, of a state that may be of other rows than the pool: along_sum is what it has
    for the chosen row, used_N tells what is used of its own."""
    cost = pool.costs_N[row]
    starts = reason >= ANCHOR
    along_sum = jnp.where(starts, 0, along_sum)
    squared = pool.rows.squared_N[row]
    sum_squared = jnp.where(starts, 0, state.sum_squared) + 2 * along_sum + squared
    sum_core = jnp.where(starts, 0, state.sum_core) + core
    current = _cosine_to_core(sum_core, sum_squared)
    _, anchor, best = state.references_3
    best = jnp.where(starts, current, jnp.maximum(best, current))
    return State(
        used_N=used_N,
        spent_S=state.spent_S.at[pool.sources_N[row]].add(cost),
        remaining=state.remaining - cost,
        size=jnp.where(starts, 1, state.size + 1),
        taken=state.taken + 1,
        last=row,
        previous_N=previous_N,
        smallest_N=jnp.where(starts, previous_N, jnp.minimum(state.smallest_N, previous_N)),
        largest_N=jnp.where(starts, previous_N, jnp.maximum(state.largest_N, previous_N)),
        along_sum_N=jnp.where(starts, 0, state.along_sum_N) + previous_N,
        sum_squared=sum_squared,
        sum_core=sum_core,
        references_3=jnp.stack([current, jnp.where(starts, current, anchor), best]),
    )


def no_trace(core_N) -> WalkTrace:
    """Of a walk that has chosen nothing."""
    zeros_N, nowhere_N = jnp.zeros_like(core_N), jnp.full(core_N.shape, -1, jnp.int32)
    return WalkTrace(nowhere_N, nowhere_N, zeros_N, zeros_N, zeros_N, zeros_N)


def record(trace: WalkTrace, order, choice: Choice) -> WalkTrace:
    """Enters a choice, the walk's number `order`."""
    row = choice.row
    return WalkTrace(
        trace.order_N.at[row].set(order),
        trace.reason_N.at[row].set(choice.reason),
        trace.score_N.at[row].set(choice.score),
        trace.previous_N.at[row].set(choice.previous),
        trace.core_N.at[row].set(choice.core),
        trace.smallest_N.at[row].set(choice.smallest),
    )
