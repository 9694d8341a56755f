"""Each method against `random` and `less`, with intervals over seeds and test rows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath

from g2is_jax.evaluation.compare import bootstrap_interval
from g2is_jax.evaluation.tasks.reply_metrics import title
from g2is_jax.report.page.blocks import Table
from g2is_jax.report.page.markdown import table_lines
from g2is_jax.report.results_table import CONFIDENCE, PERCENT, paired_scores, sign_of
from g2is_jax.runs.storage import write_atomic

RIVALS = ("random", "less")
AGAINST = (
    "How much better each method is than another one at the same seed, on the same test row: mean, "
    f"and {PERCENT} interval from drawing seeds and rows anew"
)


@dataclass(frozen=True)
class Against:
    """How much better a method is than a rival: more is better, whatever the metric.

    The mean over the seeds both have and the test rows that count for both; low and high bound it
    as far as other seeds and other test rows could change it.
    """

    method: str
    rival: str
    target: str
    metric: str
    mean: float
    low: float
    high: float
    seeds: int
    rows: int


def against(scores: Sequence[dict]) -> list[Against]:
    """Of scores with `per_row`: of each metric a value for each test row, or None."""
    found = []
    for rival in RIVALS:
        for method, target, metric, pairs in paired_scores(scores, rival):
            told = (metric in one.get("per_row", {}) for pair in pairs for one in pair)
            if method == rival or not all(told):
                continue
            sign = sign_of(metric, pairs[0][0])
            gains_SM = sign * np.array([_by_row(*pair, metric) for pair in pairs])
            counted_M = np.isfinite(gains_SM).all(axis=0)
            if not counted_M.any():
                continue
            gains_SM = gains_SM[:, counted_M]
            low, high = bootstrap_interval(gains_SM, CONFIDENCE)
            mean = float(gains_SM.mean())
            found.append(Against(method, rival, target, metric, mean, low, high, *gains_SM.shape))
    return found


def _by_row(own: dict, theirs: dict, metric: str) -> np.ndarray:
    """The difference on each test row; nan where one of them has no value."""
    one_M, other_M = (np.array(of["per_row"][metric], np.float64) for of in (own, theirs))
    return one_M - other_M


def against_table(found: Sequence[Against]) -> Table:
    """A line a method, a column a target, metric and rival."""
    columns = list(dict.fromkeys((one.target, one.metric, one.rival) for one in found))
    head = ["method"]
    head += [f"{target}: {title(name).split(' (')[0]}, {rival}" for target, name, rival in columns]
    body = []
    for method in dict.fromkeys(one.method for one in found):
        own = {(one.target, one.metric, one.rival): one for one in found if one.method == method}
        body.append([method, *(_told(own.get(column)) for column in columns)])
    return Table(head, body)


def _told(one: Against | None) -> str:
    return "" if one is None else f"{one.mean:+.3f} ({one.low:+.3f}..{one.high:+.3f})"


def write_against(scores: Sequence[dict], folder: epath.Path) -> str:
    """Write `against.json` and `against.md`; the Markdown is returned."""
    found = against(scores)
    write_atomic(folder / "against.json", json.dumps([vars(one) for one in found], indent=2) + "\n")
    lines = [f"{AGAINST}.", "", *table_lines(against_table(found))] if found else []
    text = "\n".join(lines) + "\n"
    write_atomic(folder / "against.md", text)
    return text
