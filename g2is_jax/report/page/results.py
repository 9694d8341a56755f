"""The best method on each target, whether that may be chance, and the tables behind it."""

import dataclasses
from collections.abc import Mapping, Sequence

from g2is_jax.evaluation.compare import (
    SUBJECT,
    SeedDifference,
    row_differences,
    seed_differences,
)
from g2is_jax.evaluation.tasks.reply_metrics import LOSS, title
from g2is_jax.report.against import AGAINST, against_table
from g2is_jax.report.page.blocks import Block, Picture, Pictures, Section, Table, Text
from g2is_jax.report.page.svg import ACCENT, GREY, draw
from g2is_jax.report.published import THEIRS, published_table
from g2is_jax.report.results_table import (
    PERCENT,
    VERSUS,
    Cell,
    aggregate,
    spread,
    tables,
    versus_table,
)

FIXED_COLUMNS = 4  # method, rows, tokens, seconds
GAIN = "Mean over seeds ± standard error; gain: paired difference to random, more is better."
ONE_SEED = (
    "The difference at the one seed, more is better (seeds on which it is ahead).",
    "One seed has no standard error and no interval: what differs here may be chance.",
)
CAUTION = (
    "An interval covers what other seeds of warm-up, projection and fine-tune would change, not "
    "other test rows, and is not corrected for the number of comparisons."
)


def section(scores: Sequence[dict], theirs: Mapping[str, Mapping[str, float]]) -> Section:
    """Makes a part for each target, then g2is against every method, then all against two rivals.

    theirs: published scores in percent, by target and method.
    """
    cells = aggregate(scores)
    parts: list[Block] = [
        Section(
            target,
            _of_target(target, table, cells, scores)
            + _published(theirs.get(target, {}), target, cells),
        )
        for target, table in tables(cells).items()
    ]
    by_seed = seed_differences(scores)
    if by_seed:
        name = f"{SUBJECT} against each method"
        notes = (f"{VERSUS}.", CAUTION) if any(d.low is not None for d in by_seed) else ONE_SEED
        parts.append(Section(name, [Text(notes[0]), versus_table(by_seed), Text(notes[1])]))
    by_row = row_differences(scores)
    if by_row:
        parts.append(Section("Random and less", [Text(f"{AGAINST}."), against_table(by_row)]))
    return Section("Results", parts)


def _of_target(
    target: str, table: Table, cells: Sequence[Cell], scores: Sequence[dict]
) -> list[Block]:
    metrics = list(dict.fromkeys(cell.metric for cell in cells if cell.target == target))
    ahead = [lead(scores, target, metric) for metric in metrics]
    verdicts = [
        Text(verdict(scores, target, metric, by_method))
        for metric, by_method in zip(metrics, ahead, strict=True)
    ]
    pictures = [
        _drawn([cell for cell in cells if (cell.target, cell.metric) == (target, metric)])
        for metric in metrics
    ]
    return [*verdicts, Text(GAIN), _marked(table, ahead), Pictures(pictures)]


def _published(theirs: Mapping[str, float], target: str, cells: Sequence[Cell]) -> list[Block]:
    """Puts this run's score beside theirs, by the task's main metric: the first after the loss."""
    if not theirs:
        return []
    own = [cell for cell in cells if cell.target == target and cell.metric != LOSS]
    ours = {cell.method: cell.mean for cell in own if cell.metric == own[0].metric}
    return [Text(THEIRS), published_table(theirs, ours)]


def lead(scores: Sequence[dict], target: str, metric: str) -> dict[str, float]:
    """Returns how far each method is ahead of the first one, more being better."""
    own = [s for s in scores if s["target"] == target and metric in s["metrics"]]
    first = own[0]["method"]
    found = seed_differences(own, subject=first)
    return {first: 0.0} | {d.rival: -d.mean for d in found if d.metric == metric}


def _best(ahead: dict[str, float]) -> list[str]:
    return [method for method, by in ahead.items() if by == max(ahead.values())]


def _marked(table: Table, ahead: Sequence[dict[str, float]]) -> Table:
    """Marks the best method's mean and gain, for each metric; none where all are equal."""
    best = {
        (line, column)
        for number, by_method in enumerate(ahead)
        for line, cells in enumerate(table.body)
        for column in range(FIXED_COLUMNS + 2 * number, FIXED_COLUMNS + 2 * number + 2)
        if cells[0] in _best(by_method) and cells[column]
        if len(_best(by_method)) < len(by_method)
    }
    return dataclasses.replace(table, best=frozenset(best))


def verdict(scores: Sequence[dict], target: str, metric: str, ahead: dict[str, float]) -> str:
    """Says who is best, and whether its lead over g2is, or over the next, could be chance."""
    name, best = _capital(title(metric)), _best(ahead)
    if len(best) == len(ahead) > 1:
        return f"{name}: all methods are equal."
    cells = {(cell.method, cell.target, cell.metric): cell for cell in aggregate(scores)}
    own = cells[best[0], target, metric]
    value = spread(own.mean, own.stderr)
    if len(best) > 1:
        text = f"{name}: {', '.join(best[:-1])} and {best[-1]} are best, equal at {value}."
    else:
        text = f"{name}: {best[0]} is best at {value}."
    others = {method: by for method, by in ahead.items() if method not in best}
    if not others:
        return text
    leader = SUBJECT if SUBJECT in best else best[0]
    behind = max(others, key=others.__getitem__)
    if SUBJECT in others:
        behind = SUBJECT
    wanted = (target, metric, behind)
    gaps = seed_differences(scores, leader)
    (gap,) = (d for d in gaps if (d.target, d.metric, d.rival) == wanted)
    which = "loses to it" if behind == SUBJECT else "is the next, behind it"
    if len(best) > 1:
        which = which.replace("it", "them")
    return f"{text} {behind} {which} by {gap.mean:.3f}{_chance(gap)}"


def _capital(name: str) -> str:
    return f"{name[:1].upper()}{name[1:]}"


def _chance(gap: SeedDifference) -> str:
    """Ends a sentence with what the interval of a difference says."""
    if gap.low is None or gap.high is None:
        return "; with one seed there is no interval, so this may be chance."
    interval = f" ({PERCENT} interval {gap.low:+.3f} to {gap.high:+.3f}, {gap.seeds} seeds)"
    if gap.low <= 0:  # the mean is not below zero, so the other end is above it
        return f"{interval}: the interval includes zero, so this may be chance."
    return f"{interval}: the interval excludes zero."


def _drawn(cells: Sequence[Cell]) -> Picture:
    """Draws a point for each method, with a bar of two standard errors."""
    name = title(cells[0].metric)
    bars = " with two standard errors" if any(cell.stderr for cell in cells) else ""

    def paint(axis) -> None:
        shown = cells[::-1]
        for height, cell in enumerate(shown):
            colour = ACCENT if cell.method == SUBJECT else GREY
            error = 2 * (cell.stderr or 0.0) or None
            axis.errorbar(cell.mean, height, xerr=error, fmt="o", color=colour, capsize=3)
        axis.set_yticks(range(len(shown)), [cell.method for cell in shown])
        axis.set_xlabel(name)
        axis.grid(axis="x", alpha=0.25)

    return draw(paint, f"{_capital(name)}, {cells[0].target}: mean{bars}.", 0.9 + 0.24 * len(cells))
