"""The tables of results over methods, targets and seeds: JSON, Markdown and a plot."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath

from g2is_jax.evaluation.tasks.reply_metrics import LOSS, SHOTS_DROPPED, title
from g2is_jax.report.page.blocks import Table
from g2is_jax.report.page.markdown import escaped, table_lines
from g2is_jax.runs.storage import make_folder, write_atomic

REFERENCE = "random"  # what every method is compared with, seed by seed
BOUNDS = ("none", "full")  # zero-shot and the whole pool: always in the table, run or not
NOT_RUN = "not run"
SUBJECT = "g2is"  # what is compared with every other method, seed by seed
CONFIDENCE = 0.95
Groups = dict[tuple[str, str, str], dict[int, dict]]  # (method, target, metric) -> seed -> score
PERCENT = f"{100 * CONFIDENCE:.0f}\u00a0%"
VERSUS = (
    "Mean over seeds of the paired difference, more is better"
    f" ({PERCENT} interval; seeds on which it is ahead)"
)


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
    groups = _groups(scores)
    return [_cell(key, by_seed, groups) for key, by_seed in groups.items()]


def _groups(scores: Sequence[dict]) -> Groups:
    groups: Groups = {}
    for score in scores:
        for metric in score["metrics"]:
            if metric == SHOTS_DROPPED:
                continue
            key = (score["method"], score["target"], metric)
            groups.setdefault(key, {})[score["seed"]] = score
    return groups


def sign_of(metric: str, score: dict) -> int:
    """-1 where less of this metric of a score is better."""
    return -1 if metric in (LOSS, *score.get("less_is_better", ())) else 1


def _gains(own: dict, theirs: dict, metric: str, seeds: Sequence[int]) -> list[float]:
    """By how much `own` is better at each seed."""
    return [
        sign_of(metric, own[s]) * (own[s]["metrics"][metric] - theirs[s]["metrics"][metric])
        for s in seeds
    ]


def paired_scores(
    scores: Sequence[dict], rival: str
) -> Iterator[tuple[str, str, str, list[tuple[dict, dict]]]]:
    """Method, target, metric; and the method's and the rival's score at each seed of both."""
    groups = _groups(scores)
    for (method, target, metric), own in groups.items():
        theirs = groups.get((rival, target, metric), {})
        pairs = [(own[seed], theirs[seed]) for seed in sorted(own.keys() & theirs.keys())]
        if pairs:
            yield method, target, metric, pairs


def _cell(key: tuple[str, str, str], by_seed: dict[int, dict], groups: Groups) -> Cell:
    method, target, metric = key
    values = [score["metrics"][metric] for score in by_seed.values()]
    gain, gain_stderr = None, None
    reference = groups.get((REFERENCE, target, metric), {})
    shared = sorted(by_seed.keys() & reference.keys())
    if method != REFERENCE and shared:
        gains = _gains(by_seed, reference, metric, shared)
        gain, gain_stderr = float(np.mean(gains)), standard_error(gains)
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


@dataclass(frozen=True)
class Difference:
    """How much better `subject` is than `rival` on one target: more is better, whatever the metric.

    The mean over the seeds both have, with Student's interval of CONFIDENCE for it (None below two
    seeds). It covers what warm-up, projection and fine-tune of other seeds would change, not other
    test rows. better counts the seeds on which the subject is ahead.
    """

    subject: str
    rival: str
    target: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    better: int
    seeds: int


def differences(scores: Sequence[dict], subject: str = SUBJECT) -> list[Difference]:
    """`subject` against every other method, on each target and metric, paired by seed."""
    groups = _groups(scores)
    found = []
    for rival, target, metric in groups:
        own = groups.get((subject, target, metric), {})
        theirs = groups[rival, target, metric]
        shared = sorted(own.keys() & theirs.keys())
        if rival == subject or not shared:
            continue
        gains_S = np.array(_gains(own, theirs, metric, shared))
        low, high = interval(gains_S)
        ahead = int((gains_S > 0).sum())
        mean = float(gains_S.mean())
        found.append(
            Difference(subject, rival, target, metric, mean, low, high, ahead, len(shared))
        )
    return found


def interval(values: Sequence[float] | np.ndarray) -> tuple[float | None, float | None]:
    """Student's interval of CONFIDENCE for the mean; (None, None) below two values."""
    from scipy.stats import t as student

    error = standard_error(values)
    if error is None:
        return None, None
    half = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    mean = float(np.mean(values))
    return mean - half, mean + half


