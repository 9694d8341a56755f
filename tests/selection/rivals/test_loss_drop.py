"""Relative loss drop against a plain sort, and rows without a loss to speak of."""

import numpy as np
import pytest

from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.rivals.loss_drop import loss_drop
from tests.support.rival_instances import accept, check_limits, varied


def losses(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses in float32, some equal, that fall for most rows."""
    rng = np.random.default_rng(seed)
    before_N = rng.choice(rng.uniform(0.1, 6, 7), count).astype(np.float32)
    return before_N, (before_N * rng.choice(rng.uniform(0.2, 1.3, 5), count)).astype(np.float32)


@pytest.mark.parametrize("seed", range(200))
def test_rows_are_taken_by_the_share_that_their_loss_falls(seed):
    made = varied(seed)[2]
    count = len(made.costs_N)
    before_N, after_N = losses(seed, count)
    drops = [(float(b) - float(a)) / float(b) for b, a in zip(before_N, after_N, strict=True)]
    selection = loss_drop(before_N, after_N, made)
    ranking = sorted(range(count), key=lambda row: (-round(drops[row], 12), row))
    assert [round(pick.score, 12) for pick in selection.picks] == [
        round(drops[row], 12) for row in accept(ranking, made)
    ]
    check_limits(selection, made)
    for pick in selection.picks:
        assert pick.score == pytest.approx(drops[pick.row])
        assert (pick.component, pick.cos_component) == (-1, None)


def of_rows(count: int, budget: int):
    return limits(BudgetConfig(budget, "rows", 1.0), np.ones(count, int), np.ones(count, int))


def test_zero_losses_score_0_and_losses_that_are_not_finite_are_never_taken():
    before_N = np.array([0, 2, np.nan, 1, np.inf, 4, 0], np.float32)
    after_N = np.array([3, 1, 0.1, np.inf, 1, 5, 0], np.float32)
    selection = loss_drop(before_N, after_N, of_rows(7, 7))
    assert [(pick.row, pick.score) for pick in selection.picks] == [
        (1, 0.5),
        (0, 0.0),
        (6, 0.0),
        (5, -0.25),
    ]
    assert selection.summary["spent"] == 4


def test_losses_of_other_pools_are_refused():
    with pytest.raises(ValueError, match="limits of 4 rows, losses of 4 and 3"):
        loss_drop(np.ones(4), np.ones(3), of_rows(4, 2))
