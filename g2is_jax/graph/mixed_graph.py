"""The mixed gradient graph to look at and export: pool rows and core directions, edges by cosine.

Nodes 0..N-1 are the pool's rows, nodes N..N+C-1 the core directions. An edge has the cosine as its
weight: positive is reinforce, negative conflict. Edges leave

    a row             to the E rows most similar to it, itself excluded
    a core direction  to the E rows most similar to it, and to the E rows that conflict with it
                      most: of the other rows those with a negative cosine, the smallest

so a pool has conflicts among the stored edges of its rows only where a row has fewer than E rows
that agree with it. The walk needs none of this; it is made to be drawn, counted and exported.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np
from etils import epath

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import atomic_stream, write_atomic
from g2is_jax.selection.neighbours import neighbours
from g2is_jax.selection.rivals.similarity import similarities

ROW, CORE = "row", "core"
MOST_GRAPHML_EDGES = 2_000_000  # about 250 bytes each
MOST_ADJACENCY_BYTES = 2 * 2**30
ADJACENCY = ("adjacency_indices.npy", "adjacency_similarities.npy")  # files of one form
BYTES_A_PAIR = 8  # an int32 index and a float32 cosine
# XML 1.0 has no way to write these, not even escaped; a viewer would refuse the whole file.
NOT_IN_XML = dict.fromkeys(
    [*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF, *range(0xD800, 0xE000)], "�"
)
RETURN = {"\r": "&#13;"}  # a reader would take it for a line feed


class TooLarge(InputError):
    """A form of the graph that would be larger than its readers can take."""


@dataclass(frozen=True)
class Nodes:
    """The nodes: the id and source of each row, the weight of each core direction."""

    ids_N: Sequence[str]
    sources_N: Sequence[str]
    weights_C: np.ndarray

    def __len__(self) -> int:
        return len(self.ids_N) + len(self.weights_C)

    def identifier(self, node: int) -> str:
        rows = len(self.ids_N)
        return self.ids_N[node] if node < rows else f"core {node - rows}"


@dataclass(frozen=True, eq=False)
class MixedGraph:
    """The edges of node n: places indptr[n] to indptr[n + 1] of the other two, most similar first.

    indptr      int64 [nodes + 1]
    to_nodes    int32, the node an edge leads to
    cosines     float32
    neighbours  E
    """

    nodes: Nodes
    indptr: np.ndarray
    to_nodes: np.ndarray
    cosines: np.ndarray
    neighbours: int

    @property
    def rows(self) -> int:
        """The number N of nodes that are rows."""
        return len(self.nodes.ids_N)

    def from_nodes(self) -> np.ndarray:
        """The node that each edge leaves, int32."""
        nodes = np.arange(len(self.nodes), dtype=np.int32)
        return np.repeat(nodes, np.diff(self.indptr))


def mixed_graph(features_NP, core_CP, E: int, nodes: Nodes) -> MixedGraph:
    """The graph of a pool and the core directions of one target.

    Cosines of rows are those of `neighbours`; to a direction they are rounded once from float64.
    """
    rows = len(features_NP)
    if (rows, len(core_CP)) != (len(nodes.ids_N), len(nodes.weights_C)):
        raise ValueError(f"{rows} rows and {len(core_CP)} directions, but nodes {nodes}")
    near_NE, near_cosines_NE = neighbours(features_NP, E)
    cosines_CN = similarities(features_NP, np.asarray(core_CP, np.float64))
    chosen = [_core_edges(cosines_N, E) for cosines_N in cosines_CN]
    degrees = [*([E] * rows), *(len(edges) for edges in chosen)]
    kept = [c[edges] for c, edges in zip(cosines_CN, chosen, strict=True)]
    return MixedGraph(
        nodes,
        np.concatenate([[0], np.cumsum(degrees)]),
        np.concatenate([near_NE.ravel(), *chosen]).astype(np.int32),
        np.concatenate([near_cosines_NE.ravel(), *kept]).astype(np.float32),
        E,
    )


def _core_edges(cosines_N, E: int) -> np.ndarray:
    """The E rows of the largest cosine, then up to E of the smallest below zero, in the order of
    decreasing cosine; equal ones by lower index."""
    order_N = np.argsort(-cosines_N, kind="stable")
    from_below_N = np.argsort(cosines_N, kind="stable")
    conflicts = from_below_N[:E][cosines_N[from_below_N[:E]] < 0]
    conflicts = conflicts[~np.isin(conflicts, order_N[:E])]
    return np.concatenate([order_N[:E], conflicts[np.lexsort((conflicts, -cosines_N[conflicts]))]])


def write_npz(graph: MixedGraph, file: epath.Path) -> None:
    """Writes compressed sparse rows for `scipy.sparse.load_npz`, with the nodes' attributes.

    node_kind: 0 for a row, 1 for a core direction. node_source: index into `sources`, -1 for a
    direction. node_weight: not a number for a row.
    """
    nodes = graph.nodes
    sources, codes_N = np.unique(np.asarray(nodes.sources_N, np.str_), return_inverse=True)
    directions = len(nodes.weights_C)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        format=np.array(b"csr"),
        shape=np.array([len(nodes), len(nodes)]),
        data=graph.cosines,
        indices=graph.to_nodes,
        indptr=graph.indptr,
        node_id=np.array([nodes.identifier(n) for n in range(len(nodes))], np.str_),
        node_kind=np.repeat(np.array([0, 1], np.int8), [graph.rows, directions]),
        node_source=np.concatenate([codes_N, np.full(directions, -1)]).astype(np.int32),
        node_weight=np.concatenate([np.full(graph.rows, np.nan), nodes.weights_C]),
        sources=sources,
        neighbours=np.array(graph.neighbours),
    )
    write_atomic(file, buffer.getvalue())


def write_graphml(graph: MixedGraph, file: epath.Path) -> None:
    """Writes GraphML, for networkx, Gephi and yEd; TooLarge above 2 million edges."""
    edges = len(graph.to_nodes)
    if edges > MOST_GRAPHML_EDGES:
        raise TooLarge(
            f"{file.name}: {edges:,} edges are more than the {MOST_GRAPHML_EDGES:,} that viewers "
            "take; read graph.npz, or lower graph.neighbours"
        )
    write_atomic(file, "".join(_graphml(graph)))


def _graphml(graph: MixedGraph) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
    for key, kind, of in (
        *(("name", "string", "node"), ("source", "string", "node"), ("kind", "string", "node")),
        *(("explained", "double", "node"), ("weight", "double", "edge"), ("sign", "int", "edge")),
    ):
        yield f'<key id="{key}" for="{of}" attr.name="{key}" attr.type="{kind}"/>\n'
    yield '<graph id="mixed" edgedefault="directed">\n'
    nodes = graph.nodes
    for node in range(len(nodes)):
        values = {"name": nodes.identifier(node), "kind": ROW if node < graph.rows else CORE}
        if node < graph.rows:
            values["source"] = nodes.sources_N[node]
        else:
            values["explained"] = repr(float(nodes.weights_C[node - graph.rows]))
        yield f'<node id="n{node}">{_data(values)}</node>\n'
    edges = zip(graph.from_nodes().tolist(), graph.to_nodes.tolist(), strict=True)
    for (start, end), cosine in zip(edges, graph.cosines.tolist(), strict=True):
        values = {"weight": repr(cosine), "sign": str((cosine > 0) - (cosine < 0))}
        yield f'<edge source="n{start}" target="n{end}">{_data(values)}</edge>\n'
    yield "</graph>\n</graphml>\n"


def _data(values: dict[str, str]) -> str:
    return "".join(
        f'<data key="{key}">{escape(text.translate(NOT_IN_XML), RETURN)}</data>'
        for key, text in values.items()
    )


def write_adjacency(features_NP, folder: epath.Path) -> None:
    """Writes `adjacency_indices.npy` (int32) and `adjacency_similarities.npy` (float32), of shape
    [N, N - 1]: all other rows of each row, the most similar first, equal ones by lower index.

    TooLarge where the two would be larger than 2 GiB.
    """
    rows = len(features_NP)
    size = rows * (rows - 1) * BYTES_A_PAIR
    if size > MOST_ADJACENCY_BYTES:
        raise TooLarge(
            f"the sorted adjacency of {rows:,} rows would be {size / 2**30:,.1f} GiB, more than "
            f"{MOST_ADJACENCY_BYTES / 2**30:g}; read the stored neighbours of graph.npz"
        )
    for name, array_NE in zip(ADJACENCY, neighbours(features_NP, rows - 1), strict=True):
        _write_npy(folder / name, array_NE)


def _write_npy(file: epath.Path, array: np.ndarray) -> None:
    """Writes the file whole or not at all, without a copy of the array on a local disk."""
    with atomic_stream(file) as stream:
        np.lib.format.write_array(stream, array, allow_pickle=False)
