"""The mixed graph in numbers: degrees, conflicts, pieces, similarities, sources."""

from collections.abc import Sequence

import numpy as np

from g2is_jax.features.rows import unit_length
from g2is_jax.graph.mixed_graph import MixedGraph

SAMPLE_ROWS = 2_000  # whose pairs are looked at one by one
SAMPLE_SEED = 0
BLOCK = 1024  # rows that are read at a time
MOST_HUBS = 10
BINS = 40  # of cosines from -1 to 1


def statistics(graph: MixedGraph, features_NP) -> dict:
    """The statistics as plain JSON; each function below makes one part of them."""
    from_nodes, of_rows = graph.from_nodes(), graph.indptr[graph.rows]
    edges = np.stack([from_nodes, graph.to_nodes])
    row_edges = edges[:, :of_rows]
    sources, codes_N = np.unique(np.asarray(graph.nodes.sources_N, np.str_), return_inverse=True)
    return {
        "rows": graph.rows,
        "core_directions": len(graph.nodes.weights_C),
        "neighbours": graph.neighbours,
        "edges": len(from_nodes),
        "degree": degrees(graph, row_edges[1]),
        "pairs": pairs(features_NP, codes_N),
        "stored": stored(graph.cosines[:of_rows]),
        "core": core_edges(graph),
        "pieces": pieces(graph, edges, row_edges),
        "sources": by_source(row_edges, sources.tolist(), codes_N),
    }


def degrees(graph: MixedGraph, to_rows) -> dict:
    """The in-degrees among the rows: how often a row is one of the E nearest of another.

    Their mean is E. skewness: third standardised moment, 0 for a symmetric distribution, large
    where a few hubs are near to everything. unreached: rows that are nobody's neighbour.
    """
    degrees_N = np.bincount(to_rows, minlength=graph.rows)
    spread = degrees_N.std()
    skewness = float((((degrees_N - degrees_N.mean()) / spread) ** 3).mean()) if spread else 0.0
    hubs = np.argsort(-degrees_N, kind="stable")[:MOST_HUBS]
    nodes = graph.nodes
    return {
        "quantiles": quantiles(degrees_N),
        "skewness": skewness,
        "unreached": int((degrees_N == 0).sum()),
        "hubs": [
            {
                "row": int(row),
                "id": nodes.identifier(int(row)),
                "source": nodes.sources_N[row],
                "in_degree": int(degrees_N[row]),
            }
            for row in hubs
        ],
    }


def quantiles(values) -> dict[str, float]:
    """The minimum, the quartiles, the 95th percentile and the maximum."""
    names = ("least", "q25", "median", "q75", "q95", "most")
    found = np.quantile(values, (0, 0.25, 0.5, 0.75, 0.95, 1))
    return dict(zip(names, found.tolist(), strict=True))


def pairs(features_NP, codes_N) -> dict:
    """The cosines of all pairs of rows, or of the pairs of 2,000 rows drawn with a fixed seed.

    conflicts: the share with a negative cosine; also of pairs inside one source and across two.
    None where there is no such pair.
    """
    rows = len(features_NP)
    sample_S = np.arange(rows)
    if rows > SAMPLE_ROWS:
        drawn = np.random.default_rng(SAMPLE_SEED).choice(rows, SAMPLE_ROWS, replace=False)
        sample_S = np.sort(drawn)
    units_SP = _unit_rows(features_NP, sample_S)
    counts = np.zeros((2, 2), np.int64)  # [across or inside a source, agree or conflict]
    histogram = np.zeros(BINS, np.int64)
    total = 0.0
    for start in range(0, len(sample_S), BLOCK):
        some_B = np.arange(start, min(start + BLOCK, len(sample_S)))
        cosines_BS = units_SP[some_B] @ units_SP.T
        later_BS = some_B[:, None] < np.arange(len(sample_S))[None, :]
        same_BS = codes_N[sample_S[some_B]][:, None] == codes_N[sample_S][None, :]
        cosines, same = cosines_BS[later_BS], same_BS[later_BS].astype(int)
        counts += np.bincount(2 * same + (cosines < 0), minlength=4).reshape(2, 2)
        histogram += _histogram(cosines)
        total += float(cosines.sum(dtype=np.float64))
    number = int(counts.sum())
    return {
        "rows": len(sample_S),
        "pairs": number,
        "sampled": rows > SAMPLE_ROWS,
        "mean_cosine": _share(total, number),
        "conflicts": _share(counts[:, 1].sum(), number),
        "conflicts_inside_a_source": _share(counts[1, 1], counts[1].sum()),
        "conflicts_across_sources": _share(counts[0, 1], counts[0].sum()),
        "histogram": histogram.tolist(),
    }


