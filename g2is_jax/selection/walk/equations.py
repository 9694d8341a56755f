"""The gradient walk's state and its equations (Zhao et al. 2025, section 3), each written once.

S' are the rows chosen in this walk, s* is the last of them, k the component's unit direction.

    Eq. 4   `coherence`       the next row is the valid one with the largest cos(j, s*)
    Eq. 5   `conflict`        a row is valid if cos(j, s) >= 0 for every s in S'
    Eq. 6   `inconsistency`   and if |cos(sum + g_j, k)| >= delta |cos(sum, k)|, sum over S'

`advance` makes the changes that a chosen row brings: `cosines_after` to what is known of all rows,
`sum_after` to the sum of S'. How the next row follows from all this is in choice.py.

Numerical rule. Cosines and running sums are float32. So that rounding decides nothing about exact
duplicates, orthogonal rows and zero rows, a slack of 1e-6 stands in every comparison: similarities
that differ by less are equal and the lower index wins, a cosine conflicts only below
-(tolerance + 1e-6), Eq. 6 fails only by more, and a cap is passed only by more. A sum shorter than
1e-3 has no direction: its cosines are 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from g2is_jax.features.unit_rows import AnyRows

SLACK = 1e-6
SHORTEST_SUM = 1e-3


class WalkPool(NamedTuple):
    """The inputs that all walks share. Without neighbours_NE every row is a neighbour."""

    rows: AnyRows
    costs_N: jax.Array
    sources_N: jax.Array
    cap: jax.Array
    neighbours_NE: jax.Array | None


class WalkRules(NamedTuple):
    """The fields of WalkConfig as traced numbers (rules.py): a sweep compiles nothing anew."""

    delta: jax.Array
    reference: jax.Array  # index into rules.DELTA_REFERENCES
    pull: jax.Array
    tolerance: jax.Array
    worth: jax.Array  # 0: Eq. 5 never yields
    max_similarity: jax.Array  # infinite when off
    last_tier: jax.Array  # the last that a step may take from, see choice.py
    reanchor: jax.Array


class Cosines(NamedTuple):
    """The cosines of all rows to S'; each array is over N."""

    previous_N: jax.Array  # cos(j, s*)
    smallest_N: jax.Array  # over S'
    largest_N: jax.Array
    along_sum_N: jax.Array  # <g_j, sum>


class Sum(NamedTuple):
    """The sum of S', in numbers."""

    size: jax.Array  # rows in S'
    squared: jax.Array  # |sum|^2
    core: jax.Array  # <sum, k>
    references_3: jax.Array  # |cos(., k)| of the current sum, the anchor, the best sum


class State(NamedTuple):
    """An unfinished walk."""

    used_N: jax.Array
    spent_S: jax.Array
    remaining: jax.Array
    taken: jax.Array  # rows chosen, in this S' and those before it
    last: jax.Array  # s*
    cosines: Cosines
    sum: Sum


def empty(used_N, spent_S, remaining, core_N) -> State:
    """A walk that has chosen nothing."""
    nothing, zero = jnp.int32(0), jnp.float32(0)
    total = Sum(nothing, zero, zero, jnp.zeros(3, jnp.float32))
    return State(used_N, spent_S, remaining, nothing, nothing, no_cosines(core_N), total)


def fitting(pool: WalkPool, state: State) -> jax.Array:
    """The rows that are unused and fit into what is left of the budget and their source's cap."""
    within_cap_N = state.spent_S[pool.sources_N] + pool.costs_N <= pool.cap
    return ~state.used_N & (pool.costs_N <= state.remaining) & within_cap_N


def coherence(rules: WalkRules, cosines: Cosines, aim_N) -> jax.Array:
    """Eq. 4: the score of each row as the next one, cos(j, s*), pulled towards the component.

    Differs from the paper by `pull`, which is 0 in it. aim_N is cos(j, k).
    """
    return (1 - rules.pull) * cosines.previous_N + rules.pull * aim_N


def conflict(rules: WalkRules, cosines: Cosines) -> jax.Array:
    """Eq. 5, cos(j, s) >= -tolerance for every s in S': by how much each row breaks it, if above 0.

    Differs from the paper by `tolerance`, which is 0 in it.
    """
    return -(rules.tolerance + SLACK) - cosines.smallest_N


