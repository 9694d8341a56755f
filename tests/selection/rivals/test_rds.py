"""RDS+ against popping from sorted lists."""

import numpy as np
import pytest

from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.rivals.less import less_rr
from g2is_jax.selection.rivals.rds import rds_plus
from tests.support.rival_instances import (
    CASES,
    check_cosines,
    cosine,
    fits,
    fitting,
    problem,
)

pytestmark = pytest.mark.usefixtures("_small_blocks")


@pytest.mark.parametrize(("seed", "unit", "cap"), CASES)
def test_rds_plus_equals_popping_from_sorted_lists(seed, unit, cap):
    """Every turn pops one row; a used one is dropped and the turn is lost."""
    features_NP, validation_MP, made = problem(seed, unit, cap)
    lists = [
        sorted(range(len(features_NP)), key=lambda r: (-cosine(features_NP[r], v_P), r))
        for v_P in validation_MP
    ]
    chosen: list[int] = []
    owners: list[int] = []
    turn = 0
    while fitting(chosen, made):
        own = lists[turn % len(lists)]
        while own and own[0] not in chosen and not fits(own[0], chosen, made):
            own.pop(0)
        row = own.pop(0) if own else None
        if row is not None and row not in chosen:
            chosen.append(row)
            owners.append(turn % len(lists))
        turn += 1
    selection = rds_plus(features_NP, validation_MP, made)
    assert selection.rows == chosen
    assert [pick.component for pick in selection.picks] == owners
    check_cosines(selection, features_NP, validation_MP)


def test_validation_rows_that_agree_lose_turns():
    """Beside three equal rows, another one takes every second row, not every fourth."""
    rng = np.random.default_rng(0)
    near_NP = np.eye(2)[np.repeat([0, 1], 8)] + 0.1 * rng.normal(size=(16, 2))
    validation_MP = np.eye(2)[[0, 0, 0, 1]]
    made = limits(BudgetConfig(8, "rows", 1.0), np.ones(16, int), np.zeros(16, int))
    assert sum(row >= 8 for row in rds_plus(near_NP, validation_MP, made).rows) == 4
    assert sum(row >= 8 for row in less_rr(near_NP, validation_MP, made).rows) == 2
