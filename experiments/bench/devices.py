"""One job on one device, on several, and by several processes: what differs between the results.

    python -m experiments.bench.devices --config=configs/tiny.py

A layout is PROCESSESxDEVICES, of virtual devices on the same cores. Each layout runs `run_all` in a
work folder of its own, and is compared with the first one's. With --same_warmup the others start
from the first one's warm-up: what then differs in the features is the gradient pass's own.
"""

import dataclasses
import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from etils import epath

from experiments.bench.timing import free_port, heading, launch, machine, timed, versions
from g2is_jax.features.store import open_store
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import read_tensors

ROOT = Path(__file__).parents[2]
SPLIT = "--xla_force_host_platform_device_count="
ADAPTER = "adapter/adapter_model.safetensors"


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    config, flags: what `run_all` is started with
    layouts: some PROCESSESxDEVICES, by commas
    same_warmup: start the other layouts from the first one's warm-up
    threads: cores to use
    """

    config: str = "configs/tiny.py"
    flags: str = ""
    layouts: str = "1x1,1x8,2x4"
    same_warmup: bool = False
    threads: int = 2

    def __post_init__(self):
        _ = self.shapes

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The processes of each layout, and the devices of each of its processes."""
        try:
            found = {name: tuple(map(int, name.split("x"))) for name in self.layouts.split(",")}
            if any(len(shape) != 2 or min(shape) < 1 for shape in found.values()):
                raise ValueError
        except ValueError as error:
            raise InputError(f"--layouts={self.layouts}: give some as 1x1,1x8,2x4") from error
        return {name: (shape[0], shape[1]) for name, shape in found.items()}


def run(config: BenchConfig) -> dict:
    """Returns the seconds of each layout, and what differs from the first one's results."""
    layouts = {}
    with tempfile.TemporaryDirectory() as scratch:
        first = None
        for name, (processes, devices) in config.shapes.items():
            folder = Path(scratch) / name
            if first and config.same_warmup:
                for stage in first.glob("stages/w*-*"):  # the world and the warm-ups
                    shutil.copytree(stage, folder / "stages" / stage.name)
            flags = [f"--config={config.config}", f"--workdir={folder}", *shlex.split(config.flags)]
            seconds, _ = timed(functools.partial(run_all, flags, processes, devices))
            layouts[name] = {"seconds": seconds, **(differences(folder, first) if first else {})}
            first = first or folder
    return {
        "settings": dataclasses.asdict(config),
        "machine": machine(),
        "versions": versions(jax, np),
        "layouts": layouts,
    }


def run_all(flags: list[str], processes: int, devices: int) -> None:
    """Runs all processes of one run; RuntimeError with what one printed where it fails."""
    command = [sys.executable, "-m", "experiments.run_all", *flags]
    if processes > 1:
        coordinator = f"--coordinator=localhost:{free_port()}"
        command += ["--distributed", coordinator, f"--processes={processes}"]
    variables = os.environ | {"XLA_FLAGS": f"{SPLIT}{devices}"}
    started = [
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
    printed = [process.communicate()[0] for process in started]
    for process, text in zip(started, printed, strict=True):
        if process.returncode:
            raise RuntimeError(f"{shlex.join(command)} ended with {process.returncode}:\n{text}")


def differences(folder: Path, expected: Path) -> dict:
    """Returns what differs between the finished stages of two work folders.

    features, adapters, losses: the largest difference; largest: of the adapters' values.
    selections, replies: how many differ, of how many. KeyError where a stage is missing.
    """
    found: dict = {name: 0.0 for name in ("features", "adapters", "largest", "losses")}
    found |= {name: [0, 0] for name in ("selections", "replies")}
    for ours, theirs in _stages(folder, expected):
        kind = ours.name.partition("-")[0]
        if kind in ("features", "hidden"):
            mine, other = (open_store(epath.Path(stage)).read()[:] for stage in (ours, theirs))
            found["features"] = max(found["features"], float(np.abs(mine - other).max()))
        elif kind in ("warmup", "finetune"):
            adapters = [read_tensors(epath.Path(stage / ADAPTER)) for stage in (ours, theirs)]
            of_mine, of_other = adapters
            apart = [float(np.abs(of_mine[path] - of_other[path]).max()) for path in of_other]
            largest = [float(np.abs(leaf).max()) for leaf in of_other.values()]
            found["adapters"] = max(found["adapters"], *apart)
            found["largest"] = max(found["largest"], *largest)
        elif kind == "selection":
            chosen = [(stage / "selected.jsonl").read_bytes() for stage in (ours, theirs)]
            _count(found["selections"], [chosen[0] != chosen[1]])
        elif kind == "evaluate":
            files = [stage / "rows.jsonl" for stage in (ours, theirs)]
            rows = list(zip(*map(_rows, files), strict=True))
            apart = [abs((mine["loss"] or 0) - (other["loss"] or 0)) for mine, other in rows]
            found["losses"] = max(found["losses"], *apart)
            _count(found["replies"], [a.get("reply") != b.get("reply") for a, b in rows])
    return found


def _stages(folder: Path, expected: Path) -> Iterator[tuple[Path, Path]]:
    """Yields the stages of both, without the features put in order, which are copies."""
    ours, names = (
        sorted(stage.name for stage in (of / "stages").iterdir() if "ordered-" not in stage.name)
        for of in (folder, expected)
    )
    if ours != names:
        raise KeyError(f"{folder} has the stages {ours}, {expected} {names}")
    return ((folder / "stages" / name, expected / "stages" / name) for name in names)


def _count(found: list[int], differ: list[bool]) -> None:
    found[0] += sum(differ)
    found[1] += len(differ)


def _rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def table(result: dict) -> str:
    """Returns a line a layout."""
    lines = [heading(result)]
    for name, found in result["layouts"].items():
        line = f"  {name}: {found['seconds']:.0f} s"
        if "features" in found:
            line += (
                f"; selections that differ {_share(found['selections'])}, features by at most "
                f"{found['features']:.1e}, adapters {found['adapters']:.1e} (largest value "
                f"{found['largest']:.2g}), losses {found['losses']:.1e}; "
                f"replies {_share(found['replies'])}"
            )
        lines.append(line)
    return "\n".join(lines)


def _share(counts: list[int]) -> str:
    return f"{counts[0]} of {counts[1]}"


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
