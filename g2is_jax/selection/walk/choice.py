"""The choice of a walk's next row from its state, and the trace of the choices.

All settings are traced numbers. A choice costs O(N) beside the one product of the features with the
chosen row that its entry into the state takes: no N x N graph, no copy of the features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from g2is_jax.runs.mesh import on_host
from g2is_jax.selection.walk.equations import (
    SLACK,
    State,
    WalkPool,
    WalkRules,
    coherence,
    conflict,
    excess_similarity,
    fitting,
    inconsistency,
)

# A row that fits the budget has a tier: which rules it needs dropped (0 none, 1 conflict,
# 2 and consistency, 3 and similarity) times 2, plus 1 when it is no neighbour of the last row.
# A step takes from the lowest tier at hand: even ones by coherence, odd ones by cos(j, k).
LAST_VALID_TIER, LAST_TIER, NO_TIER = 1, 7, 8
TIER_REASONS = (
    *("neighbour", "fallback", "relaxed conflict", "relaxed conflict"),
    *("relaxed consistency", "relaxed consistency", "relaxed similarity", "relaxed similarity"),
)
WORTH = "worth a conflict"  # Eq. 5 yielded
STARTS = ("anchor", "reanchor")  # the first row of an S'
REASONS = (*TIER_REASONS, WORTH, *STARTS)
YIELDED, ANCHOR, REANCHOR = range(len(TIER_REASONS), len(REASONS))


class Choice(NamedTuple):
    """The next row and what is seen of it.

    row       -1: the walk has ended
    reason    index into REASONS
    top       the row of the largest score, from which `row` differs only where scores are equal
    closest   the smallest distance of a comparison that would choose another row if it turned: of
              another candidate's score from being equal to the largest, and by how far the row
              keeps Eq. 5, Eq. 6 and the cap, or a row that would come before it breaks them
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

    @property
    def starts(self):
        """True where the row is the first of an S'."""
        return self.reason >= ANCHOR


def choose(pool: WalkPool, rules: WalkRules, core_N, state: State, aim_N=None) -> Choice:
    """Chooses the next row of a walk that has reached this state.

    core_N are the cosines to the component; aim_N is each row's worth to the walk, core_N unless it
    is passed.
    """
    aim_N = core_N if aim_N is None else aim_N
    fits_N = fitting(pool, state)
    dropped_N, broken_N = _dropped_rules(pool, rules, core_N, state)
    first = state.sum.size == 0
    yields, margin = _yields(rules, fits_N, dropped_N, aim_N)
    in_conflict_N = yields & (dropped_N == 1)
    dropped_N = jnp.where(in_conflict_N, 0, dropped_N)
    far_N = _not_near(pool, state)
    tier_N = jnp.where(fits_N, 2 * dropped_N + far_N, NO_TIER)
    tier = tier_N.min()
    stuck = ~first & (tier > rules.last_tier)
    starts = first | (stuck & rules.reanchor)

    candidates_N = fits_N & (starts | ((tier_N == tier) & ~stuck))
    all_scores_N = jnp.where(
        starts | (tier % 2 == 1), aim_N, coherence(rules, state.cosines, aim_N)
    )
    scores_N = jnp.where(candidates_N, all_scores_N, -jnp.inf)
    top = jnp.argmax(scores_N).astype(jnp.int32)
    equal = of_row(scores_N, top) - SLACK
    row = jnp.argmax(candidates_N & (scores_N >= equal)).astype(jnp.int32)  # the first such row
    reason = jnp.where(of_row(in_conflict_N, row), YIELDED, tier)
    reason = jnp.where(starts, jnp.where(state.taken == 0, ANCHOR, REANCHOR), reason)

    others_N = candidates_N & (jnp.arange(len(core_N)) != top)
    gap_N = jnp.where(others_N, jnp.abs(scores_N - equal), jnp.inf)
    ahead_N = (tier > 1) | (far_N < tier % 2) | (all_scores_N >= equal)
    rival_N = fits_N & ((dropped_N > 0) & ahead_N | (jnp.arange(len(core_N)) == row))
    turn_N = jnp.where(rival_N & ~first, jnp.abs(broken_N), jnp.inf)
    return Choice(
        row=jnp.where(candidates_N.any(), row, -1),
        reason=reason.astype(jnp.int32),
        score=of_row(scores_N, row),
        previous=of_row(state.cosines.previous_N, row),
        core=of_row(core_N, row),
        smallest=of_row(state.cosines.smallest_N, row),
        top=top,
        closest=jnp.minimum(jnp.minimum(gap_N, turn_N).min(), jnp.where(first, jnp.inf, margin)),
    )


