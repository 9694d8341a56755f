"""A selection from more rows than anyone has at hand: seconds and memory of the command itself.

    python -m experiments.bench.scale --rows=1000000 --width=1024 --budget=0.005
    python -m experiments.bench.scale --rows=1000000 --width=1024 --budget=0.005 --memory=disk \\
        --limit=1.5

Random rows are written into a store, chunk by chunk; then `select_subset` chooses from it, in a
process of its own whose time and peak memory count, from its start to its end: reading and
checking the store, compiling, the walk, and writing the selection.
"""

import dataclasses
import json
import resource
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
    memory: `selection.memory`
    limit: GB of memory that the command may take beside files that it maps (RLIMIT_DATA); 0: all
    threads: cores to use
    folder: where the store lies, a temporary folder if empty
    """

    case: str = "conflict"
    dtype: str = "float32"
    rows: int = 1_000_000
    width: int = 1_024
    budget: float = 0.005
    methods: str = "g2is"
    memory: str = "auto"
    limit: float = 0.0
    threads: int = 2
    folder: str = ""

    def __post_init__(self):
        check_settings(self, ("write", "select"), ("rows", "width", "threads"))
        if self.case not in CASES:
            raise InputError(f"--case: {self.case!r} is none of {', '.join(CASES)}")

    @property
    def parts(self) -> str:
        return "write,select"


def run(config: BenchConfig) -> dict:
    """Measures each part; with the machine and the versions that it was done on."""
    with tempfile.TemporaryDirectory(dir=config.folder or None) as folder:
        placed = dataclasses.replace(config, folder=folder)
        return measured(placed, {"write": write, "select": select}, ("jax", "numpy"))


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


def select(config: BenchConfig) -> dict:
    """Returns the command's own seconds and peak memory, and its report of each method."""
    folder = Path(config.folder)
    flags = {
        "config": "configs/default.py",
        "workdir": folder / "out",
        "train_features": folder / "store",
        "validation_features": folder / "validation.npy",
        "config.run.methods": config.methods,
        "config.selection.budget": config.budget,
        "config.selection.unit": "fraction",
        "config.selection.memory": config.memory,
    }
    command = [sys.executable, "-m", "experiments.select_subset"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    if config.limit:  # the command's own, and that of no other process
        limit = int(config.limit * GB)
        command = ["prlimit", f"--data={limit}:{limit}", *command]
    seconds, _ = timed(lambda: subprocess.run(command, check=True, cwd=Path(__file__).parents[2]))
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    selections = (folder / "out/stages").glob("selection-*/manifest.json")
    manifests = [json.loads(file.read_text()) for file in selections]
    return {"seconds": seconds, "peak": peak, "methods": dict(map(summary_of, manifests))}


def summary_of(manifest: dict) -> tuple[str, dict]:
    """Returns a selection's method and its seconds, those of compiling among them."""
    summary = {name: manifest[name] for name in ("seconds", "compile_seconds")}
    summary |= {name: manifest["counts"].get(name) for name in ("rows", "passes")}
    return manifest["settings"]["method"], summary


def table(result: dict) -> str:
    """Returns a line for the store, one for the command, and one for each method."""
    s, written, selected = result["settings"], result["write"], result["select"]
    features = s["rows"] * s["width"] * ITEMSIZE[s["dtype"]]
    lines = [
        heading(result),
        f"{s['case']}: {s['rows']:,} {s['dtype']} rows of {s['width']:,}, {features / GB:.2f} GB",
        f"written in {written['seconds']:.0f} s ({written['bytes'] / GB:.2f} GB on disk)",
        f"select_subset: {selected['seconds']:.0f} s, peak memory {selected['peak'] / GB:.2f} GB, "
        f"{selected['peak'] / features:.2f} of the features'",
    ]
    for method, found in selected["methods"].items():
        reads = f" in {found['passes']} reads of the features" if found["passes"] else ""
        lines.append(
            f"  {method}: {found['rows']:,} rows{reads}, {found['seconds']:.0f} s, of which "
            f"{found['compile_seconds']:.0f} s compiling"
        )
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
