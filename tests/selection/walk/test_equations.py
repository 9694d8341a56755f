"""The equations and what a chosen row changes, each against NumPy float64 on the rows of S'."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from g2is_jax.features.rows import as_rows
from g2is_jax.features.unit_rows import unit_rows_of
from g2is_jax.selection.walk import equations as eq
from g2is_jax.selection.walk.rules import rules_of
from tests.support.walk_instances import PAPER

CHOSEN = [4, 17, 2, 9, 30]


@pytest.fixture(scope="module")
def walked():
    """A walk that took CHOSEN one by one, the first as an anchor: features, component and state."""
    rng = np.random.default_rng(0)
    features_NP = (rng.normal(size=(31, 7)) + 0.3).astype(np.float32)
    features_NP /= np.linalg.norm(features_NP, axis=1, keepdims=True)
    core_P = np.eye(7)[0]
    ones_N = jnp.ones(31, jnp.int32)
    pool = eq.WalkPool(
        unit_rows_of(as_rows(features_NP), None), ones_N, 0 * ones_N, jnp.int32(31), None
    )
    core_N = jnp.asarray(features_NP @ core_P, jnp.float32)
    state = eq.empty(ones_N == 0, jnp.zeros(1, jnp.int32), jnp.int32(31), core_N)
    for step, row in enumerate([11, *CHOSEN]):  # row 11 is of an S' that the next row ends
        cosines_N = jnp.asarray(features_NP @ features_NP[row])
        state = eq.advance(pool, state, jnp.int32(row), step < 2, core_N[row], cosines_N)
    return features_NP.astype(np.float64), core_P, pool, core_N, state


def along(total_P, core_P) -> float:
    """|cos(total, k)|."""
    return abs(total_P @ core_P) / np.linalg.norm(total_P)


def test_a_chosen_row_changes_the_cosines_and_the_sum(walked):
    g_NP, core_P, _, _, state = walked
    cosines_SN, total_P = g_NP[CHOSEN] @ g_NP.T, g_NP[CHOSEN].sum(axis=0)
    expected = cosines_SN[-1], cosines_SN.min(axis=0), cosines_SN.max(axis=0), g_NP @ total_P
    for found_N, expected_N in zip(state.cosines, expected, strict=True):
        np.testing.assert_allclose(found_N, expected_N, atol=1e-6)
    assert state.sum.size == len(CHOSEN)
    assert state.sum.squared == pytest.approx(total_P @ total_P, abs=1e-5)
    assert state.sum.core == pytest.approx(total_P @ core_P, abs=1e-6)
    sums = [along(g_NP[CHOSEN[:n]].sum(axis=0), core_P) for n in range(1, len(CHOSEN) + 1)]
    np.testing.assert_allclose(state.sum.references_3, [sums[-1], sums[0], max(sums)], atol=1e-6)
    assert (state.taken, state.remaining, state.last) == (6, 25, CHOSEN[-1])
    assert np.flatnonzero(state.used_N).tolist() == sorted([11, *CHOSEN])


def test_cosines_join_wherever_s_prime_is_cut():
    """Also an empty part changes nothing."""
    rows_SN = np.random.default_rng(1).integers(-8, 9, size=(5, 31)).astype(np.float32) / 8

    def after(cosines, chosen_SN):
        for row_N in chosen_SN:
            cosines = eq.cosines_after(cosines, jnp.asarray(row_N), starts=False)
        return cosines

    none = eq.no_cosines(rows_SN[0])
    whole = after(none, rows_SN)
    for cut in range(5):
        joined = eq.joined(after(none, rows_SN[:cut]), after(none, rows_SN[cut:]))
        for found_N, expected_N in zip(joined, whole, strict=True):
            np.testing.assert_array_equal(found_N, expected_N)


@pytest.mark.parametrize("pull", [0.0, 0.3])
def test_equation_4(walked, pull):
    g_NP, core_P, _, core_N, state = walked
    score_N = eq.coherence(rules_of(replace(PAPER, pull=pull)), state.cosines, core_N)
    expected_N = (1 - pull) * g_NP @ g_NP[CHOSEN[-1]] + pull * g_NP @ core_P
    np.testing.assert_allclose(score_N, expected_N, atol=1e-6)


@pytest.mark.parametrize("tolerance", [0.0, 0.2])
def test_equation_5(walked, tolerance):
    g_NP, _, _, _, state = walked
    found_N = eq.conflict(rules_of(replace(PAPER, conflict_tolerance=tolerance)), state.cosines)
    smallest_N = (g_NP[CHOSEN] @ g_NP.T).min(axis=0)
    np.testing.assert_allclose(found_N, -tolerance - smallest_N, atol=3e-6)
    assert 0 < (np.asarray(found_N) > 0).sum() < len(g_NP)


@pytest.mark.parametrize(("reference", "rows"), [("current", 5), ("anchor", 1), ("best", None)])
def test_equation_6(walked, reference, rows):
    g_NP, core_P, pool, core_N, state = walked
    rules = rules_of(replace(PAPER, delta=0.95, delta_reference=reference))
    found_N = eq.inconsistency(rules, pool.rows.squared_N, core_N, state)
    sums = [along(g_NP[CHOSEN[:n]].sum(axis=0), core_P) for n in range(1, len(CHOSEN) + 1)]
    needed = 0.95 * (max(sums) if rows is None else sums[rows - 1])
    with_row_N = [along(g_NP[CHOSEN].sum(axis=0) + g_P, core_P) for g_P in g_NP]
    np.testing.assert_allclose(found_N, needed - with_row_N, atol=3e-6)
    assert 0 < (np.asarray(found_N) > 0).sum() <= len(g_NP)


def test_the_cap_on_similarity(walked):
    g_NP, _, _, _, state = walked
    found_N = eq.excess_similarity(rules_of(replace(PAPER, max_similarity=0.5)), state.cosines)
    largest_N = (g_NP[CHOSEN] @ g_NP.T).max(axis=0)
    np.testing.assert_allclose(found_N, largest_N - 0.5, atol=3e-6)
