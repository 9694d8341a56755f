"""What the walk keeps whatever the features, and its policies on problems small enough to read."""

import json
from dataclasses import replace

import numpy as np
import pytest

from g2is_jax.features.rows import Rows
from g2is_jax.features.unit_rows import WIDEST_INT8
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import BudgetConfig, Limits, limits
from g2is_jax.selection.core import Core
from g2is_jax.selection.walk.by_component import walk_component
from g2is_jax.selection.walk.rules import ON_EXHAUSTED
from g2is_jax.selection.walk.select import gradient_walk
from tests.support.walk_instances import PAPER, instance


def plain_limits(rows: int, budget: int) -> Limits:
    config = BudgetConfig(budget=budget, unit="rows", source_cap=1.0)
    return limits(config, np.ones(rows, int), np.zeros(rows, int))


def core_of(*directions) -> Core:
    core_CP = np.asarray(directions, np.float32)
    weights_C = np.full(len(core_CP), 1 / len(core_CP))
    return Core(core_CP, weights_C, weights_C, len(weights_C))


def unit(*degrees) -> np.ndarray:
    """Plane rows at these angles, the first axis being the core direction."""
    radians_N = np.radians(degrees)
    return np.stack([np.cos(radians_N), np.sin(radians_N)], axis=1).astype(np.float32)


def walk_angles(degrees, budget, **switches):
    rules = replace(PAPER, **switches)
    rows_NP = unit(*degrees)
    return gradient_walk(rows_NP, core_of([1, 0]), plain_limits(len(rows_NP), budget), rules)


def ended(selection) -> list[str]:
    return [component["ended"] for component in selection.summary["components"]]


def reasons(selection) -> list[str]:
    return [pick.reason for pick in selection.picks]


@pytest.mark.parametrize("policy", ON_EXHAUSTED)
@pytest.mark.parametrize(("budget_unit", "cap"), [("rows", 1.0), ("rows", 0.4), ("tokens", 0.7)])
def test_no_row_twice_and_budget_and_caps_kept(policy, budget_unit, cap):
    """Under every policy, in either unit."""
    for seed in range(200, 212):
        problem = instance(seed, budget_unit, cap)
        rules = replace(PAPER, on_exhausted=policy)
        selection = gradient_walk(
            problem.features_NP, problem.core, problem.limits, rules, problem.near
        )
        rows = selection.rows
        assert len(set(rows)) == len(rows)
        costs = problem.limits.costs_N[rows]
        assert costs.sum() == selection.summary["spent"] <= problem.limits.budget
        by_source = np.bincount(problem.limits.sources_N[rows], weights=costs, minlength=1)
        assert by_source.max() <= problem.limits.cap
        components = selection.summary["components"]
        assert sum(component["spent"] for component in components) == costs.sum()
        assert sum(component["rows"] for component in components) == len(rows)
        json.dumps(selection.summary)


@pytest.mark.parametrize("policy", ["relax", "reanchor"])
@pytest.mark.parametrize("max_similarity", [1.0, 0.2])
def test_relax_and_reanchor_fill_the_budget(policy, max_similarity):
    """In rows and without a source cap nothing is left, the similarity cap notwithstanding."""
    for seed in range(300, 330):
        problem = instance(seed)
        rules = replace(PAPER, on_exhausted=policy, max_similarity=max_similarity)
        selection = gradient_walk(
            problem.features_NP, problem.core, problem.limits, rules, problem.near
        )
        assert len(selection.picks) == problem.limits.budget


def test_permuting_the_pool_permutes_the_selection():
    """Rows are told apart by their features, not by their place."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        features_NP = rng.normal(size=(40, 6)).astype(np.float32) + 0.5
        core, budget = core_of([1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]), plain_limits(40, 20)
        order_N = rng.permutation(40)
        straight = gradient_walk(features_NP, core, budget, PAPER)
        permuted = gradient_walk(features_NP[order_N], core, budget, PAPER)
        assert straight.rows == order_N[permuted.rows].tolist()
        assert len(straight.picks) > 2


def test_length_of_rows_does_not_matter():
    """Features enter with unit length."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        features_NP = rng.normal(size=(40, 6)).astype(np.float32) + 0.5
        core, budget = core_of([1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]), plain_limits(40, 20)
        scaled_NP = (features_NP * 10.0 ** rng.uniform(-9, 9, size=(40, 1))).astype(np.float32)
        straight = gradient_walk(features_NP, core, budget, PAPER)
        assert straight.rows == gradient_walk(scaled_NP, core, budget, PAPER).rows


