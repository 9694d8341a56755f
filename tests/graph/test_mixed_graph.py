"""The mixed graph against a plain transcription, and each form it is written in, read back."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import scipy.sparse
from etils import epath

from g2is_jax.graph import mixed_graph as module
from g2is_jax.graph.mixed_graph import (
    Nodes,
    TooLarge,
    mixed_graph,
    write_adjacency,
    write_graphml,
    write_npz,
)

SPACE = "{http://graphml.graphdrawing.org/xmlns}"


def cosines_of(one_AP, other_BP):
    """Cosines in float64; those of a zero row are 0."""
    lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in (one_AP, other_BP)]
    units = [x / np.where(n > 0, n, 1) for x, n in zip((one_AP, other_BP), lengths, strict=True)]
    return units[0] @ units[1].T


def pool(N: int = 23, P: int = 4, C: int = 3, seed: int = 0):
    """Whole numbers: many equal cosines, duplicates, and a zero row."""
    rng = np.random.default_rng(seed)
    features_NP = rng.integers(-2, 3, (N, P)).astype(np.float32)
    features_NP[N // 2] = 0
    features_NP[-1] = features_NP[0]
    core_CP = np.eye(P, dtype=np.float32)[:C]
    nodes = Nodes(
        [f"row {i}" for i in range(N)],
        ["sums" if i % 3 else "rhymes" for i in range(N)],
        np.arange(C, 0, -1) / (C * (C + 1) / 2),
    )
    return features_NP, core_CP, nodes


@pytest.mark.parametrize("E", [1, 4, 22])
def test_edges_of_each_node(E):
    """Rows: the E nearest. Directions: the E nearest, and the E worst of those below zero."""
    features_NP, core_CP, nodes = pool()
    N, C = len(features_NP), len(core_CP)
    graph = mixed_graph(features_NP, core_CP, E, nodes)
    between_NN = cosines_of(features_NP, features_NP)
    to_rows_CN = cosines_of(core_CP, features_NP)
    assert len(graph.indptr) == N + C + 1
    for node in range(N + C):
        edges = slice(*graph.indptr[node : node + 2])
        found, weights = graph.to_nodes[edges].tolist(), graph.cosines[edges]
        own = between_NN[node] if node < N else to_rows_CN[node - N]
        others = [row for row in range(N) if row != node]
        np.testing.assert_allclose(weights, own[found], atol=1e-6)
        assert (np.diff(weights) <= 0).all()
        assert len(set(found)) == len(found)
        nearest = sorted(others, key=lambda row: -own[row])
        np.testing.assert_allclose(sorted(own[found[:E]]), sorted(own[nearest[:E]]), atol=1e-6)
        if node < N:
            assert len(found) == E
            assert node not in found
            continue
        below = [row for row in others if own[row] < -1e-9 and row not in found[:E]]
        expected = sorted(below, key=lambda row: (own[row], row))
        expected = expected[: max(E - sum(own[row] < -1e-9 for row in found[:E]), 0)]
        np.testing.assert_allclose(own[found[E:]], sorted(own[expected])[::-1], atol=1e-6)


def test_equal_cosines_go_by_lower_index():
    cosines_N = np.array([0.5, -0.5, 0.5, -0.5, 0.0, 0.5, -0.5], np.float32)
    assert module._core_edges(cosines_N, 2).tolist() == [0, 2, 1, 3]
    assert module._core_edges(cosines_N, 1).tolist() == [0, 1]
    assert module._core_edges(cosines_N, 5).tolist() == [0, 2, 5, 4, 1, 3, 6]
    assert module._core_edges(np.array([0.1, 0.0], np.float32), 1).tolist() == [0]


def test_nodes_must_fit():
    features_NP, core_CP, nodes = pool()
    with pytest.raises(ValueError, match="22 rows"):
        mixed_graph(features_NP[1:], core_CP, 2, nodes)


def test_npz_is_a_scipy_matrix(tmp_path):
    features_NP, core_CP, nodes = pool()
    graph = mixed_graph(features_NP, core_CP, 4, nodes)
    file = epath.Path(tmp_path / "graph.npz")
    write_npz(graph, file)
    matrix = scipy.sparse.load_npz(file)
    expected = np.zeros((26, 26), np.float32)
    expected[graph.from_nodes(), graph.to_nodes] = graph.cosines
    np.testing.assert_array_equal(matrix.toarray(), expected)
    with np.load(file, allow_pickle=False) as arrays:
        found = dict(arrays)
    assert found["node_id"].tolist() == [*nodes.ids_N, "core 0", "core 1", "core 2"]
    assert found["node_kind"].tolist() == [0] * 23 + [1] * 3
    assert found["sources"][found["node_source"][:23]].tolist() == list(nodes.sources_N)
    assert found["node_source"][23:].tolist() == [-1] * 3
    assert np.isnan(found["node_weight"][:23]).all()
    np.testing.assert_array_equal(found["node_weight"][23:], nodes.weights_C)
    assert found["neighbours"] == 4
    first = file.read_bytes()
    write_npz(graph, file)
    assert file.read_bytes() == first


ODD = [
    '<a href="x">&amp;</a>',
    "tab\tnew\nline\rreturn",
    "nul\0 and \x1b",
    "é \u2028 😀",
    "]]>",
    "",
]


def test_graphml_holds_the_graph(tmp_path):
    """Every node and edge, with texts that XML has to escape or cannot hold."""
    features_NP, core_CP, nodes = pool()
    nodes = Nodes([*ODD, *nodes.ids_N[len(ODD) :]], [*nodes.sources_N[1:], ODD[0]], nodes.weights_C)
    graph = mixed_graph(features_NP, core_CP, 4, nodes)
    file = epath.Path(tmp_path / "graph.graphml")
    write_graphml(graph, file)
    root = ElementTree.fromstring(file.read_bytes())
    keys = {key.get("id"): key.get("attr.type") for key in root.iter(f"{SPACE}key")}
    assert keys["weight"] == "double"
    (top,) = root.iter(f"{SPACE}graph")
    assert top.get("edgedefault") == "directed"
    written = [data(node, keys) for node in root.iter(f"{SPACE}node")]
    names = [name.replace("\0", "�").replace("\x1b", "�") for name in nodes.ids_N]
    assert [node["name"] for node in written] == [*names, "core 0", "core 1", "core 2"]
    assert [node["kind"] for node in written] == ["row"] * 23 + ["core"] * 3
    assert [node.get("source") for node in written] == [*nodes.sources_N, None, None, None]
    assert [float(node["explained"]) for node in written[23:]] == nodes.weights_C.tolist()
    edges = [
        (int(e.get("source")[1:]), int(e.get("target")[1:]), data(e, keys))
        for e in root.iter(f"{SPACE}edge")
    ]
    assert [edge[0] for edge in edges] == graph.from_nodes().tolist()
    assert [edge[1] for edge in edges] == graph.to_nodes.tolist()
    assert [float(edge[2]["weight"]) for edge in edges] == graph.cosines.tolist()
    signs = [int(edge[2]["sign"]) for edge in edges]
    assert signs == np.sign(graph.cosines).tolist()
    assert {-1, 0, 1} == set(signs)


def data(element, keys) -> dict:
    found = {part.get("key"): part.text or "" for part in element.iter(f"{SPACE}data")}
    assert found.keys() <= keys.keys()
    return found


def test_adjacency_is_sorted(tmp_path):
    """All other rows, by cosine; where cosines are apart, in exactly that order."""
    features_NP = np.random.default_rng(1).normal(size=(17, 5)).astype(np.float32)
    write_adjacency(features_NP, epath.Path(tmp_path))
    indices = np.load(tmp_path / "adjacency_indices.npy", allow_pickle=False)
    similarities = np.load(tmp_path / "adjacency_similarities.npy", allow_pickle=False)
    cosines_NN = cosines_of(features_NP, features_NP)
    np.fill_diagonal(cosines_NN, -np.inf)
    order = np.argsort(-cosines_NN, axis=1, kind="stable")[:, :-1]
    np.testing.assert_array_equal(indices, order)
    assert (indices.dtype, similarities.dtype) == (np.int32, np.float32)
    expected = np.take_along_axis(cosines_NN, order, axis=1)
    np.testing.assert_allclose(similarities, expected, atol=1e-6)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "adjacency_indices.npy",
        "adjacency_similarities.npy",
    ]


def test_what_is_too_large_says_how_large(tmp_path, monkeypatch):
    features_NP, core_CP, nodes = pool()
    folder = epath.Path(tmp_path)
    monkeypatch.setattr(module, "MOST_ADJACENCY_BYTES", 23 * 22 * 8)
    write_adjacency(features_NP, folder)
    monkeypatch.setattr(module, "MOST_ADJACENCY_BYTES", 23 * 22 * 8 - 1)
    with pytest.raises(TooLarge, match=r"adjacency of 23 rows would be .* GiB"):
        write_adjacency(features_NP, folder)
    graph = mixed_graph(features_NP, core_CP, 4, nodes)
    monkeypatch.setattr(module, "MOST_GRAPHML_EDGES", len(graph.to_nodes))
    write_graphml(graph, folder / "graph.graphml")
    monkeypatch.setattr(module, "MOST_GRAPHML_EDGES", len(graph.to_nodes) - 1)
    with pytest.raises(TooLarge, match=r"lower graph\.neighbours"):
        write_graphml(graph, folder / "graph.graphml")