def inconsistency(rules: WalkRules, squared_N, core_N, state: State) -> jax.Array:
    """Eq. 6, |cos(sum + g_j, k)| >= delta |cos(sum, k)|: by how much a row breaks it, if above 0.

    squared_N are the rows' squared lengths, core_N is cos(j, k). Differs from the paper by
    `reference`, which may put the anchor or the best sum so far on the right side.
    """
    with_row_N = _cosine_to_core(
        state.sum.core + core_N, state.sum.squared + 2 * state.cosines.along_sum_N + squared_N
    )
    return rules.delta * state.sum.references_3[rules.reference] - SLACK - with_row_N


def excess_similarity(rules: WalkRules, cosines: Cosines) -> jax.Array:
    """The cap on cosines to rows of S': by how much each row breaks it, if above 0.

    The paper has no such rule.
    """
    return cosines.largest_N - (rules.max_similarity + SLACK)


def _cosine_to_core(sum_core, sum_squared) -> jax.Array:
    """|cos(sum, k)| from <sum, k> and |sum|^2."""
    has_direction = sum_squared > SHORTEST_SUM**2
    length = jnp.sqrt(jnp.where(has_direction, sum_squared, 1))
    return jnp.where(has_direction, jnp.abs(sum_core) / length, 0)


def advance(pool: WalkPool, state: State, row, starts, core, row_N) -> State:
    """Adds the chosen row to S', or to an empty S' where it starts one.

    core is its cosine to the component, row_N are its cosines to all rows.
    """
    used_N = state.used_N.at[row].set(True)
    along = state.cosines.along_sum_N[row]
    return state_after(pool, state, row, starts, core, row_N, along, used_N)


def state_after(pool: WalkPool, state: State, row, starts, core, row_N, along, used_N) -> State:
    """Advances a state that may be of other rows than the pool's (front.py).

    along is <g, sum> of the chosen row, used_N the rows of the state that are used with it.
    """
    cost = pool.costs_N[row]
    return State(
        used_N=used_N,
        spent_S=state.spent_S.at[pool.sources_N[row]].add(cost),
        remaining=state.remaining - cost,
        taken=state.taken + 1,
        last=row,
        cosines=cosines_after(state.cosines, row_N, starts),
        sum=sum_after(state.sum, along, pool.rows.squared_N[row], core, starts),
    )


def no_cosines(like_N) -> Cosines:
    """The cosines to an empty S'."""
    zeros_N = jnp.zeros_like(like_N)
    return Cosines(zeros_N, zeros_N + jnp.inf, zeros_N - jnp.inf, zeros_N)


def cosines_after(cosines: Cosines, row_N, starts) -> Cosines:
    """The cosines to S' with a row more, or to that row alone where it starts an S'.

    row_N are the row's cosines to all rows.
    """
    before = jax.tree.map(
        lambda none_N, kept_N: jnp.where(starts, none_N, kept_N), no_cosines(row_N), cosines
    )
    return joined(before, Cosines(row_N, row_N, row_N, row_N))


def joined(earlier: Cosines, later: Cosines) -> Cosines:
    """The cosines to all rows of S' from those to its earlier and to its later rows."""
    return Cosines(
        previous_N=later.previous_N,
        smallest_N=jnp.minimum(earlier.smallest_N, later.smallest_N),
        largest_N=jnp.maximum(earlier.largest_N, later.largest_N),
        along_sum_N=earlier.along_sum_N + later.along_sum_N,
    )


def sum_after(total: Sum, along, squared, core, starts) -> Sum:
    """The sum of S' with a row more, or of that row alone where it starts an S'.

    along is <g, sum> of the row, squared its squared length, core its cosine to the component.
    """
    sum_squared = jnp.where(starts, 0, total.squared) + 2 * jnp.where(starts, 0, along) + squared
    sum_core = jnp.where(starts, 0, total.core) + core
    current = _cosine_to_core(sum_core, sum_squared)
    _, anchor, best = total.references_3
    best = jnp.where(starts, current, jnp.maximum(best, current))
    return Sum(
        size=jnp.where(starts, 1, total.size + 1),
        squared=sum_squared,
        core=sum_core,
        references_3=jnp.stack([current, jnp.where(starts, current, anchor), best]),
    )
