"""However the walk is computed, it chooses what the plain transcription chooses from the same rows.

Types of rows, numbers of neighbours, components side by side.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from test_walk_parity import TOO_CLOSE, assert_equal, both

from g2is_jax.features.rows import as_rows
from g2is_jax.selection.walk import side_by_side
from g2is_jax.selection.walk.rules import rules_of
from g2is_jax.selection.walk.select import _pool, gradient_walk
from g2is_jax.selection.walk.side_by_side import (
    MOST_SLOTS,
    NO_CHOICE,
    SLOTS_SHARE,
    ComponentWalk,
    SideBySide,
    slots_that_fit,
)
from tests.support.walk_instances import PAPER, instance

SHAPE = (31, 7)  # one shape, few compilations
CASES = {  # dtype, slots, edges
    "float32 side by side": ("float32", 3, 0),
    "bfloat16 side by side": ("bfloat16", 3, 2),
    "int8 side by side": ("int8", 2, 9),
    "bfloat16": ("bfloat16", 1, 0),
    "int8": ("int8", 1, 0),
    "float32, 2 neighbours": ("float32", 1, 2),
    "float32, 9 neighbours": ("float32", 1, 9),
}
SEEDS = 84  # for each case
ALL_CASES = CASES | {"int8, 2 neighbours": ("int8", 1, 2)}  # the last one on devices alone
POLICIES = ("stop", "relax", "reanchor")


def problem_of(case: str, seed: int):
    dtype, slots, edges = ALL_CASES[case]
    components = {"components": 4} if slots > 1 else {}
    return instance(seed, dtype=dtype, shape=SHAPE, edges=edges, **components), slots


@pytest.mark.parametrize("case", CASES)
def test_paper_equals_the_transcription_row_for_row(case):
    """84 instances for each case; with test_walk_parity and test_walk_devices 1,014 in all."""
    first = 5000 + 1000 * list(CASES).index(case)
    seen: Counter = Counter()
    for seed in range(first, first + SEEDS):
        problem, slots = problem_of(case, seed)
        selection, picks, ends, margin = both(problem, PAPER, slots=slots)
        if margin < TOO_CLOSE:
            seen["too close to call"] += 1
            continue
        assert_equal(selection, picks, ends, seed)
        seen["compared"] += 1
        seen["chosen"] += len(picks)
        seen["rolled back"] += selection.summary["rolled_back"] > 0
    assert seen["compared"] >= 0.9 * SEEDS, seen
    assert seen["chosen"] >= 3 * SEEDS, seen
    assert (seen["rolled back"] >= 10) == (CASES[case][1] > 1), seen


@pytest.mark.parametrize("policy", POLICIES)
def test_side_by_side_is_one_after_another(policy):
    """Also the trace and the summary, with a pull and other rules, where walks often collide."""
    passes: Counter = Counter()
    for seed in range(9000, 9024):
        problem, _ = problem_of("float32 side by side", seed)
        rules = replace(PAPER, on_exhausted=policy, pull=seed % 4 / 4, max_similarity=0.9)
        alone, many = (
            gradient_walk(problem.rows, problem.core, problem.limits, rules, slots=slots)
            for slots in (1, 3)
        )
        same_outcome(many, alone, seed)
        if alone.summary["closest_decision"] is None:
            assert many.summary["closest_decision"] is None
        else:
            distances = [s.summary["closest_decision"] for s in (alone, many)]
            assert distances[1] == pytest.approx(distances[0], abs=1e-6)
        passes.update(alone=alone.summary["passes"], many=many.summary["passes"])
    assert passes["many"] < passes["alone"]


@pytest.mark.parametrize("columns", [1, 3])
def test_a_long_walk_that_is_rolled_back_gets_its_cosines_in_parts(columns, monkeypatch):
    """A part has up to REBUILD_COLUMNS kept rows; the first alone forgets what was before it."""
    monkeypatch.setattr(side_by_side, "REBUILD_COLUMNS", columns)
    rolled_back = 0
    for seed in range(9000, 9008):
        problem, _ = problem_of("float32 side by side", seed)
        rules = replace(PAPER, on_exhausted="relax", pull=0.75, max_similarity=0.9)
        alone, many = (
            gradient_walk(problem.rows, problem.core, problem.limits, rules, slots=slots)
            for slots in (1, 3)
        )
        same_outcome(many, alone, seed)
        rolled_back += many.summary["rolled_back"]
    assert rolled_back > 8


def same_outcome(selection, expected, about) -> None:
    """Asserts equal rows, trace and summaries, but for the passes and the closest decision."""
    for name in ("components", "spent", "rows"):
        assert selection.summary[name] == expected.summary[name], about
    same_trace(selection.picks, expected.picks, about)


def same_trace(picks, expected, about) -> None:
    for pick, other in zip(picks, expected, strict=True):
        for name, value in vars(pick).items():
            if isinstance(value, float):
                assert value == pytest.approx(getattr(other, name), abs=2e-6), (about, name)
            else:
                assert value == getattr(other, name), (about, name)


def test_walks_that_do_not_meet_take_the_passes_of_the_longest():
    """Four bundles of rows, each along a direction of its own, and directions without a budget."""
    rng = np.random.default_rng(0)
    features_NP = np.repeat(np.eye(4), 20, axis=0) + rng.uniform(0, 0.1, size=(80, 4))
    problem = instance(5, shape=(80, 4), edges=0)
    core_CP, weights_C = np.eye(4, dtype="f4")[[0, 1, 3, 1, 2, 3]], np.array([1, 0, 0, 1, 1, 1])
    core = replace(problem.core, core_CP=core_CP, weights_C=weights_C / 4)
    # The directions, then a row of each at a time; three places: once more for the fourth.
    for budget, slots, passes in ((40, 4, 1 + 10), (40, 9, 1 + 10), (40, 3, 2 * 11), (0, 4, 0)):
        limits = replace(problem.limits, budget=budget, cap=budget)
        selection = gradient_walk(features_NP, core, limits, PAPER, slots=slots)
        rows = [c["rows"] for c in selection.summary["components"]]
        assert rows == (weights_C * budget // 4).tolist()
        assert selection.summary["rolled_back"] == 0
        assert selection.summary["passes"] == passes
        same_outcome(selection, gradient_walk(features_NP, core, limits, PAPER, slots=1), slots)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_many_directions_of_few_rows_each(dtype):
    """120 directions, budgets from 0 to 3 in any order, more and more towards one side."""
    seen: Counter = Counter()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        problem = instance(seed, dtype=dtype, shape=(150, 7), edges=0)
        core_CP = rng.normal(size=(120, 7)) + rng.normal(size=7) * seed
        core_CP /= np.linalg.norm(core_CP, axis=1, keepdims=True)
        budgets_C = rng.choice(4, size=120, p=[0.5, 0.2, 0.2, 0.1])
        budget = int(budgets_C.sum())
        core = replace(problem.core, core_CP=core_CP.astype("f4"), weights_C=budgets_C / budget)
        rules = replace(PAPER, on_exhausted=POLICIES[seed % 3])
        arguments = problem.rows, core, replace(problem.limits, budget=budget, cap=budget), rules
        alone, many = (gradient_walk(*arguments, slots=slots) for slots in (1, MOST_SLOTS))
        same_outcome(many, alone, seed)
        # Side by side, rows that an earlier walk took but that decide nothing are seen as well.
        closest, other = (s.summary["closest_decision"] for s in (many, alone))
        assert 0 <= closest <= other + 1e-6
        assert [c["budget"] for c in many.summary["components"]] == budgets_C.tolist()
        seen.update({name: many.summary[name] for name in ("passes", "rolled_back")})
        seen["one after another"] += alone.summary["rows"] + np.count_nonzero(budgets_C)
    assert seen["rolled_back"] >= 20, seen
    assert seen["passes"] < seen["one after another"] / 3, seen


def test_a_walk_that_goes_back_to_its_second_start_keeps_what_came_since():
    """Row 0 conflicts with all others, so that the second walk starts again at 80 degrees and goes
    on to 45; two steps later the first walk comes to 45, and the second goes on to 120 instead."""
    radians = np.radians([0, 10, 25, 45, 80, 120])
    around_NP = np.stack([np.full(6, -0.1), np.cos(radians), np.sin(radians)], axis=1)
    rows_NP = np.concatenate([np.eye(1, 3), around_NP]).astype(np.float32)
    problem = instance(5, shape=(7, 3), edges=0)
    second_P = [0.8, 0.6 * np.cos(radians[4]), 0.6 * np.sin(radians[4])]
    core_CP = np.array([[0, 1, 0], second_P], np.float32)
    core = replace(problem.core, core_CP=core_CP, weights_C=np.array([4, 3]) / 7)
    limits = replace(problem.limits, budget=7, cap=7)
    rules = replace(PAPER, delta=0.0, on_exhausted="reanchor")
    alone, many = (gradient_walk(rows_NP, core, limits, rules, slots=slots) for slots in (1, 2))
    assert many.rows == [1, 2, 3, 4, 0, 5, 6]
    reasons = [pick.reason for pick in many.picks[4:]]
    assert reasons == ["anchor", "reanchor", "neighbour"]
    assert many.summary["rolled_back"] == 1
    same_outcome(many, alone, "second start")


def test_a_row_that_only_set_the_maximum_of_a_tie_rolls_back_too():
    """Row 1 wins against row 2, its equal; once row 2 is gone, row 0 is row 1's equal."""
    heights = np.array([0.5 - 1.5e-6, 0.5 - 0.7e-6, 0.5, 0.0])
    along = np.array([0.3, 0.2, 0.6, 1.0])
    rows_NP = np.stack([along, heights, np.sqrt(1 - along**2 - heights**2)], axis=1)
    problem = instance(5, shape=(4, 3), edges=0)
    core = replace(
        problem.core, core_CP=np.eye(2, 3, dtype="f4"), weights_C=np.array([2 / 3, 1 / 3])
    )
    limits = replace(problem.limits, budget=3, cap=3)
    for slots in (1, 2):
        selection = gradient_walk(rows_NP, core, limits, replace(PAPER, delta=0.0), slots=slots)
        assert selection.rows == [3, 2, 0]
    assert selection.summary["rolled_back"] == 1


