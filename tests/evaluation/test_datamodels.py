"""Linear datamodelling scores: rank correlations as SciPy has them, and known worlds."""

import numpy as np
import pytest
from scipy import stats

from g2is_jax.evaluation import datamodels
from g2is_jax.evaluation.datamodels import datamodelling_scores, spearman


@pytest.mark.parametrize("values", [3, 1000])
def test_rank_correlations_are_scipys_with_ties_or_without(values):
    rng = np.random.default_rng(0)
    first_SM, second_SM = rng.integers(values, size=(2, 15, 6)).astype(np.float64)
    expected = [
        stats.spearmanr(own_S, other_S).statistic
        for own_S, other_S in zip(first_SM.T, second_SM.T, strict=True)
    ]
    np.testing.assert_allclose(spearman(first_SM, second_SM), expected, atol=1e-6)


def test_a_column_of_equal_values_has_no_correlation():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(spearman(np.ones((9, 2)), rng.normal(size=(9, 2))), [0, 0])


def test_a_draw_counts_an_observation_as_often_as_it_was_drawn():
    rng = np.random.default_rng(0)
    first_SM, second_SM = rng.normal(size=(2, 12, 4))
    drawn = rng.integers(12, size=12)
    times_S = np.bincount(drawn, minlength=12)
    of_first_SM, of_second_SM = (
        datamodels._ranks(datamodels._comparisons(values_SM), times_S)
        for values_SM in (first_SM, second_SM)
    )
    found_M = datamodels._correlation(of_first_SM, of_second_SM, times_S)
    expected_M = spearman(first_SM[drawn], second_SM[drawn])
    np.testing.assert_allclose(found_M, expected_M, atol=1e-6)


def world(subsets: int, noise: float):
    """Losses that fall with the sum of known scores, and these sums."""
    rng = np.random.default_rng(0)
    members_SN = (rng.random((subsets, 60)) < 0.5).astype(np.float64)
    sums_SM = members_SN @ rng.normal(size=(60, 20))
    losses_SM = -sums_SM + noise * rng.normal(size=sums_SM.shape) * sums_SM.std()
    return losses_SM, sums_SM, rng.normal(size=sums_SM.shape)


def test_true_scores_are_found_and_chance_is_not():
    losses_SM, sums_SM, chance_SM = world(subsets=40, noise=1.0)
    found = datamodelling_scores(losses_SM, {"chance": chance_SM, "true": sums_SM}, "chance")
    assert 0.4 < found["true"].low < found["true"].mean < found["true"].high < 0.7
    assert found["chance"].low < 0 < found["chance"].high
    assert found["true"].lead_low > 0.3
    assert found["true"].share_positive == 1
    own = found["chance"]
    assert (own.lead, own.lead_low, own.lead_high) == (0, 0, 0)


def test_exact_sums_score_one_and_their_opposite_minus_one():
    losses_SM, sums_SM, _ = world(subsets=12, noise=0.0)
    found = datamodelling_scores(losses_SM, {"true": sums_SM, "opposite": -sums_SM}, "true")
    assert found["true"].mean == pytest.approx(1, abs=1e-6)
    assert found["opposite"].mean == pytest.approx(-1, abs=1e-6)
    assert found["opposite"].lead == pytest.approx(-2, abs=1e-6)


def test_a_lead_is_paired():
    """Two methods that differ by little in every draw have a narrower interval apart than alone."""
    losses_SM, sums_SM, chance_SM = world(subsets=30, noise=1.0)
    methods = {"true": sums_SM, "nearly": sums_SM + 0.1 * chance_SM * sums_SM.std()}
    found = datamodelling_scores(losses_SM, methods, "true")["nearly"]
    assert found.lead_high - found.lead_low < 0.5 * (found.high - found.low)