def _unit_rows(features_NP, wanted_S) -> np.ndarray:
    """The wanted rows at unit length, float32; `wanted_S` ascends, and a zero row stays zero."""
    units_SP = np.empty((len(wanted_S), features_NP.shape[1]), np.float32)
    for start in range(0, len(features_NP), BLOCK):
        low, high = np.searchsorted(wanted_S, (start, start + BLOCK))
        if low < high:
            block_BP = np.asarray(features_NP[start : start + BLOCK], np.float32)
            units_SP[low:high] = block_BP[wanted_S[low:high] - start]
    return unit_length(units_SP)


def _histogram(cosines) -> np.ndarray:
    """The counts in 40 bins from -1 to 1; what rounding puts just outside is clipped."""
    return np.histogram(np.clip(cosines, -1, 1), BINS, (-1, 1))[0]


def _share(part, whole) -> float | None:
    return float(part / whole) if whole else None


def stored(cosines) -> dict:
    """The cosines of the stored edges between rows."""
    return {
        "edges": len(cosines),
        "quantiles": quantiles(cosines),
        "conflicts": float((cosines < 0).mean()),
        "histogram": _histogram(cosines).tolist(),
    }


def core_edges(graph: MixedGraph) -> list[dict]:
    """The weight, the stored edges, and the largest and smallest cosine of each core direction."""
    found = []
    for component, weight in enumerate(graph.nodes.weights_C):
        begin, end = graph.indptr[graph.rows + component :][:2]
        cosines = graph.cosines[begin:end]
        found.append(
            {
                "weight": float(weight),
                "reinforce": int((cosines > 0).sum()),
                "conflict": int((cosines < 0).sum()),
                "largest": float(cosines.max()),
                "smallest": float(cosines.min()),
            }
        )
    return found


def pieces(graph: MixedGraph, edges, row_edges) -> dict:
    """The connected components over the stored edges with a positive cosine, taken both ways.

    They are counted among the rows alone, and with the core directions, which join what they reach.
    """
    positive = graph.cosines > 0
    parts = {
        "rows_alone": (row_edges[:, positive[: row_edges.shape[1]]], graph.rows),
        "with_core": (edges[:, positive], len(graph.nodes)),
    }
    found = {}
    for name, (some_edges, nodes) in parts.items():
        sizes = np.bincount(connected(some_edges, nodes))
        sizes = sizes[sizes > 0]
        found[name] = {
            "components": len(sizes),
            "largest_share": float(sizes.max() / nodes),
            "isolated": int((sizes == 1).sum()),
        }
    return found


def connected(edges, nodes: int) -> np.ndarray:
    """The lowest node of the component of each node, for undirected edges [2, edges]."""
    lowest = np.arange(nodes)
    while True:
        ends = lowest[edges]
        differ = ends[0] != ends[1]
        if not differ.any():
            return lowest
        # Roots are joined, to the lower one; then every node is led to its root.
        np.minimum.at(lowest, ends[:, differ].max(axis=0), ends[:, differ].min(axis=0))
        while (lowest[lowest] != lowest).any():
            lowest = lowest[lowest]


def by_source(row_edges, sources: Sequence[str], codes_N) -> dict:
    """The share of rows' edges that stay inside a source, beside what chance would give.

    by_chance: the neighbour is any other row. edges: [from, to] counts, in the order of `names`.
    """
    count, rows = len(sources), len(codes_N)
    of_edges = codes_N[row_edges]
    counts = np.bincount(of_edges[0] * count + of_edges[1], minlength=count**2)
    counts_SS = counts.reshape(count, count)
    sizes_S = np.bincount(codes_N, minlength=count)
    others = max(rows - 1, 1)
    inside_S = np.diag(counts_SS) / np.maximum(counts_SS.sum(axis=1), 1)
    return {
        "names": list(sources),
        "rows": sizes_S.tolist(),
        "inside": inside_S.tolist(),
        "inside_by_chance": ((sizes_S - 1) / others).tolist(),
        "all_inside": float(np.trace(counts_SS) / counts_SS.sum()),
        "all_inside_by_chance": float((sizes_S * (sizes_S - 1)).sum() / (rows * others)),
        "edges": counts_SS.tolist(),
    }
