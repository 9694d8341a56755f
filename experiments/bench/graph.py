"""The stored graph: time of the exact sorted nearest rows against NumPy, and its growth.

    python -m experiments.bench.graph --rows=10000 --width=2048 --output=bench.json

Parts, by commas: `numpy` (against a product, a partition and a sort of blocks of the same size,
which finds the same neighbours or the run stops) and `growth` (exponents of time against rows,
width and neighbours). Sides run in turns; ratios are of calls of the same round; compilation is in
no time.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass

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
from g2is_jax.features.rows import Rows, quantised
from g2is_jax.runs.errors import InputError
from g2is_jax.selection import neighbours

PARTS = ("numpy", "growth")
STEPS = (0.25, 0.5, 1.0, 2.0)
SAME = 2e-6  # similarities that are nearer than this may change places


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    parts: of numpy and growth, by commas
    dtype: type of the stored rows
    rows, width, neighbours: N, P and E
    threads: cores to use
    repeats: rounds
    """

    parts: str = "numpy,growth"
    dtype: str = "float32"
    rows: int = 8000
    width: int = 1024
    neighbours: int = 100
    threads: int = 1
    repeats: int = 5

    def __post_init__(self):
        positive = ("rows", "width", "neighbours", "threads", "repeats")
        check_settings(self, PARTS, positive)
        if self.neighbours >= self.rows:
            raise InputError(f"--neighbours is {self.neighbours}; less than --rows={self.rows}")


def run(config: BenchConfig) -> dict:
    """Measures each part; with the machine and the versions that it was done on."""
    parts: dict[str, Callable] = {"numpy": against_numpy, "growth": growth}
    return measured(config, parts, ("jax", "numpy"))


def ours(config: BenchConfig) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Returns a call that finds the neighbours of seeded rows."""
    rows = Rows(*quantised(drawn(config), config.dtype))
    return functools.partial(neighbours.neighbours, rows, config.neighbours)


def drawn(config: BenchConfig) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((config.rows, config.width), dtype=np.float32)


def plain(features_NP: np.ndarray, E: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns indices and cosines of the E nearest rows, by blocks, sorted; equal ones by lower
    index (at the E-th place any of them)."""
    block = neighbours.BLOCK
    units_NP = features_NP / np.linalg.norm(features_NP, axis=1, keepdims=True)
    found = []
    for start in range(0, len(units_NP), block):
        cosines_BN = units_NP[start : start + block] @ units_NP.T
        itself_B = np.arange(len(cosines_BN))
        cosines_BN[itself_B, start + itself_B] = -np.inf
        nearest_BE = np.argpartition(-cosines_BN, E - 1, axis=1)[:, :E]
        nearest_BE.sort(axis=1)
        cosines_BE = np.take_along_axis(cosines_BN, nearest_BE, axis=1)
        order_BE = np.argsort(-cosines_BE, axis=1, kind="stable")
        found.append([np.take_along_axis(x, order_BE, axis=1) for x in (nearest_BE, cosines_BE)])
    indices, cosines = zip(*found, strict=True)
    return np.concatenate(indices), np.concatenate(cosines)


def against_numpy(config: BenchConfig) -> dict:
    """Times both sides; RuntimeError if they find other neighbours."""
    features_NP = Rows(*quantised(drawn(config), config.dtype))[:]
    found_NE, cosines_NE = ours(config)()
    expected_NE, expected_cosines_NE = plain(features_NP, config.neighbours)
    apart = float(np.abs(cosines_NE - expected_cosines_NE).max())
    if apart > SAME:
        raise RuntimeError(f"NumPy's neighbours are another set: cosines {apart} apart")
    sides: dict[str, Callable[[], object]] = {
        "ours": ours(config),
        "numpy": functools.partial(plain, features_NP, config.neighbours),
    }
    seconds = alternate(sides, config.repeats)
    return {
        "seconds": seconds,
        "faster": paired_ratio(seconds["numpy"], seconds["ours"]),
        "largest_difference": apart,
        "same_places": float((found_NE == expected_NE).mean()),
    }


def growth(config: BenchConfig) -> dict:
    """Returns the exponents of our time; against rows a product of all with all has 2."""
    found = {}
    for name in ("rows", "width", "neighbours"):
        sizes = [max(1, round(getattr(config, name) * step)) for step in STEPS]
        scaled = [dataclasses.replace(config, **{name: n}) for n in sizes if fits(config, name, n)]
        calls = {getattr(c, name): ours(c) for c in scaled}
        for first in calls.values():
            first()
        found[name] = growth_with(calls, config.repeats)
    return found


def fits(config: BenchConfig, name: str, size: int) -> bool:
    rows = size if name == "rows" else config.rows
    return (size if name == "neighbours" else config.neighbours) < rows


def table(result: dict) -> str:
    """Summarises a result in a few lines."""
    s = result["settings"]
    lines = [heading(result)]
    lines.append(
        f"{s['neighbours']:,} neighbours of {s['rows']:,} {s['dtype']} rows of {s['width']:,}"
    )
    if "numpy" in result:
        found = result["numpy"]
        lines.append(
            f"{statistics.median(found['seconds']['ours']):.3f} s; NumPy "
            f"{statistics.median(found['seconds']['numpy']):.3f} s, {ranged(found['faster'])} "
            f"times as long; cosines at most {found['largest_difference']:.1e} apart"
        )
    for name, found in result.get("growth", {}).items():
        shapes = ", ".join(
            f"{size:,}: {seconds:.3f} s"
            for size, seconds in zip(found["sizes"], found["seconds"], strict=True)
        )
        lines.append(f"growth with {name}: exponent {found['exponent']:.2f} ({shapes})")
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
