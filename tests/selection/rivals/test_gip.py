"""Gradient-informed projection against projections that are computed anew in every step."""

import numpy as np
import pytest

from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.rivals import gip as module
from g2is_jax.selection.rivals.gip import gip
from tests.support.rival_instances import cosine, fitting, varied

pytestmark = pytest.mark.usefixtures("_small_blocks")


def unit(rows_NP) -> np.ndarray:
    rows_NP = rows_NP.astype(np.float64)
    return rows_NP / np.maximum(np.linalg.norm(rows_NP, axis=1, keepdims=True), 1e-10)


def held(rows_RP, units_MP) -> float:
    """The squared lengths of the validation rows' projections on the span, summed."""
    _, lengths_C, directions_CP = np.linalg.svd(rows_RP, full_matrices=False)
    basis_CP = directions_CP[lengths_C > 1e-4]
    return float(((units_MP @ basis_CP.T) ** 2).sum())


@pytest.mark.parametrize("seed", range(200))
def test_gip_equals_projections_computed_anew(seed):
    """|V r|^2 / |r|^2 of every row that fits, r by a pseudo-inverse of the rows chosen so far."""
    features_NP, validation_MP, made = varied(seed)
    units_NP, units_MP = unit(features_NP), unit(validation_MP)
    chosen: list[int] = []
    for pick in gip(features_NP, validation_MP, made).picks:
        span_RP = units_NP[chosen] if chosen else np.zeros((1, units_NP.shape[1]))
        away_PP = np.eye(units_NP.shape[1]) - np.linalg.pinv(span_RP, rcond=1e-5) @ span_RP
        gains, components = {}, {}
        for row in fitting(chosen, made):
            outside_P = away_PP @ units_NP[row]
            along_M, square = units_MP @ outside_P, outside_P @ outside_P
            gains[row] = along_M @ along_M / square if square > 1e-6 else 0.0
            components[row] = np.abs(along_M)
        assert pick.row == min(r for r in gains if gains[r] >= max(gains.values()) - 1e-9)
        assert pick.score == pytest.approx(gains[pick.row], abs=1e-9)
        if pick.component == -1:
            assert gains[pick.row] == pytest.approx(0, abs=1e-9)
            assert pick.cos_component is None
        else:
            most_M = components[pick.row]
            assert most_M[pick.component] == pytest.approx(most_M.max(), abs=1e-9)
            expected = cosine(features_NP[pick.row], validation_MP[pick.component])
            assert pick.cos_component == pytest.approx(expected, abs=1e-6)
        chosen.append(pick.row)
    assert not fitting(chosen, made)


def test_the_gains_add_up_to_what_the_span_holds():
    """Each gain is what the span of the chosen rows holds more, from the definition."""
    rng = np.random.default_rng(0)
    features_NP, validation_MP = rng.normal(size=(30, 40)), rng.normal(size=(6, 40))
    made = limits(BudgetConfig(20, "rows", 1.0), np.ones(30, int), np.zeros(30, int))
    selection = gip(features_NP, validation_MP, made)
    whole = 0.0
    for place, pick in enumerate(selection.picks, start=1):
        whole += pick.score
        span_RP = features_NP[selection.rows[:place]]
        assert whole == pytest.approx(held(span_RP, unit(validation_MP)))


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_rows_are_looked_at_in_any_number(batch, monkeypatch):
    """Products computed for one row at a time and for all are the same ones."""
    monkeypatch.setattr(module, "BATCH", batch)
    rng = np.random.default_rng(1)
    features_NP, validation_MP = rng.normal(size=(60, 50)), rng.normal(size=(6, 50))
    made = limits(BudgetConfig(45, "rows", 1.0), np.ones(60, int), np.zeros(60, int))
    rows = gip(features_NP, validation_MP, made).rows
    monkeypatch.setattr(module, "BATCH", 7)
    assert rows == gip(features_NP, validation_MP, made).rows


def test_rows_that_are_nearly_inside_the_span_add_nothing():
    """A copy that bfloat16 could not tell from a chosen row, although the rest of it is just what
    the validation row lacks."""
    features_NP = np.eye(3)[[0, 0, 1, 2]] + 1e-4 * np.eye(3)[[0, 1, 1, 2]]
    made = limits(BudgetConfig(4, "rows", 1.0), np.ones(4, int), np.zeros(4, int))
    picks = gip(features_NP, np.array([[3.0, 2.0, 1.0]]), made).picks
    assert [pick.row for pick in picks] == [1, 2, 3, 0]
    assert picks[-1].score == 0
    assert picks[-1].component == -1