def test_a_walk_goes_on_avoiding_a_row_that_another_one_holds_too():
    """The second of walks 0, 1, 2 gives rows 7 and 8 back, and the first still holds row 7: the
    third may have row 8 again, but has to remember that it lost row 7 as its first choice."""
    problem = instance(5, shape=(9, 3), edges=0)
    pool = _pool(as_rows(problem.rows), problem.limits, None, None)
    open_N, core_CP = np.ones(9, bool), np.eye(3, dtype="f4")
    together = SideBySide(pool, rules_of(PAPER), core_CP, np.array([3, 3, 3]), open_N, 3)
    together._walks = [
        ComponentWalk(
            number, number, 3, open_N, choices=[NO_CHOICE] * len(rows), rows=rows, stale=False
        )
        for number, rows in enumerate(([7], [7, 8], [5, 6]))
    ]
    for walk in together._walks:
        walk.decides = {row: step for step, row in enumerate(walk.rows)}
    together._walks[2].avoids = [(7, 0), (8, 1)]
    together._roll_back(1, 0)
    assert together._walks[1].rows == []
    assert together._walks[2].rows == [5]
    assert together._walks[2].avoids == [(7, 0)]


def test_a_walk_that_depends_on_more_than_rows_is_not_put_side_by_side():
    """Under a cap, token budgets or redistribution the outcome is the transcription's as well."""
    for unit, cap, policy in (
        *(("rows", 0.4, "stop"), ("tokens", 1.0, "relax")),
        *(("rows", 1.0, "redistribute"), ("tokens", 0.7, "redistribute")),
    ):
        for seed in range(40, 46):
            problem = instance(seed, unit, cap, shape=SHAPE, components=4, edges=0)
            rules = replace(PAPER, on_exhausted=policy)
            selection, picks, ends, margin = both(problem, rules, slots=3)
            if margin > TOO_CLOSE:
                assert_equal(selection, picks, ends, (unit, cap, policy, seed))
            components = len(selection.summary["components"])
            assert selection.summary["passes"] == len(picks) + components


