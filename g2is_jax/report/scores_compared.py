"""Tables of kept scores: all methods at a glance, one against all others, and shared rows."""

from collections.abc import Sequence

import numpy as np

from g2is_jax.evaluation.compare import (
    SUBJECT,
    RowDifference,
    group_scores,
    row_differences,
    standard_error,
)
from g2is_jax.report.composition import jaccard
from g2is_jax.report.page.blocks import Table
from g2is_jax.report.results_table import spread

MEAN = "mean"


def case_of(score: dict) -> tuple[str, str, int]:
    """Returns what a score is of: target, method and seed."""
    return score["target"], score["method"], score["seed"]


def overview(scores: Sequence[dict], metric: str) -> Table:
    """Makes a line a method: rows, tokens, mean and standard error over seeds on each target."""
    groups = group_scores(scores)
    targets = list(dict.fromkeys(score["target"] for score in scores))
    lines = []
    for method in dict.fromkeys(score["method"] for score in scores):
        own = [groups.get((method, target, metric), {}) for target in targets]
        cost = [
            f"{np.mean([score[name] for of in own for score in of.values()]):,.0f}"
            for name in ("rows", "tokens", "seconds")
        ]
        values = [[score["metrics"][metric] for score in of.values()] for of in own]
        shown = [spread(float(np.mean(v)), standard_error(v)) if v else "" for v in values]
        mean = f"{np.mean([np.mean(v) for v in values]):.3f}" if all(values) else ""
        seeds = len({score["seed"] for of in own for score in of.values()})
        lines.append([method, str(seeds), *cost, *shown, mean])
    return Table(["method", "seeds", "rows", "tokens", "seconds", *targets, MEAN], lines)


def against_all(scores: Sequence[dict], metric: str, subject: str = SUBJECT) -> Table:
    """Makes a line a rival: by how much `subject` is better, paired by seed and test row.

    The interval is of drawing seeds and test rows anew, of each target and of their mean.
    """
    rivals = [m for m in dict.fromkeys(score["method"] for score in scores) if m != subject]
    found = [
        difference
        for difference in row_differences(scores, rivals)
        if difference.method == subject and difference.metric == metric
    ]
    targets = list(dict.fromkeys(difference.target for difference in found))
    lines = []
    for rival in rivals:
        own = {d.target: d for d in found if d.rival == rival}
        if own:
            lines.append([rival, *(_text(own.get(target)) for target in targets)])
    return Table([f"{subject} against", *targets], lines)


def shared_rows(scores: Sequence[dict], others: Sequence[dict]) -> Table:
    """Makes a line a method: the Jaccard index of its rows in two files of scores, by target."""
    theirs = {case_of(score): score["chosen"] for score in others if score["chosen"]}
    both = [score for score in scores if case_of(score) in theirs]
    targets = list(dict.fromkeys(score["target"] for score in both))
    lines = []
    for method in dict.fromkeys(score["method"] for score in both):
        cells = []
        for target in targets:
            of_seeds = [
                jaccard(score["chosen"], theirs[case_of(score)])
                for score in both
                if (score["method"], score["target"]) == (method, target)
            ]
            cells.append(f"{np.mean(of_seeds):.2f}" if of_seeds else "")
        lines.append([method, *cells])
    return Table(["method", *targets], lines)


def _text(found: RowDifference | None) -> str:
    return "" if found is None else f"{found.mean:+.3f} ({found.low:+.3f}..{found.high:+.3f})"
