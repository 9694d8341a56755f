"""The composition of selections by source against the pool's, their costs and their overlap."""

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from g2is_jax.report.page.blocks import Table
from g2is_jax.report.page.markdown import escaped, table_lines
from g2is_jax.runs.storage import make_folder, write_atomic

MOST_COLUMNS = 12  # sources with a column of their own in a table; the JSON has them all
SHARED = "Rows shared by two methods (mean Jaccard index over the seeds):"
STABLE = (
    "Rows that a method chooses again at another seed, with its own draw, warm-up and "
    "projection (mean Jaccard index over all pairs of seeds):"
)
OTHERS = "others"


def write_composition(
    entries: Sequence[dict], pool_sources: Sequence[str], folder: epath.Path
) -> str:
    """Writes `composition.json` and `composition.md`; returns the Markdown.

    entries: method, target, seed, rows (positions in the pool), tokens and seconds of selections.
    pool_sources: the source of each row of the pool.
    """
    make_folder(folder)
    found = composition(entries, pool_sources)
    text = markdown(found)
    write_atomic(folder / "composition.json", json.dumps(found, indent=2) + "\n")
    write_atomic(folder / "composition.md", text)
    return text


def composition(entries: Sequence[dict], pool_sources: Sequence[str]) -> dict:
    """Averages over seeds for each target and method, in the entries' order.

    Sources are in the order of their size in the pool; shares are of rows, ties by name.
    """
    counts = Counter(pool_sources)
    sources = sorted(counts, key=lambda source: (-counts[source], source))
    by_target: dict[str, dict[str, dict[int, dict]]] = {}
    for entry in entries:
        by_seed = by_target.setdefault(entry["target"], {}).setdefault(entry["method"], {})
        _check(entry, by_seed, len(pool_sources))
        by_seed[entry["seed"]] = entry
    return {
        "pool": {"rows": len(pool_sources), "shares": _shares(pool_sources, sources)},
        "targets": {
            target: {
                "methods": [
                    {"method": method} | _means(list(by_seed.values()), pool_sources, sources)
                    for method, by_seed in by_method.items()
                ],
                "stability": [_stability(list(of.values())) for of in by_method.values()],
                "overlap": [
                    [_overlap(own, other) for other in by_method.values()]
                    for own in by_method.values()
                ],
            }
            for target, by_method in by_target.items()
        },
    }


def _check(entry: dict, by_seed: Mapping[int, dict], pool_rows: int) -> None:
    name = f"{entry['method']} on {entry['target']}, seed {entry['seed']}"
    if entry["seed"] in by_seed:
        raise ValueError(f"{name} is given twice")
    rows = set(entry["rows"])
    if len(rows) < len(entry["rows"]):
        raise ValueError(f"{name} has a row twice")
    if rows and not 0 <= min(rows) <= max(rows) < pool_rows:
        raise ValueError(f"{name} has a row outside the pool of {pool_rows}")


def _means(chosen: Sequence[dict], pool_sources: Sequence[str], sources: Sequence[str]) -> dict:
    """Averages the selections of one method on one target over its seeds."""
    shares = [_shares([pool_sources[row] for row in e["rows"]], sources) for e in chosen]
    return {
        "seeds": len(chosen),
        "rows": float(np.mean([len(entry["rows"]) for entry in chosen])),
        "tokens": float(np.mean([entry["tokens"] for entry in chosen])),
        "seconds": float(np.mean([entry["seconds"] for entry in chosen])),
        "shares": {s: float(np.mean([share[s] for share in shares])) for s in sources},
    }


def _shares(of_rows: Sequence[str], sources: Sequence[str]) -> dict[str, float]:
    """Returns the share of each source in some rows; all 0 where there is no row."""
    counts = Counter(of_rows)
    return {source: counts[source] / max(len(of_rows), 1) for source in sources}


