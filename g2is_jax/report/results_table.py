"""The tables of results over methods, targets and seeds: JSON, Markdown and a plot."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath

from g2is_jax.evaluation.compare import (
    CONFIDENCE,
    REFERENCE,
    Groups,
    SeedDifference,
    group_scores,
    paired_gains,
    seed_differences,
    standard_error,
)
from g2is_jax.evaluation.tasks.reply_metrics import title
from g2is_jax.report.page.blocks import Table
from g2is_jax.report.page.markdown import escaped, table_lines
from g2is_jax.runs.storage import make_folder, write_atomic

BOUNDS = ("none", "full")  # zero-shot and the whole pool: always in the table, run or not
NOT_RUN = "not run"
PERCENT = f"{100 * CONFIDENCE:.0f}\u00a0%"
VERSUS = (
    "Mean over seeds of the paired difference, more is better"
    f" ({PERCENT} interval; seeds on which it is ahead)"
)


@dataclass(frozen=True)
class Cell:
    """Holds one metric of one method on one target over the seeds.

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
    """Makes the cells of scores, in their order.

    scores: each with method, target, seed, metrics, rows, tokens and seconds.
    """
    groups = group_scores(scores)
    return [_cell(key, by_seed, groups) for key, by_seed in groups.items()]


def _cell(key: tuple[str, str, str], by_seed: dict[int, dict], groups: Groups) -> Cell:
    method, target, metric = key
    values = [score["metrics"][metric] for score in by_seed.values()]
    gain, gain_stderr = None, None
    gains_S = paired_gains(by_seed, groups.get((REFERENCE, target, metric), {}), metric)
    if method != REFERENCE and len(gains_S):
        gain, gain_stderr = float(gains_S.mean()), standard_error(gains_S)
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


def tables(cells: Sequence[Cell]) -> dict[str, Table]:
    """Makes a table for each target: a line a method, each metric with its error and gain."""
    return {
        target: _table([cell for cell in cells if cell.target == target])
        for target in dict.fromkeys(cell.target for cell in cells)
    }


def _table(cells: Sequence[Cell]) -> Table:
    """Makes the table of one target's cells."""
    metrics = list(dict.fromkeys(cell.metric for cell in cells))
    head = ["method", "rows", "tokens", "seconds"]
    for metric in metrics:
        head += [title(metric), "gain over random"]
    lines = []
    for method in dict.fromkeys(cell.method for cell in cells):
        of_method = {cell.metric: cell for cell in cells if cell.method == method}
        first = of_method[metrics[0]]
        line = [method, f"{first.rows:,.0f}", f"{first.tokens:,.0f}", f"{first.seconds:,.1f}"]
        for metric in metrics:
            cell = of_method[metric]
            line += [spread(cell.mean, cell.stderr), spread(cell.gain, cell.gain_stderr, "+")]
        lines.append(line)
    missing = [name for name in BOUNDS if name not in {cell.method for cell in cells}]
    lines += [[name, NOT_RUN, *[""] * (len(head) - 2)] for name in missing]
    return Table(head, lines)


def markdown(cells: Sequence[Cell]) -> str:
    """Writes the table of each target under its name."""
    parts = [
        "\n".join([f"### {escaped(target)}", "", *table_lines(table)])
        for target, table in tables(cells).items()
    ]
    return "\n\n".join(parts) + "\n"


def versus(differences: Sequence[SeedDifference]) -> str:
    """Writes the table of differences under its title."""
    if not differences:
        return ""
    lines = [f"### {differences[0].subject} against each method", "", VERSUS, ""]
    return "\n".join([*lines, *table_lines(versus_table(differences))]) + "\n"


def versus_table(differences: Sequence[SeedDifference]) -> Table:
    """Makes a line for each rival, and a column of mean and interval for each target and metric."""
    columns = list(dict.fromkeys((d.target, d.metric) for d in differences))
    names = [f"{target}: {title(metric).split(' (')[0]}" for target, metric in columns]
    lines = []
    for rival in dict.fromkeys(d.rival for d in differences):
        of_rival = {(d.target, d.metric): d for d in differences if d.rival == rival}
        lines.append([rival, *(_cell_text(of_rival.get(column)) for column in columns)])
    return Table(["against", *names], lines)


def _cell_text(difference: SeedDifference | None) -> str:
    if difference is None:
        return ""
    ahead = f"{difference.better}/{difference.seeds}"
    if difference.low is None:
        return f"{difference.mean:+.3f} ({ahead})"
    return f"{difference.mean:+.3f} ({difference.low:+.3f}..{difference.high:+.3f}; {ahead})"


def spread(mean: float | None, stderr: float | None, sign: str = "") -> str:
    """Formats a mean with its standard error, where there is an error."""
    if mean is None:
        return ""
    text = f"{mean:{sign}.3f}"
    return text if stderr is None else f"{text} ± {stderr:.3f}"


def plot(cells: Sequence[Cell], file: epath.Path) -> None:
    """Draws each metric of each target in a panel: a point a method, with two standard errors."""
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
        name = f"{target}: {title(metric)}"
        axis.set_title(name, fontsize=9, parse_math=False)  # two dollars are no formula
        axis.grid(axis="x", alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomic(file, buffer.getvalue())


def write_report(scores: Sequence[dict], folder: epath.Path) -> str:
    """Writes the files of results; returns the Markdown of the results alone.

    These are `results.json`, `scores.json` (a seed each), `differences.json`, `results.png`, and
    `results.md`, which holds the table of differences too.
    """
    make_folder(folder)
    cells, differences = aggregate(scores), seed_differences(scores)
    bare = [{name: of for name, of in score.items() if name != "per_row"} for score in scores]
    results = markdown(cells)
    write_atomic(folder / "results.json", _json([vars(c) for c in cells]))
    write_atomic(folder / "differences.json", _json([vars(d) for d in differences]))
    write_atomic(folder / "scores.json", _json(bare))
    both = "\n".join(part for part in (results, versus(differences)) if part)
    write_atomic(folder / "results.md", both)
    plot(cells, folder / "results.png")
    return results


def _json(values: list[dict]) -> str:
    return json.dumps(values, indent=2) + "\n"
