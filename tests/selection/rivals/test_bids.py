"""BIDS against plain loops."""

import numpy as np
import pytest

from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.rivals.bids import bids
from tests.support.rival_instances import cosine, cosines, fitting, varied

pytestmark = pytest.mark.usefixtures("_small_blocks")


def standardised(features_NP, validation_MP) -> list[list[float]]:
    found = []
    for own in cosines(features_NP, validation_MP):
        mean = sum(own) / len(own)
        spread = (sum((x - mean) ** 2 for x in own) / len(own)) ** 0.5
        found.append([(x - mean) / spread if spread > 1e-6 else 0.0 for x in own])
    return found


@pytest.mark.parametrize("seed", range(200))
def test_bids_equals_plain_loops(seed):
    """The largest maximum over validation rows of Z - the mean Z of the chosen rows."""
    features_NP, validation_MP, made = varied(seed)
    Z = standardised(features_NP, validation_MP)
    chosen: list[int] = []
    for pick in bids(features_NP, validation_MP, made).picks:
        served = [sum(own[k] for k in chosen) / max(len(chosen), 1) for own in Z]
        gains = {
            row: [round(own[row] - mean, 7) for own, mean in zip(Z, served, strict=True)]
            for row in fitting(chosen, made)
        }
        assert pick.row == max(gains, key=lambda row: (max(gains[row]), -row))
        assert pick.score == pytest.approx(max(gains[pick.row]), abs=1e-5)
        assert gains[pick.row][pick.component] == pytest.approx(pick.score, abs=1e-5)
        expected = cosine(features_NP[pick.row], validation_MP[pick.component])
        assert pick.cos_component == pytest.approx(expected, abs=1e-6)
        chosen.append(pick.row)
    assert not fitting(chosen, made)


def test_rows_that_do_not_differ_are_taken_in_order():
    """All similarities are equal but for their rounding, so that Z is 0."""
    rng = np.random.default_rng(0)
    row_P = rng.normal(size=301)
    features_NP = np.stack([n * (row_P + 1e-6 * rng.normal(size=301)) for n in range(1, 12)])
    made = limits(BudgetConfig(5, "rows", 1.0), np.ones(11, int), np.zeros(11, int))
    selection = bids(features_NP, rng.normal(size=(3, 301)), made)
    assert selection.rows == [0, 1, 2, 3, 4]
    assert {pick.score for pick in selection.picks} == {0.0}


def test_a_validation_row_that_was_helped_waits():
    """Beside three equal validation rows, another one is helped as much."""
    rng = np.random.default_rng(0)
    near_NP = np.eye(2)[np.repeat([0, 1], 8)] + 0.1 * rng.normal(size=(16, 2))
    made = limits(BudgetConfig(8, "rows", 1.0), np.ones(16, int), np.zeros(16, int))
    assert sum(row >= 8 for row in bids(near_NP, np.eye(2)[[0, 0, 0, 1]], made).rows) == 4