def _overlap(own: Mapping[int, dict], other: Mapping[int, dict]) -> float | None:
    """Averages the Jaccard index over the seeds that both have; None where they share none."""
    seeds = own.keys() & other.keys()
    if not seeds:
        return None
    return float(np.mean([jaccard(own[seed]["rows"], other[seed]["rows"]) for seed in seeds]))


def _stability(chosen: Sequence[dict]) -> float | None:
    """Averages the Jaccard index over the pairs of seeds of a method; None with one seed."""
    pairs = list(itertools.combinations([entry["rows"] for entry in chosen], 2))
    return float(np.mean([jaccard(*pair) for pair in pairs])) if pairs else None


def jaccard(own: Sequence[int], other: Sequence[int]) -> float:
    """Divides the rows in both by the rows in either; 1 where neither has a row."""
    either = set(own) | set(other)
    return len(set(own) & set(other)) / len(either) if either else 1.0


def markdown(found: dict) -> str:
    """Writes for each target a line a method, then the overlap of the methods' rows."""
    parts = []
    for target, of_target in found["targets"].items():
        lines = table_lines(composition_table(found["pool"], of_target["methods"]))
        if len(of_target["methods"]) > 1:
            lines += ["", SHARED, "", *table_lines(overlap_table(of_target))]
        if any(value is not None for value in of_target["stability"]):
            lines += ["", STABLE, "", *table_lines(stability_table(of_target))]
        parts.append("\n".join([f"### {escaped(target)}: rows by source", "", *lines]))
    return "\n\n".join(parts) + "\n"


def composition_table(pool: dict, methods: Sequence[dict]) -> Table:
    """Makes a line for each method: shares in percent, in brackets how many times the pool's."""
    named = columns(pool, methods)
    whole = folded(pool["shares"], named)
    others = [OTHERS] if len(whole) > len(named) else []
    head = ["method", "rows", "tokens", "seconds", *named, *others]
    first = ["(the pool)", f"{pool['rows']:,}", "", "", *(f"{share:.1%}" for share in whole)]
    lines = [first]
    for of in methods:
        costs = [f"{of['rows']:,.0f}", f"{of['tokens']:,.0f}", f"{of['seconds']:,.1f}"]
        pairs = zip(folded(of["shares"], named), whole, strict=True)
        cells = [f"{share:.1%} (×{share / pooled:.1f})" for share, pooled in pairs]
        lines.append([of["method"], *costs, *cells])
    return Table(head, lines)


def overlap_table(found: dict) -> Table:
    """Makes a line and a column for each method."""
    names = [of["method"] for of in found["methods"]]
    lines = [
        [name, *("" if value is None else f"{value:.2f}" for value in row)]
        for name, row in zip(names, found["overlap"], strict=True)
    ]
    shades = {
        (line, column + 1): value
        for line, row in enumerate(found["overlap"])
        for column, value in enumerate(row)
        if value is not None
    }
    return Table(["", *names], lines, shades=shades)


def stability_table(found: dict) -> Table:
    """Makes a line for each method."""
    lines = [
        [of["method"], "" if value is None else f"{value:.2f}"]
        for of, value in zip(found["methods"], found["stability"], strict=True)
    ]
    return Table(["method", "rows shared by two seeds"], lines)


def columns(pool: dict, methods: Sequence[dict]) -> list[str]:
    """Returns the sources with a column of their own, in the pool's order.

    They are those with the largest share of the pool or of a selection.
    """
    sources = list(pool["shares"])
    if len(sources) <= MOST_COLUMNS:
        return sources
    largest = {s: max(of["shares"][s] for of in (pool, *methods)) for s in sources}
    shown = sorted(sources, key=lambda source: -largest[source])[: MOST_COLUMNS - 1]
    return [source for source in sources if source in shown]


def folded(shares: Mapping[str, float], named: Sequence[str]) -> list[float]:
    """Returns the share of each named source, and of all others together where there are any."""
    few = [shares[source] for source in named]
    rest = [share for source, share in shares.items() if source not in named]
    return [*few, sum(rest)] if rest else few
