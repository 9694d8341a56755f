"""TSDS's two rankings against plain loops."""

import numpy as np
import pytest

from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.rivals import tsds
from tests.support.rival_instances import accept, cosine, cosines, varied

pytestmark = pytest.mark.usefixtures("_small_blocks")
SMALL = {"ALPHA": 0.5, "NEAREST": 3}  # so that a few rows are a depth and a density


def plain(found, weights, alpha, c) -> tuple[int, list[float], list[int]]:
    """The depth, the mass of each row, and how many validation rows have it among their nearest."""
    rows = range(len(weights))
    orders = [sorted(rows, key=lambda row, own=own: (-own[row], row)) for own in found]
    depth = 1
    while depth < len(rows):
        cost = 0.0
        for own, order in zip(found, orders, strict=True):
            following = 1 - own[order[depth]]
            cost += sum(weights[k] * (following - (1 - own[k])) for k in order[:depth])
        if alpha / c * cost >= (1 - alpha) * len(found):
            break
        depth += 1
    masses, votes = [0.0 for _ in rows], [0 for _ in rows]
    for order in orders:
        whole = sum(weights[k] for k in order[:depth])
        for k in order[:depth]:
            masses[k] += weights[k] / whole / len(found)
            votes[k] += 1
    return depth, masses, votes


def density(features_NP, nearest: int) -> list[float]:
    """From the definition, by differences of unit rows."""
    rows_NP = features_NP.astype(np.float64)
    units = [row_P / (np.linalg.norm(row_P) or 1) for row_P in rows_NP]
    found = []
    for x in units:
        kernels = [max(0.0, 1 - float(((x - y) ** 2).sum()) / 0.75**2) for y in units]
        found.append(sum(sorted(kernels)[-nearest:]))
    return found


def check(selection, found, scores, depth, made) -> None:
    """Largest score first; of equal ones the largest cosine to any validation row first."""
    most = [max(own[row] for own in found) for row in range(len(scores))]
    rounded = [round(score, 9) for score in scores]
    ranking = sorted(range(len(scores)), key=lambda r: (-rounded[r], -most[r], r))
    assert selection.rows == accept(ranking, made)
    assert selection.summary["depth"] == depth
    for pick in selection.picks:
        assert pick.score == pytest.approx(scores[pick.row], rel=1e-5)
        assert pick.cos_component == pytest.approx(most[pick.row], abs=1e-6)
        assert found[pick.component][pick.row] == pytest.approx(most[pick.row], abs=1e-6)


@pytest.mark.parametrize("seed", range(200))
def test_tsds_equals_plain_loops(seed, monkeypatch):
    """The common depth, votes and masses, and the ranking by them; at depths of all kinds."""
    features_NP, validation_MP, made = varied(seed)
    c = (0.05, 0.5, 3.0)[seed % 3]
    for name, value in {**SMALL, "C": c}.items():
        monkeypatch.setattr(tsds, name, value)
    found = cosines(features_NP, validation_MP)
    depth, _, votes = plain(found, [1.0] * len(features_NP), 0.5, c)
    check(tsds.tsds_knn(features_NP, validation_MP, made), found, votes, depth, made)
    weights = [1 / own for own in density(features_NP, 3)]
    depth, masses, _ = plain(found, weights, 0.5, c)
    check(tsds.tsds_kde(features_NP, validation_MP, made), found, masses, depth, made)


def test_the_random_problems_hold_what_they_must(monkeypatch):
    """Depths of one row, of some and of all; rows with and without near-duplicates; both orders."""
    depths, dense, other = set(), 0, 0
    monkeypatch.setattr(tsds, "ALPHA", 0.5)
    for seed in range(200):
        features_NP, validation_MP, made = varied(seed)
        monkeypatch.setattr(tsds, "C", (0.05, 0.5, 3.0)[seed % 3])
        knn, kde = (f(features_NP, validation_MP, made) for f in (tsds.tsds_knn, tsds.tsds_kde))
        depth = knn.summary["depth"]
        depths.add("one" if depth == 1 else "all" if depth == len(features_NP) else "some")
        dense += bool((tsds.densities(features_NP) > 1.5).any())
        other += knn.rows != kde.rows
    assert depths == {"one", "some", "all"}
    assert dense > 50
    assert other > 50


def test_the_published_settings_on_a_larger_pool():
    """Some hundred rows of two clusters: the depth is what the sum says; densities are of the
    1,000 nearest alone, of which a pool of 1,100 equal rows has more."""
    rng = np.random.default_rng(0)
    centres_NP = np.repeat(np.eye(12)[:2], 450, axis=0)
    features_NP = (centres_NP + 0.02 * rng.normal(size=(900, 12))).astype(np.float32)
    validation_MP = np.eye(12, dtype=np.float32)[:2]
    made = limits(BudgetConfig(40, "rows", 1.0), np.ones(900, int), np.zeros(900, int))
    found = [[cosine(row_P, v_P) for row_P in features_NP] for v_P in validation_MP]
    for select, weights in (
        (tsds.tsds_knn, [1.0] * 900),
        (tsds.tsds_kde, [1 / own for own in density(features_NP, 1000)]),
    ):
        depth, masses, votes = plain(found, weights, 0.01, 5.0)
        scores = votes if select is tsds.tsds_knn else masses
        check(select(features_NP, validation_MP, made), found, scores, depth, made)
    knn = tsds.tsds_knn(features_NP, validation_MP, made)
    assert 450 < knn.summary["depth"] < 900
    equal_NP = np.repeat(features_NP[:1], 1100, axis=0)
    assert tsds.densities(equal_NP).tolist() == [1000.0] * 1100


def test_near_duplicates_share_one_mass():
    """Ten copies weigh together what one other row does."""
    features_NP = np.concatenate([np.repeat([[1.0, 0.1]], 10, axis=0), [[0.1, 1.0]]])
    made = limits(BudgetConfig(11, "rows", 1.0), np.ones(11, int), np.zeros(11, int))
    picks = tsds.tsds_kde(features_NP, np.ones((1, 2)), made).picks
    assert [pick.row for pick in picks] == [10, *range(10)]
    assert [pick.score for pick in picks] == pytest.approx([0.5] + 10 * [0.05])
