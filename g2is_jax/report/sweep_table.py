"""The table, overlaps and plot of the selections of a sweep over settings."""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from g2is_jax.report.composition import composition
from g2is_jax.report.page.blocks import Table
from g2is_jax.report.page.markdown import escaped, table_lines
from g2is_jax.report.sweep_rivals import compared, rival_tables
from g2is_jax.runs.storage import make_folder, write_atomic

MOST_SOURCES = 8  # with a column of their own in the Markdown; the JSON has them all


def write_sweep(
    sweep: dict,
    entries: Sequence[dict],
    rivals: Sequence[dict],
    pool_sources: Sequence[str],
    folder: epath.Path,
) -> tuple[dict, str]:
    """Writes `table.json`, `table.md` and `plot.png`; returns what the first two hold.

    sweep: its name as `sweep`, seconds, and settings with the stages of each. entries: method,
    setting, target, seed, rows (positions in the pool), tokens, seconds, folder and, where there
    are some, metrics of each selection. rivals: method, target, seed and metrics of methods that
    no setting changes. pool_sources: the source of each row of the pool.
    """
    make_folder(folder)
    differences, way = compared(entries, rivals)
    table = sweep | {"methods": _by_method(entries, pool_sources)}
    table |= {"against": [vars(d) for d in differences], "ways": way}
    text = markdown(table, rival_tables(differences, way))
    write_atomic(folder / "table.json", json.dumps(table, indent=2) + "\n")
    write_atomic(folder / "table.md", text)
    plot(table, folder / "plot.png")
    return table, text


def _by_method(entries: Sequence[dict], pool_sources: Sequence[str]) -> dict:
    """Makes method -> target -> settings (means over seeds) and the overlap matrix between them."""
    found: dict[str, dict] = {}
    for method in dict.fromkeys(entry["method"] for entry in entries):
        own = [entry for entry in entries if entry["method"] == method]
        of_settings = [entry | {"method": entry["setting"]} for entry in own]
        made = composition(of_settings, pool_sources)
        found[method] = {}
        for target, of in made["targets"].items():
            settings = [
                {"setting": line.pop("method")} | line | {"overlap_with_first": overlap}
                for line, overlap in zip(of["methods"], of["overlap"][0], strict=True)
            ]
            for line in settings:
                same = [e for e in own if (e["target"], e["setting"]) == (target, line["setting"])]
                line["folders"] = [entry["folder"] for entry in same]
                line["metrics"] = _mean_metrics([entry.get("metrics", {}) for entry in same])
            found[method][target] = {"settings": settings, "overlap": of["overlap"]}
    return found


def _mean_metrics(metrics: Sequence[dict]) -> dict[str, float]:
    return {name: float(np.mean([of[name] for of in metrics])) for name in metrics[0]}


def markdown(table: dict, rivals: Mapping[str, Table]) -> str:
    """Writes a table of each method and target, those of the rivals by their titles, then the
    stages that were run and reused."""
    parts = [f"## Sweep {table['sweep']}"]
    for method, by_target in table["methods"].items():
        for target, found in by_target.items():
            parts.append(f"### {escaped(method)}, {escaped(target)}")
            parts.append("\n".join(_table(found["settings"])))
    for title, of in rivals.items():
        parts += [f"### {escaped(title)}", "\n".join(table_lines(of))]
    parts.append("\n".join(_stages_table(table)))
    made: Counter[str] = Counter()
    for of in table["settings"]:
        made.update(of["stages"]["run"])
    parts.append(
        f"{len(table['settings'])} settings in {table['seconds']:,.1f} s of this run, which made "
        f"these stages: {_counts(made)}."
    )
    return "\n\n".join(parts) + "\n"


def _table(settings: Sequence[dict]) -> list[str]:
    sources = list(settings[0]["shares"])[:MOST_SOURCES]
    metrics = list(dict.fromkeys(name for of in settings for name in of["metrics"]))
    head = ["setting", "rows", "tokens", "seconds", "overlap with the first", *metrics, *sources]
    body = [
        [
            *(of["setting"], f"{of['rows']:,.0f}", f"{of['tokens']:,.0f}", f"{of['seconds']:,.1f}"),
            *_formatted([of["overlap_with_first"]], ".2f"),
            *_formatted([of["metrics"].get(name) for name in metrics], ".3f"),
            *_formatted([of["shares"][source] for source in sources], ".1%"),
        ]
        for of in settings
    ]
    return table_lines(Table(head, body))


def _formatted(values: Sequence[float | None], form: str) -> list[str]:
    """Formats values; an absent one is empty."""
    return ["" if value is None else format(value, form) for value in values]


def _stages_table(table: dict) -> list[str]:
    """Counts the stages of each setting by name: those this run made, and those it reused."""
    body = [
        [of["setting"], *(_counts(of["stages"][how]) for how in ("run", "reused"))]
        for of in table["settings"]
    ]
    return table_lines(Table(["setting", "stages run", "stages reused"], body))


def _counts(stages: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in stages.items()) or "none"


def plot(table: dict, file: epath.Path) -> None:
    """Plots the overlaps of the settings, for each method and target.

    Panels: the overlap with the first setting, that between all, and the first metric if any.
    """
    from matplotlib.figure import Figure

    panels = [
        (f"{method}, {target}", found)
        for method, by_target in table["methods"].items()
        for target, found in by_target.items()
    ]
    all_settings = [of for _, found in panels for of in found["settings"]]
    metrics = [
        name
        for name in all_settings[0]["metrics"]
        if all(name in of["metrics"] for of in all_settings)
    ][:1]
    count = len(table["settings"])
    height = max(3.0, 1.0 + 0.22 * count)
    size = (6 * (2 + len(metrics)), height * len(panels))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(panels), 2 + len(metrics), squeeze=False)
    for across, (title, found) in zip(axes, panels, strict=True):
        labels = [of["setting"] for of in found["settings"]]
        overlaps = [of["overlap_with_first"] for of in found["settings"]]
        _bars(across[0], labels, overlaps, f"{title}: overlap with the first")
        across[0].set_xlim(-0.02, 1.02)
        image = across[1].imshow(np.array(found["overlap"], float), vmin=0, vmax=1)
        across[1].set_title("overlap between settings (Jaccard)", fontsize=9)
        figure.colorbar(image, ax=across[1], shrink=0.6)
        for axis, name in zip(across[2:], metrics, strict=True):
            values = [of["metrics"][name] for of in found["settings"]]
            _bars(axis, labels, values, name.replace("_", " "))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomic(file, buffer.getvalue())


def _bars(axis, labels: Sequence[str], values: Sequence[float | None], title: str) -> None:
    numbers = np.arange(len(labels))
    axis.plot([np.nan if value is None else value for value in values], numbers, "o")
    axis.set_yticks(numbers, labels, fontsize=7)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=9, parse_math=False)  # two dollars are no formula
    axis.grid(alpha=0.3)
