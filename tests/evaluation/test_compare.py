"""The interval over seeds and test rows."""

import numpy as np
import pytest

from g2is_jax.evaluation.compare import bootstrap_interval


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