def test_slots_take_a_small_share_of_the_memory():
    for itemsize, slot_bytes in ((4, 40), (2, 80), (1, 80)):
        for width in (100, 1024, 4096, 10**6):
            slots = slots_that_fit((10**6, width), itemsize, 99)
            assert slots == 1 or slot_bytes * slots <= SLOTS_SHARE * width * itemsize
    assert slots_that_fit((10**6, 10**6), 4, 99) == MOST_SLOTS
    assert slots_that_fit((10**6, 10**6), 4, 3) == 3
    assert slots_that_fit((10**6, 10), 4, 3) == 1
    assert slots_that_fit((1000, 10), 4, 99) == MOST_SLOTS  # of a small pool they take little
    assert slots_that_fit((2 * 10**4, 10), 4, 99) == 2


def test_closest_decision_is_the_distance_at_which_a_choice_turns():
    """Of rows 1 and 2, nearest to row 0, which is taken depends on a gap that is made ever less."""
    problem = instance(5, shape=(4, 2), edges=0)
    core = replace(problem.core, core_CP=np.eye(1, 2, dtype=np.float32), weights_C=np.ones(1))
    limits = replace(problem.limits, budget=2, cap=2)
    for gap in (1e-2, 1e-3, 1e-4):
        cosines = np.array([1, 0.9, 0.9 - gap, 0.1])
        rows_NP = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
        selection = gradient_walk(rows_NP, core, limits, PAPER)
        assert selection.rows == [0, 1]
        assert selection.summary["closest_decision"] == pytest.approx(gap, abs=2e-6)
    # Rule 5 is as near to turning for a row that it keeps out although it is the next best.
    rows_NP = np.array([[1, 0], [0.6, 0.8], [-1e-4, 1], [-1, 0]])
    limits = replace(limits, budget=3, cap=3)
    selection = gradient_walk(rows_NP, core, limits, replace(PAPER, delta=0.0))
    assert selection.rows == [0, 1]
    assert selection.summary["closest_decision"] == pytest.approx(1e-4, abs=2e-6)
