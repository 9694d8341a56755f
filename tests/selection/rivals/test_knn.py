"""Equal shares against a plain loop."""

import pytest

from g2is_jax.selection.rivals.knn import knn_even
from tests.support.rival_instances import (
    CASES,
    check_cosines,
    cosine,
    fitting,
    problem,
)

pytestmark = pytest.mark.usefixtures("_small_blocks")


@pytest.mark.parametrize(("seed", "unit", "cap"), CASES)
def test_equal_shares_equal_a_plain_loop(seed, unit, cap):
    """Validation row after validation row spends until the shares so far are used up."""
    features_NP, validation_MP, made = problem(seed, unit, cap)
    M = len(validation_MP)
    shares = [made.budget // M + (m < made.budget % M) for m in range(M)]
    chosen: list[int] = []
    owners: list[int] = []
    for m, v_P in enumerate(validation_MP):
        while made.costs_N[chosen].sum() < sum(shares[: m + 1]):
            open_rows = fitting(chosen, made)
            if not open_rows:
                break
            chosen.append(max(open_rows, key=lambda r, v_P=v_P: (cosine(features_NP[r], v_P), -r)))
            owners.append(m)
    selection = knn_even(features_NP, validation_MP, made)
    assert selection.rows == chosen
    assert [pick.component for pick in selection.picks] == owners
    check_cosines(selection, features_NP, validation_MP)
