"""The compiled walk against the plain NumPy transcription of the method, row for row."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from g2is_jax.selection.budget import Selection, largest_remainder
from g2is_jax.selection.walk.rules import WalkConfig
from g2is_jax.selection.walk.select import gradient_walk
from tests.support.reference_walk import Reference
from tests.support.walk_instances import PAPER, Instance, instance

TOO_CLOSE = 3e-7  # a decision nearer than this to its turning point is rounding's, not the rule's


def both(
    problem: Instance, rules: WalkConfig, **strategy
) -> tuple[Selection, list[dict], list[str], float]:
    """The walk's selection; the reference's picks, ends and closest decision."""
    arguments = (problem.rows, problem.core, problem.limits, rules, problem.near)
    return gradient_walk(*arguments, **strategy), *transcribed(problem, rules)


def transcribed(problem: Instance, rules: WalkConfig) -> tuple[list[dict], list[str], float]:
    asked = problem.asked
    share = asked.unit == "fraction"
    budget = int(len(problem.features_NP) * asked.budget) if share else asked.budget
    reference = Reference(
        problem.features_NP,
        problem.core.core_CP,
        largest_remainder(budget, problem.core.weights_C),
        problem.core.weights_C,
        problem.limits.costs_N.tolist(),
        problem.limits.sources_N.tolist(),
        problem.limits.cap,
        rules,
        None if problem.near is None else problem.near.tolist(),
    )
    picks, ends = reference.run()
    return picks, ends, reference.margin


def assert_equal(selection: Selection, picks: list[dict], ends: list[str], about) -> None:
    """Same rows, components, reasons and trace."""
    assert selection.rows == [pick["row"] for pick in picks], about
    assert [c["ended"] for c in selection.summary["components"]] == ends, about
    for order, (mine, its) in enumerate(zip(selection.picks, picks, strict=True)):
        assert mine.order == order, about
        assert (mine.component, mine.reason) == (its["component"], its["reason"]), about
        for name in ("score", "cos_previous", "cos_component", "cos_smallest"):
            assert getattr(mine, name) == pytest.approx(its[name], abs=2e-6), (about, name)


def rounded_up(problem: Instance) -> bool:
    """True if rounding instead of cutting would ask for one row more."""
    asked, N = problem.asked, len(problem.features_NP)
    return asked.unit == "fraction" and asked.budget * N % 1 >= 0.5


def has_equal_rows(features_NP) -> bool:
    return len(np.unique(features_NP, axis=0)) < len(features_NP)


def test_paper_equals_the_transcription_row_for_row():
    """1,000 random instances under the paper's rules; each hard situation really occurs. A budget
    that is a share of the pool is int(N share), as in the released script."""
    seen: Counter = Counter()
    for seed in range(1000):
        problem = instance(seed, "fraction" if seed % 4 > 1 else "rows")
        selection, picks, ends, margin = both(problem, PAPER)
        if margin < TOO_CLOSE:
            seen["too close to call"] += 1
            continue
        assert_equal(selection, picks, ends, seed)
        N, budget = len(problem.features_NP), problem.limits.budget
        chosen = problem.features_NP[selection.rows]
        seen["compared"] += 1
        seen["knn" if problem.near is not None else "exact"] += 1
        seen["dead end"] += "no valid row" in ends
        seen["filled"] += len(picks) == budget > 0
        seen["pool used up"] += len(picks) == N
        seen["equal rows chosen"] += has_equal_rows(chosen)
        seen["zero row chosen"] += bool(len(chosen)) and bool((chosen == 0).all(axis=1).any())
        seen["one validation row"] += problem.validation_rows == 1
        seen["several components"] += len(problem.core.weights_C) > 1
        seen["budget cut by half a row or more"] += rounded_up(problem)
        seen["budget 0"] += budget == 0
        seen["budget of everything"] += budget == N
        seen["fallback"] += any(pick["reason"] == "fallback" for pick in picks)
    assert seen["compared"] >= 980, seen
    assert seen["too close to call"] <= 20, seen
    assert min(seen[what] for what in seen if what != "too close to call") >= 5, seen
    assert len(seen) >= 14, seen


# Every value of every switch at least three times, in company with different others.
GRID = [
    # delta reference pull tolerance cap on_exhausted
    (0.8, "current", 0.0, 0.0, 1.0, "relax"),
    (0.8, "current", 0.0, 0.0, 1.0, "reanchor"),
    (0.8, "current", 0.0, 0.0, 1.0, "redistribute"),
    (0.8, "anchor", 0.0, 0.0, 1.0, "stop"),
    (0.95, "best", 0.0, 0.0, 1.0, "relax"),
    (0.95, "best", 0.5, 0.1, 0.9, "redistribute"),
    (0.95, "anchor", 1.0, 0.2, 0.6, "relax"),
    (1.0, "current", 0.75, 0.0, 0.3, "relax"),
    (0.0, "current", 0.3, 0.05, 0.5, "reanchor"),
    (0.9, "best", 0.75, 1.0, 0.8, "stop"),
    (0.99, "anchor", 0.1, 0.3, 0.7, "reanchor"),
]
LIMITS = (("rows", 1.0), ("rows", 0.4), ("tokens", 1.0), ("tokens", 0.4))
FIELDS = (
    *("delta", "delta_reference", "pull", "conflict_tolerance"),
    *("max_similarity", "on_exhausted"),
)


def test_all_switches_equal_the_transcription():
    """Every row of the grid under row and token budgets, with and without a source cap."""
    seen: Counter = Counter()
    for number, values in enumerate(GRID):
        rules = replace(PAPER, **dict(zip(FIELDS, values, strict=True)))
        for unit, cap in LIMITS:
            for seed in range(1000 + 7 * number, 1007 + 7 * number):
                problem = instance(seed, unit, cap)
                selection, picks, ends, margin = both(problem, rules)
                if margin < TOO_CLOSE:
                    seen["too close to call"] += 1
                    continue
                assert_equal(selection, picks, ends, (rules, unit, cap, seed))
                seen["compared"] += 1
                seen.update({pick["reason"] for pick in picks} | set(ends))
    assert seen["too close to call"] < 0.1 * seen["compared"], seen
    reasons = ("anchor", "neighbour", "fallback", "reanchor")
    relaxed = ("relaxed conflict", "relaxed consistency", "relaxed similarity")
    all_ends = ("filled", "no valid row", "rest too small", "no row left")
    for what in (*reasons, *relaxed, *all_ends):
        assert seen[what] >= 3, (what, seen)
