"""A selection from more rows than anyone has at hand: seconds and memory of the command itself.

    python -m experiments.bench.scale --rows=1000000 --width=1024 --budget=0.005
    python -m experiments.bench.scale --rows=1000000 --width=1024 --budget=0.005 \\
        --memory=memory,disk --limit=1.5

Random rows are written into a store, chunk by chunk; then `select_subset` chooses from it, in a
process of its own whose time and peak memory count, from its start to its end: reading and
checking the store, compiling, the walk, and writing the selection. Left on disk, the rows are put
in order first.
"""

import dataclasses
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from etils import epath

from experiments.bench.timing import check_settings, heading, launch, measured, timed
from experiments.bench.walk import CASES, VALIDATION, drawn
from experiments.bench.written_store import write_chunks
from g2is_jax.features.ordered import MEMORY
from g2is_jax.runs.errors import InputError

GB = 1e9
CHUNK_ROWS = 8192
ITEMSIZE = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    case: kind of rows, as in the benchmark of the walk
    dtype: type of the store
    rows, width: N and P
    budget: share of the rows to choose
    methods: names by commas
    memory: values of `selection.memory` to choose with, by commas
    limit: GB that a command with rows on disk may take beside files that it maps (RLIMIT_DATA); 0:
        all
    threads: cores to use
    folder: where the store lies, a temporary folder if empty
    """

    case: str = "conflict"
    dtype: str = "float32"
    rows: int = 1_000_000
    width: int = 1_024
    budget: float = 0.005
    methods: str = "g2is"
    memory: str = "memory"
    limit: float = 0.0
    threads: int = 2
    folder: str = ""

    def __post_init__(self):
        check_settings(self, ("write", *MEMORY), ("rows", "width", "threads"))
        if self.case not in CASES:
            raise InputError(f"--case: {self.case!r} is none of {', '.join(CASES)}")

    @property
    def parts(self) -> str:
        return f"write,{self.memory}"


def run(config: BenchConfig) -> dict:
    """Measures each part; with the machine and the versions that it was done on."""
    with tempfile.TemporaryDirectory(dir=config.folder or None) as folder:
        placed = dataclasses.replace(config, folder=folder)
        selects = {memory: functools.partial(select, memory) for memory in MEMORY}
        result = measured(placed, {"write": write, **selects}, ("jax", "numpy"))
    chosen = [result[memory].pop("chosen") for memory in MEMORY if memory in result]
    return result | {"common": common(chosen)}


def common(chosen: list[dict[str, list[int]]]) -> dict[str, list[int]]:
    """Returns, for each selection, how many rows all commands chose, and how many of these are the
    same in order from the first on."""
    found = {}
    for name in chosen[0]:
        rows = [of_command[name] for of_command in chosen]
        in_order = itertools.takewhile(lambda row: len({*row}) == 1, zip(*rows, strict=False))
        found[name] = [len(set(rows[0]).intersection(*rows)), len(list(in_order))]
    return found


def write(config: BenchConfig) -> dict:
    """Writes the store of the pool, and the validation rows."""
    folder, rng = Path(config.folder), np.random.default_rng(0)
    np.save(folder / "validation.npy", drawn(config.case, config.width, rng, VALIDATION))
    store = epath.Path(folder / "store")

    def compute(place: slice) -> np.ndarray:
        return drawn(config.case, config.width, rng, place.stop - place.start)

    seconds, _ = timed(lambda: write_chunks(store, config.rows, config.dtype, CHUNK_ROWS, compute))
    size = sum(file.stat().st_size for file in (folder / "store").iterdir())
    return {"seconds": seconds, "bytes": size}


def select(memory: str, config: BenchConfig) -> dict:
    """Returns the command's own seconds and peak memory, its report of each method, and the hash of
    what each chose."""
    folder = Path(config.folder)
    workdir = folder / f"out-{memory}"
    flags = {
        "config": "configs/default.py",
        "workdir": workdir,
        "train_features": folder / "store",
        "validation_features": folder / "validation.npy",
        "config.run.methods": config.methods,
        "config.selection.budget": config.budget,
        "config.selection.unit": "fraction",
        "config.selection.memory": memory,
    }
    command = [sys.executable, "-m", "experiments.select_subset"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    if config.limit and memory == "disk":  # the command's own, and that of no other process
        limit = int(config.limit * GB)
        command = ["prlimit", f"--data={limit}:{limit}", *command]
    seconds, peak = timed(lambda: peak_of(command))
    stages = sorted(workdir.glob("stages/selection-*"))
    manifests = [json.loads((stage / "manifest.json").read_text()) for stage in stages]
    return {
        "seconds": seconds,
        "peak": peak,
        "methods": dict(map(summary_of, manifests)),
        "chosen": {
            manifest["settings"]["method"]: chosen_in(stage)
            for stage, manifest in zip(stages, manifests, strict=True)
        },
    }


def peak_of(command: list[str]) -> int:
    """Runs a command; returns its peak memory in bytes, pages of files that it maps among them."""
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return 1024 * used.ru_maxrss


def chosen_in(stage: Path) -> list[int]:
    """Returns the rows of a selection, in order."""
    lines = (stage / "selection.jsonl").read_text().splitlines()
    return [json.loads(line)["row"] for line in lines]


def summary_of(manifest: dict) -> tuple[str, dict]:
    """Returns a selection's method and its seconds, those of compiling among them."""
    summary = {name: manifest[name] for name in ("seconds", "compile_seconds")}
    counts = ("rows", "passes", "closest_decision")
    summary |= {name: manifest["counts"].get(name) for name in counts}
    return manifest["settings"]["method"], summary


def table(result: dict) -> str:
    """Returns a line for the store, one for each command, and one for each of its methods."""
    s, written = result["settings"], result["write"]
    features = s["rows"] * s["width"] * ITEMSIZE[s["dtype"]]
    lines = [
        heading(result),
        f"{s['case']}: {s['rows']:,} {s['dtype']} rows of {s['width']:,}, {features / GB:.2f} GB",
        f"written in {written['seconds']:.0f} s ({written['bytes'] / GB:.2f} GB on disk)",
    ]
    commands = {memory: result[memory] for memory in MEMORY if memory in result}
    for memory, selected in commands.items():
        lines.append(
            f"select_subset, memory = {memory}: {selected['seconds']:.0f} s, peak memory "
            f"{selected['peak'] / GB:.2f} GB, {selected['peak'] / features:.2f} of the features'"
        )
        for method, found in selected["methods"].items():
            reads = f" in {found['passes']} reads of the features" if found["passes"] else ""
            closest = found["closest_decision"]
            margin = "" if closest is None else f"; closest decision {closest:.0e}"
            lines.append(
                f"  {method}: {found['rows']:,} rows{reads}, {found['seconds']:.0f} s, of which "
                f"{found['compile_seconds']:.0f} s compiling{margin}"
            )
    if len(commands) > 1:
        for name, (count, in_order) in result["common"].items():
            lines.append(f"{name}: {count:,} rows in common, the first {in_order:,} in order")
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
