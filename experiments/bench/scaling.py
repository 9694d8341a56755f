"""Weak scaling over virtual devices: as many rows more as devices, on the same cores.

    python -m experiments.bench.scaling --parts=pass,walk

Virtual devices share the cores, so n of them with n times the rows take n times as long at best.
The efficiency is that over what it takes: 1 where the devices cost nothing, less for what they lose
to each other, more where several of them use a core better than one. Rounds go in turns over the
numbers of devices; compilation is in no time.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from configs import default
from experiments.bench.models import FLOAT32, features_of, full_batch, read_subject
from experiments.bench.timing import (
    alternate,
    check_settings,
    heading,
    launch,
    measured,
    paired_ratio,
    ranged,
)
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.pipeline.selection_settings import read_selection
from g2is_jax.runs.mesh import DATA
from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.core import core_knowledge
from g2is_jax.selection.walk.select import gradient_walk

PARTS = ("pass", "walk")
SPLIT = "--xla_force_host_platform_device_count="
DIRECTIONS = 16


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    parts: of pass and walk, by commas
    model: `skills`, `random` or a folder
    rank: rank of its adapter
    batch, tokens: rows of the pass on each device, and their length
    rows, width: rows of the walk on each device, and P of both parts
    chosen: rows that the walk takes
    devices: the most of them, from 1 on by doubling
    threads: cores to use
    repeats: rounds
    """

    parts: str = "pass,walk"
    model: str = "skills"
    rank: int = 8
    batch: int = 16
    tokens: int = 64
    rows: int = 20_000
    width: int = 2_048
    chosen: int = 50
    devices: int = 8
    threads: int = 1
    repeats: int = 5

    def __post_init__(self):
        positive = ("rank", "batch", "tokens", "rows", "width", "chosen", "devices", "threads")
        check_settings(self, PARTS, (*positive, "repeats"))

    @property
    def counts(self) -> list[int]:
        """The numbers of devices to compare."""
        return [2**power for power in range(self.devices.bit_length())]


def run(config: BenchConfig) -> dict:
    """Measures each part; with the machine and the versions that it was done on."""
    wanted = f"{os.environ.get('XLA_FLAGS', '')} {SPLIT}{config.counts[-1]}"
    os.environ["XLA_FLAGS"] = wanted.strip()  # read when jax first computes
    parts: dict[str, Callable] = {"pass": measure_pass, "walk": measure_walk}
    return measured(config, parts, ("jax", "numpy"))


def measure_pass(config: BenchConfig) -> dict:
    """Times a batch of the gradient pass."""
    subject = read_subject(config.model, config.rank, FLOAT32)
    projection = ProjectionConfig("sketch", config.width, repetitions=1)

    def on(count: int) -> Callable[[], object]:
        function, inputs = features_of(subject, "rms", projection, first_devices(count))
        batch = full_batch(subject, config.batch * count, config.tokens)
        return lambda: jax.block_until_ready(function(inputs, *batch))

    return efficiency(on, config)


def measure_walk(config: BenchConfig) -> dict:
    """Times the default walk, towards all directions at once."""
    settings = read_selection(default.get_config()).walks["g2is"]
    draws = np.random.default_rng(0)
    core = core_knowledge(units(draws, DIRECTIONS, config.width), settings.knowledge)

    def on(count: int) -> Callable[[], object]:
        rows_NP = units(draws, config.rows * count, config.width)
        ones_N = np.ones(len(rows_NP), int)
        budget = limits(BudgetConfig(config.chosen, "rows", 1.0), ones_N, 0 * ones_N)
        walk = functools.partial(gradient_walk, mesh=first_devices(count))
        return lambda: walk(rows_NP, core, budget, settings.walk)

    return efficiency(on, config)


def units(draws: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Draws random unit rows."""
    rows_NP = draws.standard_normal((count, width), dtype=np.float32)
    return rows_NP / np.linalg.norm(rows_NP, axis=1, keepdims=True)


def first_devices(count: int) -> Mesh:
    """Returns a mesh of so many devices."""
    devices = jax.devices()[:count]
    return jax.make_mesh((count,), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def efficiency(on: Callable[[int], Callable[[], object]], config: BenchConfig) -> dict:
    """Returns n times the seconds of one device over those of n, by n."""
    calls = {count: on(count) for count in config.counts}
    for call in calls.values():
        call()
    seconds = alternate(calls, config.repeats)
    return {
        "seconds": seconds,
        "efficiency": {
            count: paired_ratio([count * one for one in seconds[1]], seconds[count])
            for count in config.counts[1:]
        },
    }


def table(result: dict) -> str:
    """Returns a line for each part and number of devices."""
    s = result["settings"]
    titles = {
        "pass": f"gradient pass, {s['batch']} rows of {s['tokens']} tokens a device",
        "walk": f"walk, {s['rows']:,} rows of {s['width']:,} a device, {s['chosen']} chosen",
    }
    lines = [heading(result)]
    for part in s["parts"].split(","):
        lines += ["", titles[part]]
        lines += [
            f"  {count} devices: {ranged(ratio, 2)}"
            for count, ratio in result[part]["efficiency"].items()
        ]
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
