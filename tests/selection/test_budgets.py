"""Budgets, caps, the ranking accepted under them, and the selectors that need no features."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import (
    BudgetConfig,
    Limits,
    largest_remainder,
    limits,
    take_in_order,
)
from g2is_jax.selection.rivals.baselines import everything, longest, random_rows


def make(budget, unit="rows", cap=1.0, tokens=(3, 5, 2, 7), sources=None) -> Limits:
    sources = ["a"] * len(tokens) if sources is None else sources
    return limits(BudgetConfig(budget, unit, cap), np.array(tokens), np.array(sources))


@pytest.mark.parametrize(
    ("share", "rows", "budget"),
    [
        *[(0.29, 100, 29), (0.57, 100, 57), (0.01, 400, 4), (0.05, 400, 20), (0.07, 100, 7)],
        *[(0.025, 100, 2), (0.05, 70, 3), (0.5, 3, 1), (0.999, 10, 9), (0.0, 10, 0), (1.0, 7, 7)],
        (0.145, 1000, 145),
    ],
)
def test_a_fraction_is_the_decimal_it_was_written_as(share, rows, budget):
    """0.29 * 100 is 28.999 in binary; 3.5 rows are 3."""
    made = make(share, "fraction", tokens=[9] * rows)
    assert made.budget == budget
    assert made.costs_N.tolist() == [1] * rows


def test_tokens_are_costs_in_tokens_only():
    """A row costs 1 in the other units."""
    assert make(17, "tokens").costs_N.tolist() == [3, 5, 2, 7]
    assert make(4).costs_N.tolist() == [1, 1, 1, 1]


def test_sources_become_codes_and_the_cap_rounds_down():
    """Any labels will do; a cap of 1.0 is the budget itself."""
    made = make(4, cap=0.5, sources=["b", "a", "b", "c"])
    assert made.sources_N.tolist() == [1, 0, 1, 2]
    assert made.cap == 2
    assert make(3, cap=0.5).cap == 1
    assert make(100, cap=0.29, tokens=[1] * 100).cap == 29
    assert make(4).cap == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5,), "selection.budget: 5 rows asked, the pool holds 4"),
        ((18, "tokens"), "selection.budget: 18 tokens asked, the pool holds 17"),
        ((1.5, "fraction"), "more than the whole pool"),
        ((0.01, "fraction"), "0.01 of 4 rows is less than one row"),
        ((0.24, "fraction"), "0.24 of 4 rows is less than one row"),
        ((-1,), "selection.budget: -1"),
        ((float("nan"),), "selection.budget: nan"),
        ((2.5,), "2.5 rows is not a whole number"),
        ((2.5, "tokens"), "2.5 tokens is not a whole number"),
        ((2, "percent"), "selection.unit: 'percent' is none of fraction, rows, tokens"),
        ((2, "rows", 0.0), "selection.source_cap: 0.0"),
        ((2, "rows", 1.1), "selection.source_cap: 1.1"),
        ((3, "rows", 0.2), "selection.source_cap: 0.2 of a budget of 3 leaves nothing"),
        ((3, "tokens", 1.0, (3, 0, 2)), "pool row 1 has no supervised token"),
        ((0, "rows", 1.0, ()), "the pool has no row"),
        ((2**31, "tokens", 1.0, (2**31, 1)), "largest budget"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    """The message is one line that names the field and the figures."""
    with pytest.raises(InputError, match=message) as caught:
        make(*arguments)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 500), st.lists(st.floats(0.001, 1), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_largest_remainder_sums_exactly_and_stays_within_one(total, weights):
    """Every share is its exact value rounded down or up."""
    shares_C = largest_remainder(total, weights)
    assert shares_C.sum() == total
    exact_C = total * np.array(weights) / sum(weights)
    assert (np.abs(shares_C - exact_C) < 1 + 1e-6).all()


def test_largest_remainder_gives_ties_to_the_lower_index():
    """Ties count as such where rounding would tell equal remainders apart."""
    assert largest_remainder(10, [1 / 3, 1 / 3, 1 / 3]).tolist() == [4, 3, 3]
    assert largest_remainder(1, [0.3, 0.1 + 0.2, 0.4]).tolist() == [0, 0, 1]
    assert largest_remainder(1, [0.3, 0.1 + 0.2]).tolist() == [1, 0]
    assert largest_remainder(3, [0.6, 0.4]).tolist() == [2, 1]
    assert largest_remainder(0, [0.6, 0.4]).tolist() == [0, 0]
    with pytest.raises(ValueError, match="weights"):
        largest_remainder(3, [0.0, 0.0])


def test_take_in_order_passes_over_what_does_not_fit():
    """7 does not fit beside 5; the 3 and 2 after it do not fit beside a cap either."""
    order, scores = [1, 3, 0, 2], np.array([0.2, 0.9, 0.1, 0.5])
    taken = take_in_order(order, scores, make(10, "tokens"), "why")
    assert taken.rows == [1, 0, 2]
    assert [pick.order for pick in taken.picks] == [0, 1, 2]
    assert taken.picks[0].score == 0.9
    assert {pick.reason for pick in taken.picks} == {"why"}
    assert {pick.component for pick in taken.picks} == {-1}
    assert taken.summary == {"budget": 10, "spent": 10, "rows": 3}
    capped = take_in_order(order, scores, make(2, cap=0.5, sources=["x", "y", "y", "y"]), "why")
    assert capped.rows == [1, 0]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_take_in_order_keeps_every_limit_and_leaves_no_row_that_fits(data):
    """Greedy: whatever was passed over would still not fit at the end."""
    tokens = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=30))
    rows = len(tokens)
    sources = data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows))
    budget = data.draw(st.integers(2, max(2, sum(tokens))))
    cap = data.draw(st.sampled_from([0.5, 0.75, 1.0]))
    if budget > sum(tokens):
        return
    made = make(budget, "tokens", cap, tokens, sources)
    order = data.draw(st.permutations(range(rows)))
    chosen = take_in_order(order, np.zeros(rows), made, "").rows
    spent = made.costs_N[chosen].sum()
    by_source = np.bincount(made.sources_N[chosen], made.costs_N[chosen], minlength=3)
    assert len(set(chosen)) == len(chosen)
    assert spent <= budget
    assert by_source.max() <= made.cap
    for row in set(range(rows)) - set(chosen):
        full = by_source[made.sources_N[row]] + tokens[row] > made.cap
        assert full or spent + tokens[row] > budget


def test_trivial_selectors():
    """Random is seeded, the longest come first, everything is everything; 0 is nothing."""
    pool = make(50, tokens=[4] * 100)
    first, again, other = (random_rows(pool, seed) for seed in (1, 1, 2))
    assert first == again
    assert len(set(first.rows)) == 50
    assert first.rows != other.rows
    assert longest([3, 9, 9, 1], make(3)).rows == [1, 2, 0]
    assert everything(make(1, cap=1.0)).rows == [0, 1, 2, 3]
    assert everything(make(2, "tokens")).summary == {"budget": 17, "spent": 17, "rows": 4}
    assert random_rows(make(0), 0).picks == longest([1, 2, 3, 4], make(0)).picks == ()
    assert sorted(random_rows(make(4), 0).rows) == [0, 1, 2, 3]
    json.dumps(first.summary)


def test_random_is_uniform():
    """Every row is drawn about as often as every other."""
    counts = np.zeros(10)
    for seed in range(400):
        counts[random_rows(make(3, tokens=[1] * 10), seed).rows] += 1
    assert np.abs(counts - 120).max() < 40
