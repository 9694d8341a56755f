"""One job on one device, on several, and by several processes: what differs between the results.

    python -m experiments.bench_devices --config=configs/tiny.py

A layout is PROCESSESxDEVICES, of virtual devices on the same cores. Each layout runs `run_all` in a
work folder of its own, and is compared with the first one's. With --same_warmup the others begin
with the first one's warm-up: what then differs in the features is the gradient pass's own.
"""

import dataclasses
import functools
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from etils import epath

from experiments.bench.timing import heading, launch, machine, pin, timed, versions
from g2is_jax.features.store import open_store
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import read_tensors

ROOT = Path(__file__).parents[2]
SPLIT = "--xla_force_host_platform_device_count="
ADAPTER = "adapter/adapter_model.safetensors"


@dataclass(frozen=True)
class BenchConfig:
    """config, flags: of `run_all`; layouts: by commas; same_warmup: as above; threads: cores."""

    config: str
    flags: str
    layouts: str
    same_warmup: bool
    threads: int

    def __post_init__(self):
        _ = self.shapes

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(processes, devices of each) of each layout."""
        try:
            found = {of: tuple(map(int, of.split("x"))) for of in self.layouts.split(",")}
            if any(len(shape) != 2 or min(shape) < 1 for shape in found.values()):
                raise ValueError
        except ValueError as error:
            raise InputError(f"--layouts={self.layouts}: give some as 1x1,1x8,2x4") from error
        return {name: (shape[0], shape[1]) for name, shape in found.items()}


def run(config: BenchConfig) -> dict:
    """Seconds of each layout, and what differs from the first one's results."""
    cores = pin(config.threads)
    told = {}
    with tempfile.TemporaryDirectory() as scratch:
        first = None
        for name, (processes, devices) in config.shapes.items():
            folder = Path(scratch) / name
            if first and config.same_warmup:
                for stage in first.glob("stages/w*-*"):  # the world and the warm-ups
                    shutil.copytree(stage, folder / "stages" / stage.name)
            flags = [f"--config={config.config}", f"--workdir={folder}", *shlex.split(config.flags)]
            seconds, _ = timed(functools.partial(run_all, flags, processes, devices))
            told[name] = {"seconds": seconds, **(differences(folder, first) if first else {})}
            first = first or folder
    import jax

    return {
        "settings": dataclasses.asdict(config),
        "machine": machine(cores),
        "versions": versions(jax, np),
        "layouts": told,
    }


def run_all(flags: list[str], processes: int, devices: int) -> None:
    """All processes of one run; RuntimeError with its last words where one of them fails."""
    command = [sys.executable, "-m", "experiments.run_all", *flags]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        command += ["--distributed", f"--coordinator=localhost:{port}", f"--processes={processes}"]
    variables = os.environ | {"XLA_FLAGS": f"{SPLIT}{devices}"}
    begun = [
        subprocess.Popen(
            command + [f"--process={process}"] * (processes > 1),
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(processes)
    ]
    said = [one.communicate()[0] for one in begun]
    for one, text in zip(begun, said, strict=True):
        if one.returncode:
            raise RuntimeError(f"{shlex.join(command)} ended with {one.returncode}:\n{text}")


def differences(folder: Path, expected: Path) -> dict:
    """Of the finished stages of two work folders.

    features, adapters, losses: the largest difference; largest: of the adapters' values.
    selections, replies: how many differ, of how many. KeyError where a stage is missing.
    """
    found: dict = {name: 0.0 for name in ("features", "adapters", "largest", "losses")}
    found |= {name: [0, 0] for name in ("selections", "replies")}
    for ours, theirs in _stages(folder, expected):
        kind = ours.name.partition("-")[0]
        if kind in ("features", "hidden"):
            mine, other = (open_store(epath.Path(one)).read()[:] for one in (ours, theirs))
            found["features"] = max(found["features"], float(np.abs(mine - other).max()))
        elif kind in ("warmup", "finetune"):
            of_mine, of_other = (read_tensors(epath.Path(one / ADAPTER)) for one in (ours, theirs))
            apart = [float(np.abs(of_mine[path] - of_other[path]).max()) for path in of_other]
            largest = [float(np.abs(leaf).max()) for leaf in of_other.values()]
            found["adapters"] = max(found["adapters"], *apart)
            found["largest"] = max(found["largest"], *largest)
        elif kind == "selection":
            chosen = [(one / "selected.jsonl").read_bytes() for one in (ours, theirs)]
            _count(found["selections"], [chosen[0] != chosen[1]])
        elif kind == "evaluate":
            rows = list(zip(*(_rows(one / "rows.jsonl") for one in (ours, theirs)), strict=True))
            apart = [abs((mine["loss"] or 0) - (other["loss"] or 0)) for mine, other in rows]
            found["losses"] = max(found["losses"], *apart)
            _count(found["replies"], [a.get("reply") != b.get("reply") for a, b in rows])
    return found


def _stages(folder: Path, expected: Path) -> Iterator[tuple[Path, Path]]:
    names = sorted(stage.name for stage in (expected / "stages").iterdir())
    ours = sorted(stage.name for stage in (folder / "stages").iterdir())
    if ours != names:
        raise KeyError(f"{folder} has the stages {ours}, {expected} {names}")
    return ((folder / "stages" / name, expected / "stages" / name) for name in names)


def _count(found: list[int], differ: list[bool]) -> None:
    found[0] += sum(differ)
    found[1] += len(differ)


def _rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def table(result: dict) -> str:
    """A line a layout."""
    lines = [heading(result)]
    for name, of in result["layouts"].items():
        told = f"  {name}: {of['seconds']:.0f} s"
        if "features" in of:
            told += (
                f"; selections that differ {_of(of['selections'])}, features by at most "
                f"{of['features']:.1e}, adapters {of['adapters']:.1e} (largest value "
                f"{of['largest']:.2g}), losses {of['losses']:.1e}; replies {_of(of['replies'])}"
            )
        lines.append(told)
    return "\n".join(lines)


def _of(counts: list[int]) -> str:
    return f"{counts[0]} of {counts[1]}"


def main() -> None:
    launch(run, BenchConfig("configs/tiny.py", "", "1x1,1x8,2x4", False, 2), table)


if __name__ == "__main__":
    main()
