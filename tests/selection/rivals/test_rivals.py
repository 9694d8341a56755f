"""Limits, blocks and refusals, which the selectors without a graph have in common."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g2is_jax.features.rows import Rows, quantised
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.rivals import coverage as coverage_module
from g2is_jax.selection.rivals import gip as gip_module
from g2is_jax.selection.rivals import similarity
from g2is_jax.selection.rivals.bids import bids
from g2is_jax.selection.rivals.gist import gist
from g2is_jax.selection.rivals.knn import knn_even
from g2is_jax.selection.rivals.less import less, less_rr
from g2is_jax.selection.rivals.rds import rds_plus
from g2is_jax.selection.rivals.tsds import tsds_kde, tsds_knn
from g2is_jax.selection.rivals.uot import uot
from tests.support.rival_instances import GREEDY, Compressed, check_limits, labels, problem

SELECTORS = {
    "less": lambda pool, validation, made: less(pool, validation, labels(validation), made),
    "less_rr": less_rr,
    "rds_plus": rds_plus,
    "knn_even": knn_even,
    "bids": bids,
    "tsds_knn": tsds_knn,
    "tsds_kde": tsds_kde,
    "uot": uot,
    "gist": lambda pool, validation, made: gist(pool, validation, labels(validation), 3, made),
    **GREEDY,
}
pytestmark = pytest.mark.usefixtures("_small_blocks")


@pytest.mark.parametrize("name", SELECTORS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    unit=st.sampled_from(["rows", "tokens"]),
    cap=st.sampled_from([0.5, 0.7, 1.0]),
    opposite=st.booleans(),
)
def test_limits_are_kept_and_used_up(name, seed, unit, cap, opposite):
    """Exactly the budget, or all that fits; never more of a source than its cap."""
    features_NP, validation_MP, made = problem(seed, unit, cap)
    if opposite:
        features_NP[0] = -features_NP[-1]
    selection = SELECTORS[name](features_NP, validation_MP, made)
    check_limits(selection, made)
    assert SELECTORS[name](features_NP, validation_MP, made) == selection


@pytest.mark.parametrize("name", SELECTORS)
def test_compressed_rows_and_blocks_change_nothing(name, monkeypatch):
    """Rows that are only ever sliced, and blocks of any size, give the same picks."""
    features_NP, validation_MP, made = problem(1)
    expected = SELECTORS[name](features_NP, validation_MP, made).rows
    compressed = Compressed(features_NP), Compressed(validation_MP)
    assert SELECTORS[name](*compressed, made).rows == expected
    monkeypatch.setattr(similarity, "BLOCK", 1000)
    monkeypatch.setattr(coverage_module, "FIRST", 64)
    monkeypatch.setattr(coverage_module, "MOST", 64)
    monkeypatch.setattr(gip_module, "BATCH", 32)
    assert SELECTORS[name](features_NP, validation_MP, made).rows == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", SELECTORS)
def test_stored_rows_choose_as_the_values_they_stand_for(name, dtype):
    """Rows of every stored type, and the same ones decoded to float32."""
    for seed in range(4):
        features_NP, validation_MP, made = problem(seed, *(("tokens", 0.5) if seed % 2 else ()))
        pool, validation = (Rows(*quantised(r, dtype)) for r in (features_NP, validation_MP))
        expected = SELECTORS[name](pool[:], validation[:], made)
        assert SELECTORS[name](pool, validation, made) == expected


@pytest.mark.parametrize("name", SELECTORS)
def test_budget_0_and_everything(name):
    """Nothing, and every row once."""
    features_NP, validation_MP, _ = problem(3)
    ones_N = np.ones(len(features_NP), int)
    for budget in (0, len(features_NP)):
        made = limits(BudgetConfig(budget, "rows", 1.0), ones_N, ones_N)
        rows = SELECTORS[name](features_NP, validation_MP, made).rows
        assert len(set(rows)) == len(rows) == budget


@pytest.mark.parametrize("name", SELECTORS)
def test_features_that_do_not_fit_are_refused(name):
    """Different widths, no validation row, rows that are not finite, another pool's limits."""
    features_NP, validation_MP, made = problem(0)
    select = SELECTORS[name]
    with pytest.raises(InputError, match="7 wide, validation features 6"):
        select(features_NP, validation_MP[:, :6], made)
    with pytest.raises(InputError, match="no validation row"):
        select(features_NP, validation_MP[:0], made)
    with pytest.raises(ValueError, match="features of"):
        select(features_NP[1:], validation_MP, made)
    broken_NP = features_NP.copy()
    broken_NP[7, 3] = np.nan
    with pytest.raises(InputError, match="pool row 7 has a feature that is not finite"):
        select(broken_NP, validation_MP, made)
    with pytest.raises(InputError, match="validation row 0 has a feature"):
        select(features_NP, np.full((2, 7), np.inf), made)
