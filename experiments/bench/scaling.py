"""Weak scaling over virtual devices and processes: as many rows more, on the same cores.

    python -m experiments.bench.scaling --parts=pass,walk,processes

Virtual devices share the cores, so n of them with n times the rows take n times as long at best.
The efficiency is that over what it takes: 1 where the devices cost nothing, less for what they lose
to each other, more where several of them use a core better than one. Rounds go in turns over the
numbers of devices; compilation is in no time. Processes of one device each map a file of the rows,
of which each reads its share.
"""

import os
import subprocess
import sys
import tempfile
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
    free_port,
    heading,
    launch,
    measured,
    paired_ratio,
    ranged,
    timed,
)
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.features.rows import Rows
from g2is_jax.pipeline.selection_settings import read_selection
from g2is_jax.runs.mesh import DATA, selection_mesh
from g2is_jax.runs.processes import start
from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.core import core_knowledge
from g2is_jax.selection.walk.select import gradient_walk

PARTS = ("pass", "walk", "processes")
WALK = "import sys; from experiments.bench.scaling import timed_walk; timed_walk(*sys.argv[1:])"
SPLIT = "--xla_force_host_platform_device_count="
DIRECTIONS = 16


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    parts: of pass, walk and processes, by commas
    model: `skills`, `random` or a folder
    rank: rank of its adapter
    batch, tokens: rows of the pass on each device, and their length
    rows, width: rows of the walk on each device, and P of both parts
    chosen: rows that the walk takes
    devices, processes: the most of them, from 1 on by doubling
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
    processes: int = 4
    threads: int = 1
    repeats: int = 5

    def __post_init__(self):
        positive = ("rank", "batch", "tokens", "rows", "width", "chosen", "devices", "threads")
        check_settings(self, PARTS, (*positive, "processes", "repeats"))


def doubling(most: int) -> list[int]:
    """Returns the numbers to compare."""
    return [2**power for power in range(most.bit_length())]


def run(config: BenchConfig) -> dict:
    """Measures each part; with the machine and the versions that it was done on."""
    wanted = f"{os.environ.get('XLA_FLAGS', '')} {SPLIT}{doubling(config.devices)[-1]}"
    os.environ["XLA_FLAGS"] = wanted.strip()  # read when jax first computes
    parts: dict[str, Callable] = {
        "pass": measure_pass,
        "walk": measure_walk,
        "processes": measure_processes,
    }
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
    draws = np.random.default_rng(0)

    def on(count: int) -> Callable[[], object]:
        rows = Rows(units(draws, config.rows * count, config.width))
        return walk_of(rows, config.chosen, first_devices(count))

    return efficiency(on, config)


def walk_of(rows: Rows, chosen: int, mesh: Mesh | None) -> Callable[[], object]:
    """Returns a call of the default walk, towards as many random directions as ever."""
    settings = read_selection(default.get_config()).walks["g2is"]
    own_CP = units(np.random.default_rng(1), DIRECTIONS, rows.shape[1])
    core = core_knowledge(own_CP, settings.knowledge)
    ones_N = np.ones(len(rows), int)
    budget = limits(BudgetConfig(chosen, "rows", 1.0), ones_N, 0 * ones_N)
    return lambda: gradient_walk(rows, core, budget, settings.walk, mesh=mesh)


def measure_processes(config: BenchConfig) -> dict:
    """Times the same walk by processes, which are started anew for each round."""
    counts = doubling(config.processes)
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder:
        draws = np.random.default_rng(0)
        for count in counts:
            rows_NP = units(draws, config.rows * count, config.width)
            rows_NP.tofile(f"{folder}/{count}")
        for _ in range(config.repeats):
            for count in counts:
                seconds[count].append(walked_by(count, f"{folder}/{count}", config))
    return of_one(seconds)


def walked_by(processes: int, file: str, config: BenchConfig) -> float:
    """Returns the seconds that processes take for a walk together, as the first of them says."""
    numbers = (config.width, config.chosen, free_port(), processes)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WALK, file, *map(str, numbers), str(process)],
            env=os.environ | {"XLA_FLAGS": f"{SPLIT}1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]
    printed = [process.communicate()[0] for process in started]
    return float(printed[0].splitlines()[-1])


def timed_walk(file: str, width: str, chosen: str, port: str, count: str, index: str) -> None:
    """Prints the seconds of a second walk, as one of several processes."""
    if int(count) > 1:
        start(f"localhost:{port}", int(count), int(index))
    rows = Rows(np.memmap(file, np.float32, "r").reshape(-1, int(width)))
    if int(count) == 1:
        rows = Rows(np.array(rows.values_NP))
    walk = walk_of(rows, int(chosen), selection_mesh())
    walk()
    print(timed(walk)[0])


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
    calls = {count: on(count) for count in doubling(config.devices)}
    for call in calls.values():
        call()
    return of_one(alternate(calls, config.repeats))


def of_one(seconds: dict[int, list[float]]) -> dict:
    """Returns the seconds of each number, and n times those of one over them."""
    return {
        "seconds": seconds,
        "efficiency": {
            count: paired_ratio([count * one for one in seconds[1]], own)
            for count, own in seconds.items()
            if count > 1
        },
    }


def table(result: dict) -> str:
    """Returns a line for each part and number of devices or processes."""
    s = result["settings"]
    titles = {
        "pass": f"gradient pass, {s['batch']} rows of {s['tokens']} tokens a device",
        "walk": f"walk, {s['rows']:,} rows of {s['width']:,} a device, {s['chosen']} chosen",
        "processes": f"the same walk by processes, {s['rows']:,} rows each",
    }
    lines = [heading(result)]
    for part in s["parts"].split(","):
        lines += ["", titles[part]]
        lines += [
            f"  {count}: {ranged(ratio, 2)}" for count, ratio in result[part]["efficiency"].items()
        ]
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