def standard_error(values: Sequence[float] | np.ndarray) -> float | None:
    """Sample standard deviation / sqrt(n); None below two values."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def tables(cells: Sequence[Cell]) -> dict[str, Table]:
    """One for each target: a line a method, each metric with its standard error and gain."""
    return {
        target: _table([cell for cell in cells if cell.target == target])
        for target in dict.fromkeys(cell.target for cell in cells)
    }


def _table(cells: Sequence[Cell]) -> Table:
    """Of one target."""
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
    """The table of each target under its name."""
    parts = [
        "\n".join([f"### {escaped(target)}", "", *table_lines(table)])
        for target, table in tables(cells).items()
    ]
    return "\n\n".join(parts) + "\n"


def versus(found: Sequence[Difference]) -> str:
    """The table of differences under its title."""
    if not found:
        return ""
    lines = [f"### {found[0].subject} against each method", "", VERSUS, ""]
    return "\n".join([*lines, *table_lines(versus_table(found))]) + "\n"


def versus_table(found: Sequence[Difference]) -> Table:
    """A line a rival, a column a target and metric: the mean difference and its interval."""
    columns = list(dict.fromkeys((d.target, d.metric) for d in found))
    names = [f"{target}: {title(metric).split(' (')[0]}" for target, metric in columns]
    lines = []
    for rival in dict.fromkeys(d.rival for d in found):
        of_rival = {(d.target, d.metric): d for d in found if d.rival == rival}
        lines.append([rival, *(_told(of_rival.get(column)) for column in columns)])
    return Table(["against", *names], lines)


def _told(difference: Difference | None) -> str:
    if difference is None:
        return ""
    ahead = f"{difference.better}/{difference.seeds}"
    if difference.low is None:
        return f"{difference.mean:+.3f} ({ahead})"
    return f"{difference.mean:+.3f} ({difference.low:+.3f}..{difference.high:+.3f}; {ahead})"


def spread(mean: float | None, stderr: float | None, sign: str = "") -> str:
    """A mean with its standard error, where there is one."""
    if mean is None:
        return ""
    text = f"{mean:{sign}.3f}"
    return text if stderr is None else f"{text} ± {stderr:.3f}"


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
        name = f"{target}: {title(metric)}"
        axis.set_title(name, fontsize=9, parse_math=False)  # two dollars are no formula
        axis.grid(axis="x", alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomic(file, buffer.getvalue())


def write_report(scores: Sequence[dict], folder: epath.Path) -> str:
    """Write `results.json`, `scores.json` (a seed each), `differences.json`, `results.md`,
    `results.png`; the Markdown is returned."""
    make_folder(folder)
    cells = aggregate(scores)
    against = differences(scores)
    table = "\n".join(part for part in (markdown(cells), versus(against)) if part)
    write_atomic(folder / "results.json", json.dumps([vars(c) for c in cells], indent=2) + "\n")
    told = json.dumps([vars(d) for d in against], indent=2) + "\n"
    write_atomic(folder / "differences.json", told)
    bare = [{name: of for name, of in score.items() if name != "per_row"} for score in scores]
    write_atomic(folder / "scores.json", json.dumps(bare, indent=2) + "\n")
    write_atomic(folder / "results.md", table)
    plot(cells, folder / "results.png")
    return table
