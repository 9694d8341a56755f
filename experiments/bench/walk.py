"""The walk from features to rows: against a stored graph in NumPy, its memory, and its growth.

    python -m experiments.bench.walk --rows=10000 --width=2048 --case=conflict --output=bench.json

Parts, by commas: `graph` (against all cosines in float32 by NumPy and a plain walk on them, which
chooses the same rows or the run stops), `memory` (the process's peak while it walks, over the bytes
of the features), `front` (the default walk, which goes on within a front of candidates, against the
same with a read of the features for each row) and `growth` (exponents of time against rows, width
and budget, of walks that relax the rules rather than end before their budget). Cases: `benign`
(rows in all directions with a weak one in common), `conflict` (clusters against each other, so that
walks often end) and `fallback` (loose clusters and stored lists of --neighbours, so that a third of
the rows or more are of the whole pool for want of a valid neighbour, or the `graph` part stops).
Both sides of `fallback` get the same lists, and making them is in neither's time. Sides run
in turns; ratios are of calls of the same round; compilation is in no time.

The other side of `graph` holds 4 N^2 bytes and two copies of the features: 11.0 GB with the
process's own for 50,000 rows of 1,024.
"""

import ctypes
import dataclasses
import functools
import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs import default
from experiments.bench.plain_walk import plain_walk
from experiments.bench.timing import (
    alternate,
    check_settings,
    growth_with,
    heading,
    launch,
    measured,
    paired_ratio,
    ranged,
)
from g2is_jax.features.rows import DTYPES, Rows, quantised
from g2is_jax.pipeline.selection_settings import read_selection
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import aligned_array
from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.core import KnowledgeConfig, core_knowledge
from g2is_jax.selection.neighbours import neighbours
from g2is_jax.selection.walk import select
from g2is_jax.selection.walk.rules import WalkConfig

