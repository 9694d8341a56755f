"""Core knowledge against scikit-learn, and the switches scikit-learn does not have."""

import tracemalloc
from dataclasses import replace

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from sklearn.decomposition import PCA

from g2is_jax.runs.errors import InputError
from g2is_jax.selection import core as room
from g2is_jax.selection.core import KnowledgeConfig, core_knowledge, principal_directions

PAPER = KnowledgeConfig(
    center=True,
    sign="svd",
    keep="variance",
    keep_value=0.5,
    unit_rows=False,
    anchors="components",
)
SHAPES = [(2, 9), (5, 31), (13, 13), (40, 7), (60, 97)]


def features(M: int, P: int, seed: int = 0) -> np.ndarray:
    """Rows with a mean and a decaying spectrum."""
    rng = np.random.default_rng(seed)
    scales_P = 0.8 ** np.arange(P)
    return (rng.normal(size=(M, P)) * scales_P + rng.normal(size=P)).astype(np.float32)


@pytest.mark.parametrize(("M", "P"), SHAPES)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_equals_scikit_learn(M, P, share):
    """Same components with the same signs, as many of them, and the same explained variance."""
    features_MP = features(M, P)
    core = core_knowledge(features_MP, replace(PAPER, keep_value=share))
    pca = PCA(share, svd_solver="full").fit(features_MP.astype(np.float64))
    assert core.core_CP.dtype == np.float32
    assert core.core_CP.shape == pca.components_.shape
    np.testing.assert_allclose(core.core_CP, pca.components_, atol=1e-5)
    kept_C = pca.explained_variance_ratio_
    np.testing.assert_allclose(core.explained_C[: len(kept_C)], kept_C, atol=1e-9)
    np.testing.assert_allclose(core.weights_C, kept_C / kept_C.sum(), atol=1e-9)
    assert len(core.explained_C) == min(M, P)
    assert core.explained_C.sum() == pytest.approx(1)