def test_a_sweep_over_settings_compiles_once():
    """Numbers, policies and budgets are all traced; only shapes are not."""
    features_NP = np.random.default_rng(0).normal(size=(37, 6)).astype(np.float32)
    core = core_of([1, 0, 0, 0, 0, 0])
    gradient_walk(features_NP, core, plain_limits(37, 5), PAPER)
    compiled = walk_component._cache_size()
    for changes in (
        *({"delta": delta} for delta in (0.0, 0.5, 0.95)),
        *({"pull": 0.5}, {"conflict_tolerance": 0.1}, {"max_similarity": 0.5}),
        *({"on_exhausted": policy} for policy in ON_EXHAUSTED),
        *({"delta_reference": "anchor"}, {"delta_reference": "best"}),
    ):
        for budget in (1, 20):
            gradient_walk(features_NP, core, plain_limits(37, budget), replace(PAPER, **changes))
    assert walk_component._cache_size() == compiled


def test_anchor_then_the_most_coherent_neighbour():
    """The row after the anchor is nearest to the anchor, the third nearest to the second."""
    selection = walk_angles([40, 5, 15, 80, 60], 5, delta=0.0)
    assert selection.rows == [1, 2, 0, 4, 3]
    assert reasons(selection) == ["anchor", *["neighbour"] * 4]
    anchor, second = selection.picks[:2]
    assert anchor.cos_previous is None
    assert anchor.cos_smallest is None
    assert anchor.score == pytest.approx(np.cos(np.radians(5)))
    assert second.score == second.cos_previous == pytest.approx(np.cos(np.radians(10)))
    assert second.cos_component == pytest.approx(np.cos(np.radians(15)))
    assert selection.picks[4].cos_smallest == pytest.approx(np.cos(np.radians(75)))


def test_conflict_with_any_chosen_row_counts():
    """50 degrees is near to -30 but 100 from -50; tolerance lets it in."""
    degrees = [0, -50, 50]
    stopped = walk_angles(degrees, 3, delta=0.0)
    assert stopped.rows == [0, 1]
    assert ended(stopped) == ["no valid row"]
    assert walk_angles(degrees, 3, delta=0.0, conflict_tolerance=0.18).rows == [0, 1, 2]
    relaxed = walk_angles(degrees, 3, delta=0.0, on_exhausted="relax")
    assert reasons(relaxed) == ["anchor", "neighbour", "relaxed conflict"]


def test_delta_counts_against_its_reference():
    """|cos(sum, k)| goes 1, 0.91, 0.74, 0.59: each step keeps 0.7 of the last, not of the first."""
    degrees = [0, 50, 75, 85]
    assert len(walk_angles(degrees, 4, delta=0.7).picks) == 4
    assert len(walk_angles(degrees, 4, delta=0.7, delta_reference="anchor").picks) == 3
    relaxed = walk_angles(degrees, 4, delta=0.7, delta_reference="anchor", on_exhausted="relax")
    assert reasons(relaxed)[2:] == ["neighbour", "relaxed consistency"]


def test_the_best_sum_may_be_better_than_the_anchor():
    """|cos(sum, k)| goes 0.94, 0.996, 0.957: the last is above the anchor's, below the best."""
    degrees = [20, -30, 59]
    assert walk_angles(degrees, 3, delta=0.99, delta_reference="anchor").rows == [0, 1, 2]
    assert walk_angles(degrees, 3, delta=0.99, delta_reference="best").rows == [0, 1]


def test_pull_weighs_the_component_against_the_last_row():
    """Without a pull the walk drifts on; with one it returns to the component."""
    degrees = [10, 22, -10, 36]
    assert walk_angles(degrees, 4, delta=0.0).rows == [0, 1, 3, 2]
    assert walk_angles(degrees, 4, delta=0.0, pull=1.0).rows == [0, 2, 1, 3]


def test_max_similarity_keeps_copies_out_until_nothing_else_is_left():
    """Copies of the anchor come last, and only under relax."""
    degrees = [0, 0, 30, 0]
    assert walk_angles(degrees, 4, delta=0.0).rows == [0, 1, 3, 2]
    assert walk_angles(degrees, 4, delta=0.0, max_similarity=0.95).rows == [0, 2]
    relaxed = walk_angles(degrees, 4, delta=0.0, max_similarity=0.95, on_exhausted="relax")
    assert relaxed.rows == [0, 2, 1, 3]
    assert reasons(relaxed)[2:] == ["relaxed similarity"] * 2


def test_reanchor_starts_a_new_walk_for_the_same_component():
    """Its rows conflict with those of the first walk but not with each other."""
    selection = walk_angles([0, -50, 50, 60], 4, delta=0.0, on_exhausted="reanchor")
    assert selection.rows == [0, 1, 2, 3]
    assert reasons(selection) == ["anchor", "neighbour", "reanchor", "neighbour"]
    again = selection.picks[2]
    assert (again.component, again.cos_previous, again.cos_smallest) == (0, None, None)
    assert selection.picks[3].cos_smallest == pytest.approx(np.cos(np.radians(10)))


