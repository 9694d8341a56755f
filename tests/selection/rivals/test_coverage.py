"""Coverage and pursuit against plain greedy loops."""

import numpy as np
import pytest

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.rivals.coverage import coverage
from g2is_jax.selection.rivals.pursuit import pursuit
from tests.support.rival_instances import CASES, GREEDY, cosine, fitting, problem

pytestmark = pytest.mark.usefixtures("_small_blocks")


def opposing(seed: int, unit: str, cap: float):
    """A problem whose rows share a direction of some strength, and some of which are opposites."""
    features_NP, validation_MP, made = problem(seed, unit, cap)
    rng = np.random.default_rng(seed)
    features_NP += np.float32(rng.choice([0, 1, 3])) * (np.abs(features_NP).max(1) > 0)[:, None]
    features_NP[0] = -features_NP[-1]
    return features_NP, validation_MP, made


def worth(chosen, features_NP, validation_MP) -> float:
    """The coverage of a set, from its definition."""
    return sum(
        np.sqrt(sum(max(0.0, cosine(features_NP[j], v_P)) for j in chosen)) for v_P in validation_MP
    )


@pytest.mark.parametrize(("seed", "unit", "cap"), CASES)
def test_coverage_equals_a_plain_greedy_loop(seed, unit, cap):
    """The row that adds most to the definition's sum."""
    features_NP, validation_MP, made = opposing(seed, unit, cap)
    chosen: list[int] = []
    for pick in coverage(features_NP, validation_MP, made).picks:
        before = worth(chosen, features_NP, validation_MP)
        gains = {
            row: round(worth([*chosen, row], features_NP, validation_MP) - before, 6)
            for row in fitting(chosen, made)
        }
        assert pick.row == max(gains, key=lambda row: (gains[row], -row))
        assert pick.score == pytest.approx(gains[pick.row], abs=2e-6)
        check_component(pick, chosen, features_NP, validation_MP)
        chosen.append(pick.row)
    assert not fitting(chosen, made)


def check_component(pick, chosen, features_NP, validation_MP) -> None:
    """The component is the validation row that gains most, -1 where none gains."""
    gains = [
        worth([*chosen, pick.row], features_NP, [v_P]) - worth(chosen, features_NP, [v_P])
        for v_P in validation_MP
    ]
    if pick.component == -1:
        assert max(gains) == pick.score == 0
        assert pick.cos_component is None
    else:
        assert gains[pick.component] == pytest.approx(max(gains), abs=1e-6)
        expected = cosine(features_NP[pick.row], validation_MP[pick.component])
        assert pick.cos_component == pytest.approx(expected, abs=1e-6)


def test_the_random_problems_hold_what_they_must():
    """Steps on which nothing gains."""
    idle = 0
    for seed, unit, cap in CASES:
        picks = coverage(*opposing(seed, unit, cap)).picks
        idle += any(pick.component == -1 for pick in picks)
    assert idle > 0


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
