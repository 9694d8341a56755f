"""The settings of a sweep against the methods that read none of its fields."""

from collections.abc import Mapping, Sequence

import numpy as np

from g2is_jax.evaluation.compare import REFERENCE, SeedDifference, seed_differences
from g2is_jax.evaluation.tasks.reply_metrics import LOSS
from g2is_jax.report.page.blocks import Table

Way = tuple[float, float]  # mean over targets, and the worst target's


def compared(
    entries: Sequence[dict], rivals: Sequence[dict]
) -> tuple[list[SeedDifference], dict[str, Way]]:
    """Compares each method and setting with each rival on each target and metric, paired by seed;
    and says how far each has come. Empty where there is no rival."""
    if not rivals:
        return [], {}
    own = [entry | {"method": f"{entry['method']}, {entry['setting']}"} for entry in entries]
    differences = [
        difference
        for subject in dict.fromkeys(score["method"] for score in own)
        for difference in seed_differences(
            [*(score for score in own if score["method"] == subject), *rivals], subject
        )
    ]
    return differences, ways([*rivals, *own])


def ways(scores: Sequence[dict]) -> dict[str, Way]:
    """The share of the way from `random` to the least loss of all methods that each has gone.

    Of losses averaged over seeds; targets where nothing is better than `random` do not count. Empty
    where there is no `random`, or no loss.
    """
    losses: dict[str, dict[str, float]] = {}
    for target in dict.fromkeys(score["target"] for score in scores):
        losses[target] = _mean_losses([score for score in scores if score["target"] == target])
    shares: dict[str, list[float]] = {}
    for of in losses.values():
        start, best = of.get(REFERENCE, np.nan), min(of.values(), default=np.nan)
        if start > best:
            for method, loss in of.items():
                shares.setdefault(method, []).append((start - loss) / (start - best))
    return {method: (float(np.mean(of)), min(of)) for method, of in shares.items()}


def _mean_losses(scores: Sequence[dict]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for score in scores:
        if LOSS in score["metrics"]:
            found.setdefault(score["method"], []).append(score["metrics"][LOSS])
    return {method: float(np.mean(of)) for method, of in found.items()}


def rival_tables(differences: Sequence[SeedDifference], way: Mapping[str, Way]) -> dict[str, Table]:
    """A table for each rival, with a line for each setting; and one of the ways from `random`."""
    tables = {}
    for rival in dict.fromkeys(d.rival for d in differences):
        of = [d for d in differences if d.rival == rival]
        cells = {(d.subject, d.target, d.metric): _cell(d) for d in of}
        columns = list(dict.fromkeys((d.target, d.metric) for d in of))
        tables[f"Better than {rival} by"] = Table(
            ["setting", *(f"{target}: {metric}" for target, metric in columns)],
            [
                [subject, *(cells.get((subject, *column), "") for column in columns)]
                for subject in dict.fromkeys(d.subject for d in of)
            ],
        )
    if way:
        tables["Share of the way from random to the least loss"] = Table(
            ["method or setting", "mean over targets", "worst target"],
            [[method, f"{mean:.2f}", f"{worst:.2f}"] for method, (mean, worst) in way.items()],
        )
    return tables


def _cell(found: SeedDifference) -> str:
    if found.low is None:
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} ({found.low:+.3f}..{found.high:+.3f})"
