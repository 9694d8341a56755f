"""Core knowledge against scikit-learn's PCA: time, how far the directions are apart, growth.

    python -m experiments.bench.knowledge --output=bench.json

Parts, by commas: `pca` (of float32 rows, as the paper's preset asks for them; scikit-learn's full
solver on the same values in float64, the precision that ours has, and in float32) and `growth`
(exponents of time against the number of rows and their width). Sides run in turns; ratios are of
calls of the same round.
"""

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.core import KnowledgeConfig, core_knowledge

PARTS = ("pca", "growth")
SKLEARN = ("float64", "float32")
STEPS = (0.25, 0.5, 1.0, 2.0)  # of the rows and of the width
MANY = (4, 8, 16, 32)  # times as many rows as they are wide: the covariance is the smaller one
DECAY = 0.99  # of the standard deviation from one direction to the next
NOISE = 0.5  # in every direction


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    parts: of pca and growth, by commas
    rows, width: M and P
    narrow: P where there are many more rows
    keep: share of the variance to explain
    threads: cores to use
    repeats: rounds
    """

    parts: str = "pca,growth"
    rows: int = 1500
    width: int = 8192
    narrow: int = 512
    keep: float = 0.5
    threads: int = 1
    repeats: int = 5

    def __post_init__(self):
        numbers = ("rows", "width", "narrow", "threads", "repeats")
        check_settings(self, PARTS, numbers)
        if self.rows < 8 or self.width < 8:
            raise InputError(f"--rows is {self.rows}, --width {self.width}; at least 8 of each")
        if not 0 < self.keep < 1:
            raise InputError(f"--keep is {self.keep}; it must be above 0 and below 1")


def run(config: BenchConfig) -> dict:
    """Measures each part; with the machine and the versions that it was done on."""
    parts: dict[str, Callable] = {"pca": against_sklearn, "growth": growth}
    return measured(config, parts, ("numpy", "sklearn"))


def features(rows: int, width: int) -> Any:
    """Returns float32 rows (M, P) with a mean, a spectrum that decays, and noise."""
    rng = np.random.default_rng(0)
    rank = min(rows, width, 300)
    scores = rng.normal(size=(rows, rank), scale=math.sqrt(width)) * DECAY ** np.arange(rank)
    directions = rng.normal(size=(rank, width)) / math.sqrt(width)
    noise = NOISE * rng.normal(size=(rows, width))
    return (scores @ directions + noise + rng.normal(size=width)).astype(np.float32)


def ours(features_MP: Any, keep: float) -> Any:
    """Returns the core that the paper's preset makes."""
    pca = KnowledgeConfig(True, "svd", "variance", keep, False, "components")
    return core_knowledge(features_MP, pca)


def theirs(features_MP: Any, keep: float) -> Any:
    from sklearn.decomposition import PCA

    return PCA(keep, svd_solver="full").fit(features_MP)


def against_sklearn(config: BenchConfig) -> dict:
    """Returns seconds, paired ratios, and the largest difference of any value of a direction."""
    features_MP = features(config.rows, config.width)
    inputs = {dtype: features_MP.astype(dtype) for dtype in SKLEARN}
    sides: dict[str, Callable[[], Any]] = {"ours": lambda: ours(features_MP, config.keep)}
    for dtype in SKLEARN:
        sides[dtype] = functools.partial(theirs, inputs[dtype], config.keep)
    core, pca = sides["ours"](), sides["float64"]()
    if core.core_CP.shape != pca.components_.shape:
        raise ValueError(f"directions {core.core_CP.shape}, scikit-learn's {pca.components_.shape}")
    seconds = alternate(sides, config.repeats)
    return {
        "knowledge": core.summary(),
        "largest_difference": float(np.abs(core.core_CP - pca.components_).max()),
        "seconds": seconds,
        "faster": {dtype: paired_ratio(seconds[dtype], seconds["ours"]) for dtype in SKLEARN},
    }


def growth(config: BenchConfig) -> dict:
    """Returns seconds and exponents of our side, for shapes in turns.

    Fewer rows than values: time is a M^2 P + b M^3. More: a M P^2 + b P^3.
    """
    rows = [round(step * config.rows) for step in STEPS]
    widths = [round(step * config.width) for step in STEPS]
    return {
        "rows": exponent_of([(m, config.width) for m in rows], rows, config),
        "width": exponent_of([(config.rows, p) for p in widths], widths, config),
        "many_rows": exponent_of(
            [(times * config.narrow, config.narrow) for times in MANY],
            [times * config.narrow for times in MANY],
            config,
        ),
    }


def exponent_of(
    shapes: Sequence[tuple[int, int]], sizes: Sequence[int], config: BenchConfig
) -> dict:
    calls = {
        size: functools.partial(ours, features(*shape), config.keep)
        for size, shape in zip(sizes, shapes, strict=True)
    }
    return {"shapes": list(shapes), **growth_with(calls, config.repeats)}


def table(result: dict) -> str:
    """Summarises a result in a few lines."""
    s = result["settings"]
    lines = [heading(result)]
    if "pca" in result:
        found = result["pca"]
        lines.append(
            f"\n{s['rows']:,} rows of {s['width']:,}, {found['knowledge']['components']} "
            f"components: {statistics.median(found['seconds']['ours']):.2f} s; largest difference "
            f"to scikit-learn {found['largest_difference']:.1e}"
        )
        for dtype, ratio in found["faster"].items():
            seconds = statistics.median(found["seconds"][dtype])
            lines.append(f"scikit-learn in {dtype}: {seconds:.2f} s, ratio {ranged(ratio, 2)}")
    if "growth" in result:
        lines.append("")
        for name, found in result["growth"].items():
            shapes = ", ".join(
                f"{m:,}x{p:,} {time:.2f} s"
                for (m, p), time in zip(found["shapes"], found["seconds"], strict=True)
            )
            words = name.replace("_", " ")
            lines.append(f"growth with {words}: exponent {found['exponent']:.2f} ({shapes})")
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
