"""Statistics of the graph against plain counting over its edges and pairs."""

import json

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.csgraph import connected_components

from g2is_jax.graph import statistics as module
from g2is_jax.graph.mixed_graph import Nodes, mixed_graph
from g2is_jax.graph.statistics import connected, pairs, statistics
from g2is_jax.report.graph_page import markdown

N, C, E = 41, 2, 3


@pytest.fixture
def case():
    """Rows in five directions with noise, three sources, two core directions."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 8))
    features_NP = (centres[rng.integers(5, size=N)] + 0.4 * rng.normal(size=(N, 8))).astype("f4")
    sources = rng.choice(["sums", "rhymes", "maps"], N).tolist()
    nodes = Nodes([f"row {i}" for i in range(N)], sources, np.array([0.75, 0.25]))
    return mixed_graph(features_NP, np.eye(8, dtype=np.float32)[:C], E, nodes), features_NP


def unit(features_NP):
    return features_NP / np.linalg.norm(features_NP, axis=1, keepdims=True)


def test_degrees(case):
    graph, features_NP = case
    found = statistics(graph, features_NP)
    counts = [graph.to_nodes[: N * E].tolist().count(row) for row in range(N)]
    assert found["degree"]["unreached"] == counts.count(0) > 0
    assert found["degree"]["quantiles"]["most"] == max(counts)
    assert found["degree"]["quantiles"]["median"] == np.median(counts)
    moments = [np.mean((np.array(counts) - E) ** power) for power in (2, 3)]
    assert found["degree"]["skewness"] == pytest.approx(moments[1] / moments[0] ** 1.5)
    best = sorted(range(N), key=lambda row: (-counts[row], row))[:10]
    assert [hub["row"] for hub in found["degree"]["hubs"]] == best
    assert found["degree"]["hubs"][0] == {
        "row": best[0],
        "id": f"row {best[0]}",
        "source": graph.nodes.sources_N[best[0]],
        "in_degree": max(counts),
    }
    assert (found["rows"], found["core_directions"], found["neighbours"]) == (N, C, E)
    assert found["edges"] == len(graph.to_nodes)


def test_degrees_of_a_regular_graph():
    """Everybody is as near: no hub, and no division by a spread of zero."""
    nodes = Nodes(["a", "b"], ["x", "x"], np.array([1.0]))
    graph = mixed_graph(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[:1], 1, nodes)
    found = statistics(graph, np.eye(2, dtype=np.float32))
    assert found["degree"]["skewness"] == 0
    assert found["pairs"]["conflicts_across_sources"] is None
    assert "across sources none" in markdown(found, "two rows")


@pytest.mark.parametrize("block", [7, 1024])
def test_conflicts_of_all_pairs(case, monkeypatch, block):
    graph, features_NP = case
    monkeypatch.setattr(module, "BLOCK", block)
    found = statistics(graph, features_NP)["pairs"]
    sources = graph.nodes.sources_N
    cosines_NN = unit(features_NP) @ unit(features_NP).T
    inside, across = [], []
    for i in range(N):
        for j in range(i + 1, N):
            (inside if sources[i] == sources[j] else across).append(cosines_NN[i, j])
    every = np.array(inside + across)
    assert (found["pairs"], found["sampled"], found["rows"]) == (N * (N - 1) // 2, False, N)
    assert found["conflicts"] == pytest.approx(np.mean(every < 0))
    assert found["conflicts_inside_a_source"] == pytest.approx(np.mean(np.array(inside) < 0))
    assert found["conflicts_across_sources"] == pytest.approx(np.mean(np.array(across) < 0))
    assert found["mean_cosine"] == pytest.approx(every.mean(), abs=1e-6)
    np.testing.assert_array_equal(found["histogram"], np.histogram(every, 40, (-1, 1))[0])


def test_a_sample_is_seeded_and_of_the_pool(monkeypatch):
    """500 of 2,000 rows, a third of whose pairs conflict; reads no row but by slices."""
    rng = np.random.default_rng(3)
    features_NP = rng.normal(size=(2000, 6)).astype(np.float32) + 0.25
    codes_N = rng.integers(3, size=2000)
    whole = pairs(features_NP, codes_N)
    assert not whole["sampled"]
    monkeypatch.setattr(module, "SAMPLE_ROWS", 500)
    found = pairs(Sliced(features_NP), codes_N)
    assert found == pairs(features_NP, codes_N)
    assert (found["rows"], found["pairs"], found["sampled"]) == (500, 500 * 499 // 2, True)
    for share in ("conflicts", "conflicts_inside_a_source", "conflicts_across_sources"):
        assert found[share] == pytest.approx(whole[share], abs=0.02)
    assert found["conflicts"] != whole["conflicts"]


def test_sampled_rows_are_found_in_their_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 7)
    features_NP = np.random.default_rng(4).normal(size=(40, 3)).astype(np.float32)
    features_NP[20] = 0
    wanted_S = np.array([0, 3, 6, 7, 20, 38, 39])
    found_SP = module._unit_rows(Sliced(features_NP), wanted_S)
    features_NP[20] = [1, 0, 0]
    expected_SP = unit(features_NP)[wanted_S]
    expected_SP[4] = 0
    np.testing.assert_allclose(found_SP, expected_SP, atol=1e-6)


class Sliced:
    """Rows that can be had by slices alone, as those of a store."""

    def __init__(self, features_NP):
        self._features_NP = features_NP
        self.shape = features_NP.shape

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._features_NP[rows]


@pytest.mark.parametrize("seed", range(30))
def test_connected_equals_scipy(seed):
    """From no edge to one piece; chains too, the worst for merging by lowest label."""
    rng = np.random.default_rng(seed)
    nodes = 60
    edges = rng.integers(nodes, size=(2, seed * 3))
    if seed % 3 == 0:
        path = rng.permutation(nodes)[: 2 * seed]
        edges = np.concatenate([edges[:, : seed // 2], [path[:-1], path[1:]]], axis=1)
    labels = connected(edges, nodes)
    matrix = scipy.sparse.coo_array((np.ones(edges.shape[1]), tuple(edges)), (nodes, nodes))
    count, expected = connected_components(matrix, directed=False)
    assert len(set(labels.tolist())) == count
    for piece in range(count):
        members = np.flatnonzero(expected == piece)
        assert set(labels[members].tolist()) == {members.min()}


def test_pieces_follow_positive_edges_alone():
    """Two pairs of rows, each pair opposite to the other; the third nearest is a conflict.

    A core direction in between agrees with one row of each pair and so joins the two.
    """
    angles = np.deg2rad([0, 5, 120, 125])
    features_NP = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    middle = np.deg2rad([62.5])
    core_CP = np.stack([np.cos(middle), np.sin(middle)], axis=1).astype(np.float32)
    nodes = Nodes(list("abcd"), ["x"] * 4, np.array([1.0]))
    found = statistics(mixed_graph(features_NP, core_CP, 2, nodes), features_NP)
    assert found["pieces"]["rows_alone"] == {"components": 2, "largest_share": 0.5, "isolated": 0}
    assert found["pieces"]["with_core"] == {"components": 1, "largest_share": 1.0, "isolated": 0}
    lonely = statistics(mixed_graph(features_NP, -core_CP, 2, nodes), features_NP)
    assert lonely["pieces"]["with_core"] == {"components": 3, "largest_share": 0.4, "isolated": 1}
    assert found["stored"]["conflicts"] == 0.5
    assert lonely["core"] == [
        {
            "weight": 1.0,
            "reinforce": 0,
            "conflict": 4,
            "largest": pytest.approx(-np.cos(np.deg2rad(62.5)), abs=1e-6),
            "smallest": pytest.approx(-np.cos(np.deg2rad(57.5)), abs=1e-6),
        }
    ]


def test_composition_by_source(case):
    graph, features_NP = case
    found = statistics(graph, features_NP)["sources"]
    sources = graph.nodes.sources_N
    counts = {(a, b): 0 for a in found["names"] for b in found["names"]}
    for edge in range(N * E):
        counts[sources[edge // E], sources[graph.to_nodes[edge]]] += 1
    for a, name in enumerate(found["names"]):
        rows = sources.count(name)
        assert found["rows"][a] == rows
        assert found["edges"][a] == [counts[name, other] for other in found["names"]]
        assert found["inside"][a] == pytest.approx(counts[name, name] / (rows * E))
        assert found["inside_by_chance"][a] == pytest.approx((rows - 1) / (N - 1))
    inside = sum(counts[name, name] for name in found["names"])
    assert found["all_inside"] == pytest.approx(inside / (N * E))
    same = sum(sources[i] == sources[j] for i in range(N) for j in range(N) if i != j)
    assert found["all_inside_by_chance"] == pytest.approx(same / (N * (N - 1)))


def test_page_and_json(case):
    graph, features_NP = case
    found = statistics(graph, features_NP)
    assert json.loads(json.dumps(found)) == found
    assert sum(found["stored"]["histogram"]) == N * E
    found["degree"]["hubs"][0]["id"] = "a|b\nc"
    page = markdown(found, "g2is | sums")
    assert page.startswith("# g2is \\| sums\n")
    assert "a\\|b c" in page
    assert f"{found['pairs']['conflicts']:.1%} of {found['pairs']['pairs']:,} pairs" in page
    assert "smaller sources" not in page


def test_small_sources_are_left_to_the_json(case):
    graph, features_NP = case
    sources = [f"source {i % 21}" for i in range(N)]
    nodes = Nodes(graph.nodes.ids_N, sources, graph.nodes.weights_C)
    page = markdown(
        statistics(mixed_graph(features_NP, np.eye(8)[:2], E, nodes), features_NP), "many"
    )
    assert "1 smaller sources are in the JSON alone." in page
    assert "| source 20 |" not in page.partition("## Hubs")[0]
