"""Neighbours against a plain sort of all similarities."""

import numpy as np
import pytest

from g2is_jax.runs.errors import InputError
from g2is_jax.selection import neighbours as room
from g2is_jax.selection.neighbours import GraphConfig, neighbours


@pytest.mark.parametrize(("N", "P", "E"), [(23, 5, 4), (23, 5, 22), (101, 17, 9), (2, 3, 1)])
def test_equals_a_plain_sort(N, P, E, monkeypatch):
    """Blocks need not divide N."""
    monkeypatch.setattr(room, "BLOCK", 10)
    features_NP = np.random.default_rng(N).normal(size=(N, P)).astype(np.float32)
    indices_NE, similarities_NE = neighbours(features_NP, E)
    unit_NP = features_NP / np.linalg.norm(features_NP, axis=1, keepdims=True)
    cosines_NN = unit_NP @ unit_NP.T
    np.fill_diagonal(cosines_NN, -np.inf)
    expected_NE = np.argsort(-cosines_NN, axis=1, kind="stable")[:, :E]
    np.testing.assert_array_equal(indices_NE, expected_NE)
    np.testing.assert_allclose(
        similarities_NE, np.take_along_axis(cosines_NN, expected_NE, axis=1), atol=1e-6
    )
    assert indices_NE.dtype == np.int32
    assert similarities_NE.dtype == np.float32


def test_equal_similarities_go_to_the_lower_index():
    """Exact copies, and rows that are all orthogonal."""
    features_NP = np.eye(4, dtype=np.float32)[[0, 1, 0, 1, 0]]
    indices_NE, similarities_NE = neighbours(features_NP, 3)
    assert indices_NE.tolist() == [[2, 4, 1], [3, 0, 2], [0, 4, 1], [1, 0, 2], [0, 2, 1]]
    assert similarities_NE[0].tolist() == [1, 1, 0]


@pytest.mark.parametrize("E", [0, 5, 6])
def test_more_neighbours_than_rows_are_refused(E):
    """The error says how many there are."""
    with pytest.raises(InputError, match="at most 4"):
        neighbours(np.eye(5, dtype=np.float32), E)


def test_a_wrong_setting_names_its_field():
    """Checked when the config is made."""
    with pytest.raises(InputError, match=r"graph.kind: 'full'"):
        GraphConfig("full", 3)
    with pytest.raises(InputError, match=r"graph.neighbours: 0"):
        GraphConfig("knn", 0)