def test_uncentred_equals_the_svd():
    """Squared singular values take the place of the explained variance."""
    features_MP = features(9, 14)
    core = core_knowledge(features_MP, replace(PAPER, center=False, keep="count", keep_value=9))
    _, singular_C, right_CP = np.linalg.svd(features_MP.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(np.abs(core.core_CP), np.abs(right_CP), atol=1e-5)
    np.testing.assert_allclose(core.explained_C, singular_C**2 / (singular_C**2).sum(), atol=1e-9)


@pytest.mark.parametrize(("M", "P"), SHAPES)
def test_gram_and_covariance_agree(M, P):
    """Transposing changes which of the two is decomposed, not the spectrum or the directions."""
    rows_MP = features(M, P).astype(np.float64)
    values_C, directions_CP = principal_directions(rows_MP)
    other_C, other_CM = principal_directions(rows_MP.T)
    np.testing.assert_allclose(values_C, other_C, rtol=1e-9, atol=1e-12 * values_C[0])
    large = values_C > 1e-6 * values_C[0]
    rebuilt_CM = directions_CP[large] @ rows_MP.T / np.sqrt(values_C[large])[:, None]
    np.testing.assert_allclose(np.abs(rebuilt_CM), np.abs(other_CM[large]), atol=1e-6)


def test_sign_mean_points_along_the_mean():
    """Each component has a positive product with the mean of the uncentred features."""
    differing = 0
    for seed in range(10):
        features_MP = features(12, 8, seed)
        by_mean = core_knowledge(features_MP, replace(PAPER, sign="mean", keep_value=1.0))
        by_svd = core_knowledge(features_MP, replace(PAPER, keep_value=1.0))
        assert (by_mean.core_CP @ features_MP.mean(axis=0) > 0).all()
        np.testing.assert_allclose(np.abs(by_mean.core_CP), np.abs(by_svd.core_CP), atol=1e-7)
        differing += not np.allclose(by_mean.core_CP, by_svd.core_CP)
    assert differing >= 5


def test_sign_mean_without_a_mean_falls_back_to_svd():
    """Rows that cancel have no mean to point along."""
    features_MP = np.array([[3, -4], [-3, 4]])
    core = core_knowledge(features_MP, replace(PAPER, sign="mean"))
    np.testing.assert_allclose(core.core_CP, [[-0.6, 0.8]], atol=1e-6)


def test_unit_rows_ignores_lengths_and_keeps_zero_rows():
    """Scaling validation rows changes nothing any more."""
    features_MP = features(6, 10)
    scaled_MP = features_MP * np.array([[1], [9], [0.2], [5], [1], [3]], np.float32)
    config = replace(PAPER, unit_rows=True)
    core = core_knowledge(features_MP, config)
    np.testing.assert_allclose(core.core_CP, core_knowledge(scaled_MP, config).core_CP, atol=1e-5)
    plain = core_knowledge(scaled_MP, PAPER)
    assert plain.core_CP.shape != core.core_CP.shape or not np.allclose(
        plain.core_CP, core.core_CP, atol=1e-2
    )
    scaled_MP[2] = 0
    assert np.isfinite(core_knowledge(scaled_MP, config).core_CP).all()


@pytest.mark.parametrize(
    ("keep", "value", "kept"),
    [
        *[("count", 1, 1), ("count", 4, 4), ("ratio", 0.01, 1), ("ratio", 0.5, 2)],
        *[("ratio", 1.0, 4), ("variance", 1.0, 4), ("variance", 0.001, 1), ("ratio", 0.375, 2)],
    ],
)
def test_keep_rules_never_keep_a_component_without_variance(keep, value, kept):
    """Rank 4: five rows, centred; a repeated row adds nothing."""
    features_MP = features(5, 11)
    config = replace(PAPER, keep=keep, keep_value=value)
    for rows_MP in (features_MP, features_MP[[0, 1, 2, 3, 4, 4]]):
        core = core_knowledge(rows_MP, config)
        assert len(core.core_CP) == len(core.weights_C) == kept
        assert core.weights_C.sum() == pytest.approx(1)
        assert (np.diff(core.weights_C) <= 0).all()
        np.testing.assert_allclose(np.linalg.norm(core.core_CP, axis=1), 1, atol=1e-6)


def test_variance_must_exceed_the_value_not_reach_it():
    """Two components of exactly half each: a half needs both."""
    features_MP = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert len(core_knowledge(features_MP, PAPER).core_CP) == 2


def test_one_validation_row():
    """Uncentred it is its own direction; centred nothing is left, and the error says what to do."""
    row_1P = features(1, 7)
    with pytest.raises(InputError, match=r"set knowledge\.center to false"):
        core_knowledge(row_1P, PAPER)
    core = core_knowledge(row_1P, replace(PAPER, center=False, sign="mean"))
    np.testing.assert_allclose(core.core_CP, row_1P / np.linalg.norm(row_1P), atol=1e-6)
    np.testing.assert_allclose(core.weights_C, [1])


@pytest.mark.parametrize(
    ("features_MP", "changes", "message"),
    [
        (np.tile(features(1, 7), (3, 1)), {}, "set knowledge.center to false"),
        (np.zeros((3, 7)), {}, "all zero"),
        (np.zeros((3, 7)), {"center": False}, "all zero"),
        (np.array([[1.0, 2], [np.inf, 1]]), {}, "validation row 1"),
        (np.zeros((0, 7)), {}, "M >= 1"),
        (features(4, 7), {"keep": "count", "keep_value": 4}, "4 components asked.*have 3"),
    ],
)
def test_features_without_directions_are_refused(features_MP, changes, message):
    """Each with a way out in one line."""
    with pytest.raises(InputError, match=message):
        core_knowledge(features_MP, replace(PAPER, **changes))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("sign", {"sign": "plus"}),
        ("keep", {"keep": "all"}),
        ("keep_value", {"keep_value": 0.0}),
        ("keep_value", {"keep_value": 1.1}),
        ("keep_value", {"keep": "count", "keep_value": 0}),
        ("keep_value", {"keep": "count", "keep_value": 2.5}),
        ("keep_value", {"keep": "count", "keep_value": float("inf")}),
        ("keep_value", {"keep": "ratio", "keep_value": 3}),
    ],
)
def test_a_wrong_setting_names_its_field(field, changes):
    """Ranges and names are checked when the config is made."""
    with pytest.raises(InputError, match=f"knowledge.{field}: "):
        replace(PAPER, **changes)


class Sliced:
    """Rows that can be had by slices alone; keeps the most rows that were asked for at once."""

    def __init__(self, features_MP):
        self._features_MP = features_MP
        self.shape = features_MP.shape
        self.most = 0

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        found = self._features_MP[rows]
        self.most = max(self.most, len(found))
        return found


@pytest.mark.parametrize(("M", "P"), [(23, 31), (23, 7), (7, 31)])
@pytest.mark.parametrize(
    "changes", [{}, {"center": False, "sign": "mean"}, {"unit_rows": True}], ids=str
)
def test_blocks_change_nothing(monkeypatch, M, P, changes):
    """Blocks of 5 rows, which do not divide them, of a thing that only slices, give the same."""
    features_MP, config = features(M, P), replace(PAPER, keep_value=0.9, **changes)
    whole = core_knowledge(features_MP, config)
    monkeypatch.setattr(room, "BLOCK", 5)
    sliced = Sliced(features_MP)
    core = core_knowledge(sliced, config)
    assert sliced.most == 5
    np.testing.assert_allclose(core.core_CP, whole.core_CP, atol=1e-6)
    np.testing.assert_allclose(core.explained_C, whole.explained_C, atol=1e-12)
    np.testing.assert_allclose(core.weights_C, whole.weights_C, atol=1e-12)


