"""Coverage against a plain greedy loop."""

import numpy as np
import pytest

from g2is_jax.selection.rivals.coverage import coverage
from tests.support.rival_instances import (
    CASES,
    cosine,
    fitting,
    opposing,
)

pytestmark = pytest.mark.usefixtures("_small_blocks")


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
