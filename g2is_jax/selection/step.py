"""One component's gradient walk as one compiled program (the rules are at the head of walk.py).

Numerical rule. Features, cosines and running sums are float32. So that rounding decides nothing
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
STARTS = ("anchor", "reanchor")  # the first row of an S'
REASONS = (*STAGE_REASONS, *STARTS)
ANCHOR, REANCHOR = len(STAGE_REASONS), len(STAGE_REASONS) + 1


class WalkPool(NamedTuple):
    """What all walks share. Without neighbours_NE every row is a neighbour."""

    features_NP: jax.Array
    inverse_length_N: jax.Array
    squared_N: jax.Array  # squared length as the walk sees it: 1, or 0 for a zero row
    costs_N: jax.Array
    sources_N: jax.Array
    cap: jax.Array
    neighbours_NE: jax.Array | None


class WalkRules(NamedTuple):
    """WalkConfig as numbers."""

    delta: jax.Array
    reference: jax.Array  # index into walk.DELTA_REFERENCES
    pull: jax.Array
    tolerance: jax.Array
    max_similarity: jax.Array  # infinite when off
    last_stage: jax.Array
    reanchor: jax.Array


class _State(NamedTuple):
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
    trace: "WalkTrace"


class _Choice(NamedTuple):
    row: jax.Array  # -1: the walk has ended
    reason: jax.Array
    score: jax.Array


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
) -> WalkTrace:
    """Walks until `remaining` is spent or no row can be taken.

    core_P is the unit core direction, used_N what earlier walks took, spent_S what they spent on
    each source, all costs in units of the budget.
    """
    core_N = _cosines(pool, core_P)
    state = _empty(used_N, spent_S, remaining, core_N)

    def step(carry):
        state, choice = carry
        state = _take(pool, core_N, state, choice)
        return state, _choose(pool, rules, core_N, state)

    carry = state, _choose(pool, rules, core_N, state)
    state, _ = lax.while_loop(lambda carry: carry[1].row >= 0, step, carry)
    return state.trace


def _cosines(pool: WalkPool, unit_P) -> jax.Array:
    products_N = jnp.matmul(pool.features_NP, unit_P, precision=lax.Precision.HIGHEST)
    return products_N * pool.inverse_length_N


def _cosine_to_core(sum_core, sum_squared) -> jax.Array:
    """|cos(sum, k)| from <sum, k> and |sum|^2."""
    has_direction = sum_squared > SHORTEST_SUM**2
    length = jnp.sqrt(jnp.where(has_direction, sum_squared, 1))
    return jnp.where(has_direction, jnp.abs(sum_core) / length, 0)


def _empty(used_N, spent_S, remaining, core_N) -> _State:
    zeros_N, nowhere_N = jnp.zeros_like(core_N), jnp.full(core_N.shape, -1, jnp.int32)
    trace = WalkTrace(nowhere_N, nowhere_N, zeros_N, zeros_N, core_N, zeros_N)
    nothing, zero = jnp.int32(0), jnp.float32(0)
    counters = (remaining, nothing, nothing, nothing)
    sums = (zeros_N, zeros_N, zeros_N, zeros_N, zero, zero, jnp.zeros(3, jnp.float32))
    return _State(used_N, spent_S, *counters, *sums, trace)


def _choose(pool: WalkPool, rules: WalkRules, core_N, state: _State) -> _Choice:
    """The next row of this component's walk, given S'."""
    within_cap_N = state.spent_S[pool.sources_N] + pool.costs_N <= pool.cap
    fits_N = ~state.used_N & (pool.costs_N <= state.remaining) & within_cap_N
    stage_N = jnp.where(fits_N, _stages(pool, rules, core_N, state), NO_STAGE)
    stage = stage_N.min()
    first = state.size == 0
    stuck = ~first & (stage > rules.last_stage)
    starts = first | (stuck & rules.reanchor)

    candidates_N = fits_N & (starts | ((stage_N == stage) & ~stuck))
    coherence_N = (1 - rules.pull) * state.previous_N + rules.pull * core_N
    scores_N = jnp.where(starts | (stage % 2 == 1), core_N, coherence_N)
    scores_N = jnp.where(candidates_N, scores_N, -jnp.inf)
    row = jnp.argmax(candidates_N & (scores_N >= scores_N.max() - SLACK))  # the first such row
    reason = jnp.where(starts, jnp.where(state.taken == 0, ANCHOR, REANCHOR), stage)
    row = jnp.where(candidates_N.any(), row, -1).astype(jnp.int32)
    return _Choice(row, reason.astype(jnp.int32), scores_N[row])


def _stages(pool: WalkPool, rules: WalkRules, core_N, state: _State) -> jax.Array:
    """The stage at which each row may be taken (see LAST_VALID_STAGE), used or not."""
    no_conflict_N = state.smallest_N >= -(rules.tolerance + SLACK)  # eq. 5
    with_row_N = _cosine_to_core(
        state.sum_core + core_N, state.sum_squared + 2 * state.along_sum_N + pool.squared_N
    )
    consistent_N = with_row_N >= rules.delta * state.references_3[rules.reference] - SLACK  # eq. 6
    dissimilar_N = state.largest_N <= rules.max_similarity + SLACK
    dropped_N = jnp.where(
        dissimilar_N, jnp.where(consistent_N, jnp.where(no_conflict_N, 0, 1), 2), 3
    )
    if pool.neighbours_NE is None:
        return 2 * dropped_N
    near_N = jnp.zeros(core_N.shape, bool).at[pool.neighbours_NE[state.last]].set(True)
    return 2 * dropped_N + ~near_N


def _take(pool: WalkPool, core_N, state: _State, choice: _Choice) -> _State:
    """Adds the chosen row to S', or to an empty S' when it is an anchor."""
    row, cost = choice.row, pool.costs_N[choice.row]
    starts = choice.reason >= ANCHOR
    last_P = pool.features_NP[row] * pool.inverse_length_N[row]
    previous_N = _cosines(pool, last_P)
    along_sum = jnp.where(starts, 0, state.along_sum_N[row])
    sum_squared = jnp.where(starts, 0, state.sum_squared) + 2 * along_sum + pool.squared_N[row]
    sum_core = jnp.where(starts, 0, state.sum_core) + core_N[row]
    current = _cosine_to_core(sum_core, sum_squared)
    _, anchor, best = state.references_3
    best = jnp.where(starts, current, jnp.maximum(best, current))
    trace = WalkTrace(
        state.trace.order_N.at[row].set(state.taken),
        state.trace.reason_N.at[row].set(choice.reason),
        state.trace.score_N.at[row].set(choice.score),
        state.trace.previous_N.at[row].set(state.previous_N[row]),
        state.trace.core_N,
        state.trace.smallest_N.at[row].set(state.smallest_N[row]),
    )
    return _State(
        used_N=state.used_N.at[row].set(True),
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
        trace=trace,
    )