PARTS, CASES = ("graph", "memory", "front", "growth"), ("benign", "conflict", "fallback")
STEPS = (0.25, 0.5, 1.0, 2.0)
VALIDATION, COMMON, CLUSTERS = 64, 0.05, 16
SPREAD = {"conflict": 4.0, "fallback": 12.0}  # of a cluster, over its centre's length
FALLBACK_SHARE = 1 / 3
DELTA = 0.8


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    parts: of graph, memory, front and growth, by commas
    case: benign, conflict or fallback
    dtype: type of the rows
    rows, width, components: N, P and C
    neighbours: E in the case fallback
    budget: share of the rows to choose
    slots: components side by side, 0 for as many as the walk itself takes
    threads: cores to use
    repeats: rounds
    """

    parts: str = "graph,memory"
    case: str = "benign"
    dtype: str = "float32"
    rows: int = 10000
    width: int = 2048
    components: int = 8
    neighbours: int = 10
    budget: float = 0.01
    slots: int = 0
    threads: int = 1
    repeats: int = 5

    def __post_init__(self):
        positive = ("rows", "width", "components", "neighbours", "threads", "repeats")
        check_settings(self, PARTS, positive)
        if self.case not in CASES:
            raise InputError(f"--case: {self.case!r} is none of {', '.join(CASES)}")
        if not 1 / self.rows <= self.budget <= 1:
            raise InputError(f"--budget is {self.budget}; from one row to the whole pool (1.0)")
        if self.components > min(VALIDATION - 1, self.width):
            raise InputError(f"--components is {self.components}; at most {VALIDATION - 1} and P")
        if self.case == "fallback" and self.neighbours >= self.rows:
            raise InputError(f"--neighbours is {self.neighbours}; less than --rows={self.rows}")


def run(config: BenchConfig) -> dict:
    """Measures each part; with the machine and the versions that it was done on."""
    parts: dict[str, Callable] = {
        "graph": against_graph,
        "memory": memory,
        "front": front,
        "growth": growth,
    }
    return measured(config, parts, ("jax", "numpy"))


@dataclass(frozen=True)
class Problem:
    """Features in the type that is asked for, directions of a target, rows to choose, and the
    stored lists of neighbours where the case has them."""

    rows: Any
    core: Any
    budget: int
    near_NE: np.ndarray | None

    def walk(self, slots: int, on_exhausted: str = "stop") -> Any:
        count = len(self.rows)
        budget = limits(
            BudgetConfig(self.budget, "rows", 1.0), np.ones(count, int), np.zeros(count, int)
        )
        rules = WalkConfig(
            DELTA, "current", 0.0, 0.0, 1.0, on_exhausted, "components", 0.0, 0.0, 0.0
        )
        return select.gradient_walk(
            self.rows, self.core, budget, rules, self.near_NE, slots=slots or None
        )


def problem(config: BenchConfig) -> Problem:
    """Draws the seeded problem; its features lie where jax can take them over without a copy."""
    draw = functools.partial(drawn, config.case, config.width, np.random.default_rng(0))
    rows = stored(draw, config.rows, config.width, config.dtype)
    knowledge = KnowledgeConfig(True, "mean", "count", config.components, True, "components")
    core = core_knowledge(draw(VALIDATION), knowledge)
    near_NE = neighbours(rows, config.neighbours)[0] if config.case == "fallback" else None
    return Problem(rows, core, max(1, round(config.budget * config.rows)), near_NE)


def stored(draw: Callable[[int], np.ndarray], count: int, width: int, dtype: str) -> Rows:
    """Draws rows block by block into the type of a store."""
    values_NP = aligned_array((count, width), DTYPES[dtype])
    scales_N = np.ones(count, np.float32) if dtype == "int8" else None
    for start in range(0, count, 1024):
        block = slice(start, min(start + 1024, count))
        rows = Rows(*quantised(draw(block.stop - start), dtype))
        values_NP[block] = rows.values_NP
        if scales_N is not None and rows.scales_N is not None:
            scales_N[block] = rows.scales_N
    return Rows(values_NP, scales_N)


def drawn(case: str, width: int, rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws unit rows of the case."""
    seeded = np.random.default_rng(1)  # the same directions for every draw
    rows_NP = rng.standard_normal((count, width), dtype=np.float32)
    if case == "benign":
        rows_NP += np.float32(COMMON) * np.sign(seeded.standard_normal(width)).astype("f4")
    else:
        half_HP = seeded.standard_normal((CLUSTERS // 2, width), dtype=np.float32)
        centres_CP = np.concatenate([half_HP, -half_HP]) / np.float32(SPREAD[case])
        rows_NP += centres_CP[rng.integers(CLUSTERS, size=count)]
    return rows_NP / np.linalg.norm(rows_NP, axis=1, keepdims=True)


def against_graph(config: BenchConfig) -> dict:
    """Times both sides from features to rows; RuntimeError if they choose differently."""
    posed = problem(config)
    features_NP = posed.rows[:]
    ours = posed.walk(config.slots)
    budgets_C = [component["budget"] for component in ours.summary["components"]]
    reasons = [pick.reason for pick in ours.picks]
    if config.case == "fallback" and reasons.count("fallback") < FALLBACK_SHARE * len(reasons):
        raise InputError(
            f"--case=fallback: only {reasons.count('fallback')} of {len(reasons)} rows are of the"
            " whole pool; ask for more by --budget, or for fewer --neighbours or --components"
        )
    plain = functools.partial(
        plain_walk, features_NP, posed.core.core_CP, budgets_C, DELTA, posed.near_NE
    )
    if plain() != ours.rows:
        raise RuntimeError(
            f"the plain walk chose other rows; our closest decision was "
            f"{ours.summary['closest_decision']} from turning"
        )
    sides: dict[str, Callable[[], object]] = {
        "ours": functools.partial(posed.walk, config.slots),
        "plain": plain,
    }
    seconds = alternate(sides, config.repeats)
    reported = ("passes", "rolled_back", "closest_decision", "rows", "budget")
    return {
        "seconds": seconds,
        "faster": paired_ratio(seconds["plain"], seconds["ours"]),
        "reasons": {name: reasons.count(name) for name in sorted(set(reasons))},
        **{name: ours.summary[name] for name in reported},
    }


def memory(config: BenchConfig) -> dict:
    """Returns the peak of resident memory during a compiled walk, without what was there beside
    the features before it."""
    posed = problem(config)
    posed.walk(config.slots)
    size = posed.rows.values_NP.nbytes
    beside = peak_beside(functools.partial(posed.walk, config.slots))
    return {"features": size, "beside": beside, "peak_over_features": 1 + beside / size}


def peak_beside(call: Callable[[], object]) -> int:
    """Returns the bytes of resident memory that a call takes at most, beside what was there."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = status("VmRSS")
    call()
    return status("VmHWM") - before


def status(field: str) -> int:
    """Returns a field of the system's status of this process, in bytes."""
    with open("/proc/self/status") as lines:
        found = next(line for line in lines if line.startswith(field + ":"))
    return int(found.split()[1]) * 1024


def front(config: BenchConfig) -> dict:
    """Times the front against whole reads; RuntimeError if they choose differently."""
    settings = read_selection(default.get_config()).walks["g2is"]
    posed = problem(config)
    validation_MP = drawn(config.case, config.width, np.random.default_rng(2), VALIDATION)
    core = core_knowledge(validation_MP, settings.knowledge)
    ones_N = np.ones(len(posed.rows), int)
    budget = limits(BudgetConfig(posed.budget, "rows", 1.0), ones_N, 0 * ones_N)

    def choose(front_rows: int) -> Any:
        select.FRONT = front_rows
        return select.gradient_walk(posed.rows, core, budget, settings.walk)

    sides = {
        "front": functools.partial(choose, select.FRONT),
        "whole": functools.partial(choose, len(posed.rows)),
    }
    found = {side: call() for side, call in sides.items()}
    if found["front"].rows != found["whole"].rows:
        closest = found["whole"].summary["closest_decision"]
        raise RuntimeError(f"the front chooses other rows; closest decision {closest}")
    seconds = alternate(sides, config.repeats)
    return {
        "rows": len(found["front"].rows),
        "directions": len(core.core_CP),
        "passes": {side: selection.summary["passes"] for side, selection in found.items()},
        "seconds": seconds,
        "faster": paired_ratio(seconds["whole"], seconds["front"]),
    }


def growth(config: BenchConfig) -> dict:
    """Returns the exponents of our time against N, P and the number of chosen rows."""
    chosen = max(1, round(config.budget * config.rows))

    def scaled(field: str, step: float) -> BenchConfig:
        size = max(1, round(getattr(config, field) * step))
        changed = dataclasses.replace(config, **{field: size})
        return dataclasses.replace(changed, budget=chosen / changed.rows)

    found = {}
    for name in ("rows", "width"):
        settings = {s: scaled(name, s) for s in STEPS if scaled_fits(config, name, s, chosen)}
        found[name] = exponent({getattr(c, name): problem(c) for c in settings.values()}, config)
    posed = problem(config)
    budgets = {max(1, round(chosen * step)) for step in STEPS}
    sizes = {b: dataclasses.replace(posed, budget=b) for b in sorted(budgets) if b <= config.rows}
    found["budget"] = exponent(sizes, config)
    return found


def scaled_fits(config: BenchConfig, field: str, step: float, chosen: int) -> bool:
    size = getattr(config, field) * step
    return size >= (chosen if field == "rows" else config.components)


def exponent(problems: dict[int, Problem], config: BenchConfig) -> dict:
    """Times walks of these sizes, in turns."""
    walks = {
        size: functools.partial(sized.walk, config.slots, "relax")
        for size, sized in problems.items()
    }
    passes = {size: walk().summary["passes"] for size, walk in walks.items()}
    return {"passes": list(passes.values()), **growth_with(walks, config.repeats)}


def table(result: dict) -> str:
    """Summarises a result in a few lines."""
    s = result["settings"]
    lines = [heading(result)]
    lists = f", lists of {s['neighbours']} neighbours" if s["case"] == "fallback" else ""
    lines.append(f"{s['case']}: {s['rows']:,} {s['dtype']} rows of {s['width']:,}{lists}")
    if "graph" in result:
        found = result["graph"]
        lines.append(
            f"{found['rows']} of {found['budget']} rows in {found['passes']} passes: we took "
            f"{statistics.median(found['seconds']['ours']):.3f} s, the stored graph in NumPy "
            f"{statistics.median(found['seconds']['plain']):.3f} s, {ranged(found['faster'])} "
            f"times as long; reasons {found['reasons']}"
        )
    if "memory" in result:
        lines.append(f"peak memory {result['memory']['peak_over_features']:.3f} of the features'")
    if "front" in result:
        found = result["front"]
        lines.append(
            f"{found['rows']} rows for {found['directions']} directions in "
            f"{found['passes']['front']} reads, {statistics.median(found['seconds']['front']):.3f} "
            f"s; with {found['passes']['whole']} reads {ranged(found['faster'])} times as long"
        )
    for name, found in result.get("growth", {}).items():
        shapes = "; ".join(
            f"{size:,}: {seconds:.3f} s, {passes} passes"
            for size, seconds, passes in zip(
                found["sizes"], found["seconds"], found["passes"], strict=True
            )
        )
        lines.append(f"growth with {name}: exponent {found['exponent']:.2f} ({shapes})")
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
