"""The table of results over methods, targets and seeds: JSON, Markdown and a plot."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath

from g2is_jax.runs.manifest import write_atomic

REFERENCE = "random"  # what every method is compared with, seed by seed
TITLES = {"answer_loss": "answer loss (lower is better)", "exact_match": "exact match"}


@dataclass(frozen=True)
class Cell:
    """One metric of one method on one target over the seeds.

    stderr is the standard error of the mean over seeds; None with one seed. gain is the mean paired
    difference to `random` at the same seed, signed so that more is better, with its standard error.
    """

    method: str
    target: str
    metric: str
    mean: float
    stderr: float | None
    seeds: int
    rows: float
    tokens: float
    seconds: float
    gain: float | None
    gain_stderr: float | None


def aggregate(scores: Sequence[dict]) -> list[Cell]:
    """Scores (method, target, seed, metrics, rows, tokens, seconds) to cells, in their order."""
    groups: dict[tuple[str, str, str], dict[int, dict]] = {}
    for score in scores:
        for metric in score["metrics"]:
            key = (score["method"], score["target"], metric)
            groups.setdefault(key, {})[score["seed"]] = score
    return [_cell(key, by_seed, groups) for key, by_seed in groups.items()]


def _cell(key: tuple[str, str, str], by_seed: dict[int, dict], groups: dict) -> Cell:
    method, target, metric = key
    values = [score["metrics"][metric] for score in by_seed.values()]
    gain, gain_stderr = None, None
    reference = groups.get((REFERENCE, target, metric), {})
    shared = sorted(by_seed.keys() & reference.keys())
    if method != REFERENCE and shared:
        sign = -1 if metric == "answer_loss" else 1
        differences = [
            sign * (by_seed[s]["metrics"][metric] - reference[s]["metrics"][metric]) for s in shared
        ]
        gain, gain_stderr = float(np.mean(differences)), standard_error(differences)
    costs = {
        name: float(np.mean([score[name] for score in by_seed.values()]))
        for name in ("rows", "tokens", "seconds")
    }
    mean, stderr = float(np.mean(values)), standard_error(values)
    return Cell(
        method,
        target,
        metric,
        mean,
        stderr,
        seeds=len(values),
        gain=gain,
        gain_stderr=gain_stderr,
        **costs,
    )


def standard_error(values: Sequence[float]) -> float | None:
    """Sample standard deviation / sqrt(n); None below two values."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def markdown(cells: Sequence[Cell]) -> str:
    """One table a target: a line a method, each metric with its standard error and gain."""
    parts = []
    for target in dict.fromkeys(cell.target for cell in cells):
        chosen = [cell for cell in cells if cell.target == target]
        metrics = list(dict.fromkeys(cell.metric for cell in chosen))
        head = ["method", "rows", "tokens", "seconds"]
        for metric in metrics:
            head += [TITLES[metric], "gain over random"]
        lines = [f"### {target}", "", _line(head), _line(["---"] * len(head))]
        for method in dict.fromkeys(cell.method for cell in chosen):
            of_method = {cell.metric: cell for cell in chosen if cell.method == method}
            first = of_method[metrics[0]]
            line = [method, f"{first.rows:,.0f}", f"{first.tokens:,.0f}", f"{first.seconds:,.1f}"]
            for metric in metrics:
                cell = of_method[metric]
                line += [spread(cell.mean, cell.stderr), spread(cell.gain, cell.gain_stderr, "+")]
            lines.append(_line(line))
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def spread(mean: float | None, stderr: float | None, sign: str = "") -> str:
    """A mean with its standard error, where there is one."""
    if mean is None:
        return ""
    text = f"{mean:{sign}.3f}"
    return text if stderr is None else f"{text} ± {stderr:.3f}"


def _line(fields: Sequence[str]) -> str:
    return "| " + " | ".join(fields) + " |"


def plot(cells: Sequence[Cell], file: epath.Path) -> None:
    """Every metric of every target as points with two standard errors, one panel each."""
    import io

    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((cell.target, cell.metric) for cell in cells))
    targets = list(dict.fromkeys(target for target, _ in panels))
    columns = math.ceil(len(panels) / len(targets))
    figure = Figure(figsize=(5 * columns, 3.2 * len(targets)), layout="constrained")
    axes = figure.subplots(len(targets), columns, squeeze=False)
    for axis, (target, metric) in zip(axes.flat, panels, strict=False):
        shown = [c for c in cells if (c.target, c.metric) == (target, metric)][::-1]
        errors = [2 * (c.stderr or 0.0) for c in shown]
        axis.errorbar([c.mean for c in shown], range(len(shown)), xerr=errors, fmt="o", capsize=3)
        axis.set_yticks(range(len(shown)), [c.method for c in shown])
        axis.set_title(f"{target}: {TITLES[metric]}", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomic(file, buffer.getvalue())


def write_report(scores: Sequence[dict], folder: epath.Path) -> str:
    """Write `results.json`, `scores.json` (a seed each), `results.md`, `results.png`; the Markdown
    is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = aggregate(scores)
    table = markdown(cells)
    write_atomic(folder / "results.json", json.dumps([vars(c) for c in cells], indent=2) + "\n")
    write_atomic(folder / "scores.json", json.dumps(list(scores), indent=2) + "\n")
    write_atomic(folder / "results.md", table)
    plot(cells, folder / "results.png")
    return table
