"""Pursuit against a plain greedy loop, and ties of both greedy methods."""

import numpy as np
import pytest

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.rivals.pursuit import pursuit
from tests.support.rival_instances import (
    CASES,
    GREEDY,
    cosine,
    fitting,
    opposing,
    problem,
)

pytestmark = pytest.mark.usefixtures("_small_blocks")


@pytest.mark.parametrize(("seed", "unit", "cap"), CASES)
def test_pursuit_equals_a_plain_greedy_loop(seed, unit, cap):
    """The row that turns the sum of unit rows closest to the mean of the unit validation rows."""
    features_NP, validation_MP, made = opposing(seed, unit, cap)
    units_NP, target_P = unit_length(features_NP), unit_length(validation_MP).mean(axis=0)
    chosen: list[int] = []
    selection = pursuit(features_NP, validation_MP, made)
    for pick in selection.picks:
        scores = {
            row: cosine(units_NP[[*chosen, row]].sum(axis=0), target_P)
            for row in fitting(chosen, made)
        }
        assert pick.row == max(scores, key=lambda row: (scores[row], -row))
        assert pick.score == pytest.approx(scores[pick.row], abs=1e-6)
        assert pick.cos_component == pytest.approx(cosine(units_NP[pick.row], target_P), abs=1e-6)
        assert pick.component == 0
        chosen.append(pick.row)
    assert not fitting(chosen, made)


def unit_length(rows_NP) -> np.ndarray:
    rows_NP = rows_NP.astype(np.float64)
    return rows_NP / np.maximum(np.linalg.norm(rows_NP, axis=1, keepdims=True), 1e-10)


def test_pursuit_settles_what_float32_cannot():
    """Among rows that differ by less than float32 shows, the better one, not the first."""
    rng = np.random.default_rng(0)
    target_P = np.ones(400) / 20
    away_P = rng.normal(size=400)
    away_P -= (away_P @ target_P) * target_P
    away_P /= np.linalg.norm(away_P)
    tilts = 0.3 - 1e-8 * np.array([0, 3, 1, 2, 5, 4])
    features_NP = np.cos(tilts)[:, None] * target_P + np.sin(tilts)[:, None] * away_P
    made = limits(BudgetConfig(6, "rows", 1.0), np.ones(6, int), np.zeros(6, int))
    assert pursuit(features_NP, target_P[None], made).rows == [4, 5, 1, 3, 2, 0]


def test_pursuit_of_many_equal_rows_takes_them_in_order():
    """Equal rows of different lengths tie, however their products are rounded."""
    rng = np.random.default_rng(1)
    row_P = rng.normal(size=301).astype(np.float32)
    features_NP = np.stack([row_P * 2.0 ** (n % 5) for n in range(40)])
    made = limits(BudgetConfig(40, "rows", 1.0), np.ones(40, int), np.zeros(40, int))
    for select in GREEDY.values():
        rows = select(features_NP, row_P[None] + rng.normal(size=301), made).rows
        assert rows == list(range(40))


@pytest.mark.parametrize("seed", range(10))
def test_the_first_of_the_best_rows_is_taken(seed):
    """Copies of the best row are strewn among others, more of them than are looked at together."""
    rng = np.random.default_rng(seed)
    features_NP = rng.normal(size=(60, 2))
    best_N = np.sort(rng.permutation(60)[:15])
    features_NP[best_N] = (1, 1)
    made = limits(BudgetConfig(1, "rows", 1.0), np.ones(60, int), np.zeros(60, int))
    for select in GREEDY.values():
        assert select(features_NP, np.array([[3.0, 3.0]]), made).rows == [best_N[0]]


def test_pursuit_needs_a_direction():
    """Validation rows that cancel out have none."""
    features_NP, validation_MP, made = problem(0)
    with pytest.raises(InputError, match="their mean has no direction"):
        pursuit(features_NP, np.stack([validation_MP[0], -validation_MP[0]]), made)