def test_redistribute_hands_what_is_left_to_later_components():
    """The first walk dies after 1 of 3; its 2 go to the second, whose rest is reported."""
    rows_NP = np.array([[1, 0], [-1, 1], [-1, 1.1], [-1, 1.2], [-1, 1.3], [-1, 1.4]], np.float32)
    core = core_of([1, 0], [0, 1])
    stopped = gradient_walk(rows_NP, core, plain_limits(6, 6), PAPER)
    assert [c["rows"] for c in stopped.summary["components"]] == [1, 3]
    rules = replace(PAPER, on_exhausted="redistribute")
    shared = gradient_walk(rows_NP, core, plain_limits(6, 6), rules)
    components = shared.summary["components"]
    assert [(c["budget"], c["spent"]) for c in components] == [(3, 1), (5, 5)]
    assert shared.summary["spent"] == 6


def test_used_is_global_and_conflict_is_per_component():
    """The second component may take a row that conflicts with the first one's, but not its rows."""
    rows_NP = unit(0, 180, 5)
    core = core_of([1, 0], [-1, 0])
    selection = gradient_walk(rows_NP, core, plain_limits(3, 2), PAPER)
    assert [(pick.row, pick.component) for pick in selection.picks] == [(0, 0), (1, 1)]
    same = gradient_walk(rows_NP, core_of([1, 0], [1, 0]), plain_limits(3, 2), PAPER)
    assert same.rows == [0, 2]


def test_rest_too_small_carries_over():
    """5 tokens cannot buy a second row of 10; the next component spends them."""
    config = BudgetConfig(budget=30, unit="tokens", source_cap=1.0)
    budget = limits(config, np.full(4, 10), np.zeros(4, int))
    selection = gradient_walk(unit(0, 10, 80, 90), core_of([1, 0], [0, 1]), budget, PAPER)
    first, second = selection.summary["components"]
    assert (first["budget"], first["spent"], first["ended"]) == (15, 10, "rest too small")
    assert (second["budget"], second["spent"], second["ended"]) == (20, 20, "filled")


def test_a_copy_in_any_place_loses_to_the_lower_index():
    """Products of equal rows may differ in the last bit; that must not decide."""
    rng = np.random.default_rng(5)
    row_P = rng.normal(size=513)
    features_NP = rng.normal(size=(67, 513))
    places = [3, 8, 13, 31, 32, 50, 65, 66]
    features_NP[places] = row_P
    core = core_of(row_P / np.linalg.norm(row_P))
    selection = gradient_walk(features_NP, core, plain_limits(67, len(places)), PAPER)
    assert selection.rows == places


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("delta", -0.1), ("delta", 1.5), ("delta", float("nan")), ("pull", 2.0)],
        *[("conflict_tolerance", -1.0), ("max_similarity", 1.2)],
        *[("delta_reference", "first"), ("on_exhausted", "cry")],
    ],
)
def test_a_wrong_setting_names_its_field(field, value):
    """Ranges and names are checked when the config is made."""
    with pytest.raises(InputError, match=f"walk.{field}: "):
        replace(PAPER, **{field: value})


def test_features_that_do_not_fit_are_refused():
    """Different widths, or a value that is not finite."""
    rows_NP = unit(0, 10)
    with pytest.raises(InputError, match="2 wide, validation features 3"):
        gradient_walk(rows_NP, core_of([1, 0, 0]), plain_limits(2, 1), PAPER)
    rows_NP[1, 0] = np.nan
    with pytest.raises(InputError, match="pool row 1"):
        gradient_walk(rows_NP, core_of([1, 0]), plain_limits(2, 1), PAPER)
    wide = Rows(np.ones((2, WIDEST_INT8 + 1), np.int8), np.ones(2, np.float32))
    core = Core(np.ones((1, WIDEST_INT8 + 1), "f4"), np.ones(1), np.ones(1), 1)
    with pytest.raises(InputError, match="products of more than 133144"):
        gradient_walk(wide, core, plain_limits(2, 1), PAPER)


def test_nothing_is_handed_on_to_components_without_weight():
    """The first walk ends at once: both its rows conflict; the second has no share of anything."""
    core = Core(np.eye(2, dtype="f4"), np.array([1.0, 0.0]), np.ones(2), 2)
    rows_NP = np.array([[0.5, 1.0], [0.5, -1.0]], np.float32)
    rules = replace(PAPER, on_exhausted="redistribute")
    selection = gradient_walk(rows_NP, core, plain_limits(2, 2), rules)
    assert selection.rows == [0]
    assert [c["ended"] for c in selection.summary["components"]] == ["no valid row", "filled"]
