"""Paired differences between methods: their means, and intervals over seeds and test rows."""

import math

import numpy as np
import pytest

from g2is_jax.evaluation.compare import (
    bootstrap_interval,
    row_differences,
    seed_differences,
    student_interval,
)
from tests.support.row_scores import ROWS, SEEDS, row_scores

LOSSES = {"random": (1.0, 1.4, 1.2), "g2is": (0.7, 1.3, 0.7)}
MATCHES = {"random": (0.2, 0.3, 0.1), "g2is": (0.5, 0.4, 0.3)}


def scores(methods=("random", "g2is"), seeds=3) -> list[dict]:
    return [
        {
            "method": method,
            "target": "sums",
            "seed": seed,
            "metrics": {"answer_loss": LOSSES[method][seed], "exact_match": MATCHES[method][seed]},
        }
        for method in methods
        for seed in range(seeds)
    ]


def test_equals_plain_resampling():
    """Loops that take seeds and rows one at a time give the same quantiles up to chance."""
    rng = np.random.default_rng(3)
    values_SM = rng.normal(size=(4, 1)) + rng.normal(size=(1, 30)) + rng.normal(size=(4, 30))
    means = []
    for _ in range(4000):
        rows = rng.integers(30, size=30)
        means.append(np.mean([values_SM[s, rows].mean() for s in rng.integers(4, size=4)]))
    expected = np.quantile(means, [0.025, 0.975])
    assert bootstrap_interval(values_SM) == pytest.approx(expected, abs=0.05)
    assert bootstrap_interval(values_SM, 0.5) == pytest.approx(
        np.quantile(means, [0.25, 0.75]), abs=0.05
    )


def test_covers_the_truth_about_as_often_as_it_says():
    """Seeds and rows drawn anew 200 times around a mean of 1."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        values_SM = 1 + 0.3 * rng.normal(size=(8, 1)) + rng.normal(size=(1, 40))
        values_SM = values_SM + rng.normal(size=(8, 40))
        low, high = bootstrap_interval(values_SM, 0.9, draws=500, seed=trial)
        covered += low <= 1 <= high
    assert 170 <= covered <= 196


def test_one_seed_resamples_rows_alone_and_the_seed_decides():
    values_SM = np.random.default_rng(1).normal(size=(1, 50))
    half = (np.diff(bootstrap_interval(values_SM)) / 2).item()
    assert half == pytest.approx(1.96 * values_SM.std() / 50**0.5, rel=0.1)
    assert bootstrap_interval(values_SM, seed=1) == bootstrap_interval(values_SM, seed=1)
    assert bootstrap_interval(values_SM, seed=1) != bootstrap_interval(values_SM, seed=2)
    assert bootstrap_interval(np.full((3, 5), 2.0)) == (2.0, 2.0)
    with pytest.raises(ValueError, match="not finite"):
        bootstrap_interval(np.array([[1.0, np.nan]]))


def test_differences_are_paired_and_more_is_better():
    """Loss fell by 0.3, 0.1 and 0.5; Student's quantile for two degrees of freedom is 4.3027."""
    loss, match = seed_differences(scores())
    assert (loss.subject, loss.rival, loss.metric) == ("g2is", "random", "answer_loss")
    assert loss.mean == pytest.approx(0.3)
    half = 4.302653 * 0.2 / math.sqrt(3)
    assert (loss.low, loss.high) == pytest.approx((0.3 - half, 0.3 + half))
    assert (loss.better, loss.seeds) == (3, 3)
    assert match.mean == pytest.approx(0.2)
    (reverse, _) = seed_differences(scores(), subject="random")
    assert (reverse.mean, reverse.better) == (pytest.approx(-0.3), 0)


def test_differences_over_the_seeds_that_both_have():
    rows = [s for s in scores() if not (s["method"] == "g2is" and s["seed"] == 1)]
    loss = seed_differences(rows)[0]
    assert (loss.mean, loss.seeds) == (pytest.approx(0.4), 2)
    assert seed_differences(scores(methods=("random",))) == []
    single = seed_differences(scores(seeds=1))[0]
    assert (single.low, single.high) == student_interval([0.3]) == (None, None)


def test_means_are_of_the_rows_that_count_for_both():
    scores = row_scores()
    found = {(d.method, d.rival, d.metric): d for d in row_differences(scores)}
    assert found.keys() == {
        (method, rival, metric)
        for method, rival in (("less", "random"), ("g2is", "random"), ("random", "less"),
                              ("g2is", "less"))
        for metric in ("answer_loss", "exact_match")
    }  # fmt: skip
    for (method, rival, metric), difference in found.items():
        sign = -1 if metric == "answer_loss" else 1
        means = {
            name: np.mean([s["metrics"][metric] for s in scores if s["method"] == name])
            for name in (method, rival)
        }
        assert difference.mean == pytest.approx(sign * (means[method] - means[rival]))
        assert difference.low < difference.mean < difference.high
        assert (difference.seeds, difference.rows) == (SEEDS, ROWS - (metric == "answer_loss"))
    loss = found["g2is", "less", "answer_loss"]
    assert 0.2 < loss.low < 0.3 < loss.high < 0.4  # what all share is no part of the difference


def test_only_what_has_rows_is_compared():
    scores = row_scores()
    for score in scores:
        if score["method"] == "g2is":
            del score["per_row"]["exact_match"]
        if score["method"] == "less":
            del score["per_row"]
    found = row_differences(scores)
    assert {(d.method, d.rival, d.metric) for d in found} == {("g2is", "random", "answer_loss")}
    assert row_differences([score for score in scores if score["method"] == "less"]) == []
