"""Rivals beside round-robin: seconds and memory of each on the same rows.

    python -m experiments.bench.rivals --rows=10000 --width=8192 --validation=100 --budget=500

Random rows in memory, as in the benchmark of the walk. Each rival chooses once for its memory (the
process's peak while it does so, without what was there before it), then --repeats times for its
seconds, all in turns. Ratios are of calls of the same round.
"""

import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from experiments.bench.timing import (
    alternate,
    check_settings,
    heading,
    launch,
    measured,
    paired_ratio,
    ranged,
)
from experiments.bench.walk import CASES, drawn, peak_beside, stored
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import BudgetConfig, Selection, limits
from g2is_jax.selection.rivals.bids import bids
from g2is_jax.selection.rivals.gip import gip
from g2is_jax.selection.rivals.less import less_rr
from g2is_jax.selection.rivals.tsds import tsds_kde, tsds_knn
from g2is_jax.selection.rivals.uot import uot

BESIDE = "less_rr"  # what the others are measured against
RIVALS: dict[str, Callable[..., Selection]] = {
    BESIDE: less_rr,
    "bids": bids,
    "tsds_knn": tsds_knn,
    "tsds_kde": tsds_kde,
    "uot": uot,
    "gip": gip,
}


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    case: kind of rows, as in the benchmark of the walk
    dtype: type of the pool's rows
    rows, width, validation: N, P and M
    budget: rows to choose
    threads: cores to use
    repeats: rounds
    """

    case: str = "conflict"
    dtype: str = "bfloat16"
    rows: int = 10_000
    width: int = 8_192
    validation: int = 100
    budget: int = 500
    threads: int = 1
    repeats: int = 3

    def __post_init__(self):
        positive = ("rows", "width", "validation", "budget", "threads", "repeats")
        check_settings(self, (self.parts,), positive)
        if self.case not in CASES:
            raise InputError(f"--case: {self.case!r} is none of {', '.join(CASES)}")

    @property
    def parts(self) -> str:
        return "rivals"


def run(config: BenchConfig) -> dict:
    """Measures the rivals; with the machine and the versions that it was done on."""
    return measured(config, {"rivals": side_by_side}, ("numpy",))


def side_by_side(config: BenchConfig) -> dict:
    """Returns the seconds of each rival's calls and the bytes it takes beside the features."""
    draw = functools.partial(drawn, config.case, config.width, np.random.default_rng(0))
    pool = stored(draw, config.rows, config.width, config.dtype)
    validation_MP = draw(config.validation)
    ones_N = np.ones(config.rows, int)
    budget = limits(BudgetConfig(config.budget, "rows", 1.0), ones_N, ones_N)
    sides = {
        name: functools.partial(choose, pool, validation_MP, budget)
        for name, choose in RIVALS.items()
    }
    beside = {name: peak_beside(side) for name, side in sides.items()}
    return {"bytes": beside, "seconds": alternate(sides, config.repeats)}


def table(result: dict) -> str:
    """Returns a Markdown table with a line for each rival."""
    seconds, beside = result["rivals"]["seconds"], result["rivals"]["bytes"]
    s = result["settings"]
    lines = [
        heading(result),
        f"{s['case']}: {s['budget']:,} of {s['rows']:,} {s['dtype']} rows of {s['width']:,}, "
        f"{s['validation']:,} validation rows",
        "",
        f"| rival | seconds | of {BESIDE}'s | MB beside the features |",
        "| --- | --- | --- | --- |",
    ]
    for name, own in seconds.items():
        ratio = ranged(paired_ratio(own, seconds[BESIDE]), 1)
        median = statistics.median(own)
        lines.append(f"| `{name}` | {median:,.1f} | {ratio} | {beside[name] / 1e6:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