def of_row(array_N, row) -> jax.Array:
    """The row's value. A plain index would gather the whole array on each device."""
    return jnp.take(array_N, row[None], mode="clip")[0]


def _dropped_rules(pool: WalkPool, rules: WalkRules, core_N, state: State):
    """The rules that have to be dropped for each row, used or not, counted as in its tier; and by
    how much the rule it breaks most is broken, below 0 where it keeps them all."""
    conflict_N = conflict(rules, state.cosines)
    inconsistent_N = inconsistency(rules, pool.rows.squared_N, core_N, state)
    similar_N = excess_similarity(rules, state.cosines)
    dropped_N = jnp.where(
        similar_N > 0, 3, jnp.where(inconsistent_N > 0, 2, jnp.where(conflict_N > 0, 1, 0))
    )
    return dropped_N, jnp.maximum(jnp.maximum(conflict_N, inconsistent_N), similar_N)


def _yields(rules: WalkRules, fits_N, dropped_N, aim_N) -> tuple[jax.Array, jax.Array]:
    """True if Eq. 5 yields, its best row being worth too little, and how far from turning."""
    kept = jnp.where(fits_N & (dropped_N == 0), aim_N, -jnp.inf).max()
    free = jnp.where(fits_N & (dropped_N <= 1), aim_N, -jnp.inf).max()
    short = rules.worth * jnp.maximum(free, 0) - SLACK - kept
    can = (rules.worth > 0) & (free > 0)
    return can & (short > 0), jnp.where(can, jnp.abs(short), jnp.inf)


def _not_near(pool: WalkPool, state: State) -> jax.Array:
    """The mask, int32, of rows that are not among the stored neighbours of s*."""
    if pool.neighbours_NE is None:
        return jnp.zeros(state.used_N.shape, jnp.int32)
    near_E = jnp.take(pool.neighbours_NE, state.last[None], axis=0, mode="clip")[0]
    return jnp.ones(state.used_N.shape, jnp.int32).at[near_E].set(0)


class WalkTrace(NamedTuple):
    """The choices of a walk, each at its row's own place; order -1 where a row was not chosen."""

    order_N: jax.Array
    reason_N: jax.Array
    score_N: jax.Array
    previous_N: jax.Array
    core_N: jax.Array
    smallest_N: jax.Array


def no_trace(core_N) -> WalkTrace:
    """The trace of a walk that has chosen nothing."""
    zeros_N, nowhere_N = jnp.zeros_like(core_N), jnp.full(core_N.shape, -1, jnp.int32)
    return WalkTrace(nowhere_N, nowhere_N, zeros_N, zeros_N, zeros_N, zeros_N)


def record(trace: WalkTrace, order, choice: Choice) -> WalkTrace:
    """Enters a choice, the walk's number `order`."""
    seen = order, choice.reason, choice.score, choice.previous, choice.core, choice.smallest
    return WalkTrace._make(
        of_N.at[choice.row].set(value) for of_N, value in zip(trace, seen, strict=True)
    )


def in_order(trace: WalkTrace) -> list[Choice]:
    """The choices of a trace, on the host; their `top` and `closest` are not in it."""
    trace = WalkTrace._make(map(on_host, trace))
    rows_K = np.flatnonzero(trace.order_N >= 0)
    rows_K = rows_K[np.argsort(trace.order_N[rows_K])]
    seen = (of_N[rows_K] for of_N in trace[1:])
    return [Choice._make((*of_row, -1, 0)) for of_row in zip(rows_K, *seen, strict=True)]
