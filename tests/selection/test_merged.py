"""One selection for several targets: their own selections in turn, and their directions joined."""

from dataclasses import replace

import numpy as np

from g2is_jax.selection.budget import BudgetConfig, Pick, limits
from g2is_jax.selection.core import core_knowledge, joined
from g2is_jax.selection.merged import merged
from tests.support.walk_instances import PAPER_KNOWLEDGE


def picks(rows: list[int]) -> list[Pick]:
    return [Pick(row, 7, n, "test", 0.5, None, 0.25, None) for n, row in enumerate(rows)]


def allowed(budget: int, unit: str = "rows", tokens=(1,) * 9):
    return limits(BudgetConfig(budget, unit, 1.0), np.array(tokens), ["a"] * 9)


def test_targets_take_in_turn_what_the_others_have_not():
    selection, targets = merged([picks([0, 1, 2, 3]), picks([1, 0, 4, 5])], allowed(5))
    assert selection.rows == [0, 1, 2, 4, 3]
    assert targets == [0, 1, 0, 1, 0]
    assert [pick.order for pick in selection.picks] == [0, 1, 2, 3, 4]
    assert {(pick.component, pick.reason) for pick in selection.picks} == {(7, "test")}
    assert selection.summary == {"budget": 5, "spent": 5, "rows": 5}


def test_it_ends_where_no_row_is_left():
    selection, targets = merged([picks([0]), picks([0, 2])], allowed(6))
    assert (selection.rows, targets) == ([0, 2], [0, 1])


def test_a_row_that_is_too_large_is_passed_over():
    tokens = (2, 9, 3, 1, 4, 1, 1, 1, 1)
    selection, _ = merged([picks([0, 1, 3]), picks([2, 4])], allowed(7, "tokens", tokens))
    assert selection.rows == [0, 2, 3]
    assert selection.summary["spent"] == 6


def test_targets_share_the_weight_whatever_their_rows():
    rng = np.random.default_rng(0)
    knowledge = replace(PAPER_KNOWLEDGE, anchors="rows", center=False, keep_value=0.9)
    few, many = (core_knowledge(rng.normal(size=(count, 8)), knowledge) for count in (2, 6))
    both = joined([few, many])
    np.testing.assert_allclose(both.weights_C, [0.25] * 2 + [1 / 12] * 6)
    np.testing.assert_array_equal(both.core_CP, np.concatenate([few.core_CP, many.core_CP]))
    explained = few.explained_C[: few.components].sum() + many.explained_C[: many.components].sum()
    np.testing.assert_allclose(both.summary()["explained"], explained / 2, rtol=1e-12)
    assert joined([few]) is few