def test_low_precision_rows_are_taken_as_they_are():
    """bfloat16 rows, of numpy or jax, give what their float64 values give."""
    rows_MP = features(9, 14).astype(ml_dtypes.bfloat16)
    core = core_knowledge(rows_MP.astype(np.float64), PAPER)
    for same_MP in (rows_MP, jnp.asarray(rows_MP)):
        np.testing.assert_array_equal(core_knowledge(same_MP, PAPER).core_CP, core.core_CP)


def test_a_row_that_is_not_finite_is_named_beyond_the_first_block(monkeypatch):
    monkeypatch.setattr(room, "BLOCK", 5)
    features_MP = features(23, 7)
    features_MP[17, 3] = np.nan
    for unit_rows in (False, True):
        with pytest.raises(InputError, match="validation row 17 "):
            core_knowledge(features_MP, replace(PAPER, unit_rows=unit_rows))


@pytest.mark.parametrize(("M", "P"), [(3000, 150), (300, 4000)])
def test_no_float64_copy_of_the_rows(monkeypatch, M, P):
    """Memory at its peak, against a float64 copy of [M, P]."""
    monkeypatch.setattr(room, "BLOCK", 32)
    features_MP = np.random.default_rng(0).normal(size=(M, P)).astype(np.float32)
    config = replace(PAPER, keep="count", keep_value=3, unit_rows=True)
    tracemalloc.start()
    try:
        core_knowledge(features_MP, config)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    square = 8 * min(M, P) ** 2
    assert peak - 4 * square < 0.5 * 8 * M * P


def test_summary():
    """Four equal components have an effective rank of 4; shares are of all of the variance."""
    core = core_knowledge(np.eye(4), replace(PAPER, center=False, keep="count", keep_value=1))
    assert core.summary() == {
        "components": 1,
        "directions": 1,
        "components_with_variance": 4,
        "explained": pytest.approx(0.25),
        "effective_rank": pytest.approx(4),
    }
    single = core_knowledge(np.ones((5, 3)), replace(PAPER, center=False))
    assert single.summary()["effective_rank"] == pytest.approx(1)
    assert single.summary()["components_with_variance"] == 1
    core = core_knowledge(features(12, 30), PAPER)
    found = core.summary()
    assert found["explained"] == pytest.approx(core.explained_C[: len(core.core_CP)].sum())
    assert found["explained"] > 0.5
    assert found["components_with_variance"] == 11
    shares_C = core.explained_C[:11]
    assert found["effective_rank"] == pytest.approx(np.prod(shares_C**-shares_C))


@pytest.mark.parametrize("center", [False, True])
def test_anchors_are_what_the_components_explain_of_each_row(center):
    """The projector on the kept directions says so, whatever the signs of these."""
    features_MP = features(9, 24)
    by_row = replace(PAPER, center=center, anchors="rows", unit_rows=True, keep_value=0.97)
    core = core_knowledge(features_MP, by_row)
    components_CP = core_knowledge(features_MP, replace(by_row, anchors="components")).core_CP
    units_MP = features_MP / np.linalg.norm(features_MP, axis=1, keepdims=True)
    units_MP = units_MP - center * units_MP.mean(axis=0)
    projections_MP = units_MP @ components_CP.T @ components_CP
    projections_MP /= np.linalg.norm(projections_MP, axis=1, keepdims=True)
    np.testing.assert_allclose(core.core_CP, projections_MP, atol=1e-5)
    np.testing.assert_allclose(core.weights_C, np.full(9, 1 / 9))
    assert 1 < core.components == len(components_CP) < 9
    assert core.summary()["components"] == len(components_CP)
    assert core.summary()["directions"] == 9
    flipped = core_knowledge(features_MP, replace(by_row, sign="mean"))
    np.testing.assert_array_equal(core.core_CP, flipped.core_CP)


def test_a_row_that_the_components_do_not_touch_has_no_weight():
    """The second row is across the one direction that is kept, the third is zero."""
    features_MP = np.array([[2.0, 0, 0], [0, 1, 0], [0, 0, 0], [3, 0, 0]])
    config = replace(PAPER, center=False, keep="count", keep_value=1, anchors="rows")
    core = core_knowledge(features_MP, config)
    np.testing.assert_allclose(core.weights_C, [0.5, 0, 0, 0.5])
    np.testing.assert_allclose(core.core_CP, [[1, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]])


def test_unknown_anchors_are_refused():
    with pytest.raises(InputError, match=r"knowledge.anchors: 'row' is none of components, rows"):
        replace(PAPER, anchors="row")
