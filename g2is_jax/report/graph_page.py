"""The statistics of a graph as a page of Markdown."""

from g2is_jax.report.page.blocks import Table
from g2is_jax.report.page.markdown import escaped, table_lines

CORE_COLUMNS = ("component", "weight", "reinforce", "conflict", "largest", "smallest")
MOST_SOURCES = 20  # lines of the page; the JSON has them all


def markdown(found: dict, title: str) -> str:
    """Writes the statistics as a page; what does not fit a page is in the JSON alone."""
    sources = found["sources"]
    hubs = [
        [str(h[name]) for name in ("row", "id", "source", "in_degree")]
        for h in found["degree"]["hubs"]
    ]
    core = [
        [
            *(str(number), f"{c['weight']:.3f}", str(c["reinforce"]), str(c["conflict"])),
            *(f"{c['largest']:.3f}", f"{c['smallest']:.3f}"),
        ]
        for number, c in enumerate(found["core"])
    ]
    lines = [
        *[f"# {escaped(title)}", ""],
        f"{found['rows']:,} rows, {found['core_directions']} core directions, {found['edges']:,} "
        f"edges; {found['neighbours']} neighbours a row.",
        *["", *_bullets(found), "", "## Sources", ""],
        f"{_percent(sources['all_inside'])} of the edges between rows stay inside a source "
        f"({_percent(sources['all_inside_by_chance'])} by chance).",
        *["", *_source_table(sources), "", "## Hubs", ""],
        *table_lines(Table(["row", "id", "source", "in-degree"], hubs)),
        *["", "## Core directions: stored edges", ""],
        *table_lines(Table(CORE_COLUMNS, core)),
    ]
    return "\n".join(lines) + "\n"


def _bullets(found: dict) -> list[str]:
    degree, pairs_, stored_ = found["degree"], found["pairs"], found["stored"]
    spread = ", ".join(f"{name} {value:,.4g}" for name, value in degree["quantiles"].items())
    mean = "none" if pairs_["mean_cosine"] is None else f"{pairs_['mean_cosine']:.3f}"
    return [
        f"- in-degree: {spread}; skewness {degree['skewness']:.2f}; nobody's neighbour: "
        f"{degree['unreached']:,} rows",
        f"- conflicts: {_percent(pairs_['conflicts'])} of {pairs_['pairs']:,} pairs"
        f"{' of a sample' if pairs_['sampled'] else ''}; inside a source "
        f"{_percent(pairs_['conflicts_inside_a_source'])}, across sources "
        f"{_percent(pairs_['conflicts_across_sources'])}; of the stored edges between rows "
        f"{_percent(stored_['conflicts'])}",
        f"- cosine: mean of pairs {mean}, median of stored edges "
        f"{stored_['quantiles']['median']:.3f}",
        *[
            f"- connected components, {name.replace('_', ' ')}: {pieces['components']:,}, the "
            f"largest with {_percent(pieces['largest_share'])} of the nodes, "
            f"{pieces['isolated']:,} of one node"
            for name, pieces in found["pieces"].items()
        ],
    ]


def _source_table(sources: dict) -> list[str]:
    order = sorted(range(len(sources["names"])), key=lambda s: -sources["rows"][s])
    fields = [
        [
            *(sources["names"][s], f"{sources['rows'][s]:,}"),
            *(_percent(sources[share][s]) for share in ("inside", "inside_by_chance")),
        ]
        for s in order[:MOST_SOURCES]
    ]
    left = len(order) - len(fields)
    note = ["", f"{left} smaller sources are in the JSON alone."] if left else []
    return table_lines(Table(["source", "rows", "edges inside", "by chance"], fields)) + note


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"
