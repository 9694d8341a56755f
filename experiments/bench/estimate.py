"""What a dry run reckons for this machine, beside what the stages then take: seconds and memory.

    python -m experiments.bench_estimate --parts=random,demo

Jobs: `random`, a Llama of 25 million parameters with random weights on some hundred rows of the
built-in world; `demo`, configs/tiny.py. The reckoning and each stage have a process of their own,
kept to one core. Seconds are of that process's work, which what else the core does leaves alone,
and of a second run of the stage, for which everything is compiled. Memory is the most that the
process holds in the first run, compiling included.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.bench.timing import check_settings, heading, launch, measured, pin
from g2is_jax.runs.errors import InputError

if TYPE_CHECKING:  # imported late: cores are pinned first
    from ml_collections import ConfigDict

    from g2is_jax.pipeline.datasets import Dataset
    from g2is_jax.pipeline.job import Job

JOBS = ("random", "demo")
GROUPS = {  # stage of the table -> name of its folders
    "warm-up": "warmup",
    "pool gradients": "features",
    "validation gradients": "features",
    "walk": "selection",
    "fine-tune": "finetune",
    "evaluate": "evaluate",
}


@dataclass(frozen=True)
class BenchConfig:
    """parts: jobs, as above; rows: of the pool, about; tests: rows of test; threads: cores;
    repeats: of each timed run."""

    parts: str
    rows: int
    tests: int
    threads: int
    repeats: int

    def __post_init__(self):
        check_settings(self, JOBS, ("rows", "tests", "threads", "repeats"))


def run(config: BenchConfig) -> dict:
    """Of each job's stages, what was reckoned and what was measured."""
    jobs = {name: lambda config, name=name: of_job(name, config) for name in JOBS}
    return measured(config, jobs, ("jax", "numpy"))


def of_job(name: str, config: BenchConfig) -> dict:
    """Of each stage, reckoned and measured: seconds, and bytes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        job = demo_config(config) if name == "demo" else random_config(folder / "base", config)
        (folder / "config.json").write_text(job.to_json())
        reckoned = in_child("reckon", folder, config)
        return {
            stage: {
                "reckoned": reckoned["stages"][stage],
                "measured": in_child("stage", folder, config, stage),
            }
            for stage in reckoned["stages"]
        } | {"machine": reckoned["machine"]}


def demo_config(config: BenchConfig) -> "ConfigDict":
    """configs/tiny.py on so many rows."""
    from configs import tiny

    job = tiny.get_config()
    _of_size(job, config)
    return job


def _of_size(job: "ConfigDict", config: BenchConfig) -> None:
    from g2is_jax.skills.instructions import POOL_ROWS

    job.world.scale = config.rows / sum(POOL_ROWS.values())
    job.world.test_rows = config.tests


def random_config(base: Path, config: BenchConfig) -> "ConfigDict":
    """configs/tiny.py with a random model of 25 million parameters, whose checkpoint is written."""
    import shutil

    import jax.numpy as jnp
    import numpy as np
    from etils import epath

    from configs import tiny
    from experiments.bench.models import RANDOM, read_subject
    from g2is_jax.model.weights import write_checkpoint
    from g2is_jax.skills.world import BASE_FOLDER

    base.mkdir()
    for file in BASE_FOLDER.iterdir():
        if file.name.startswith(("tokenizer", "special")):
            shutil.copy(file, base / file.name)
    subject = read_subject("random", 8)
    weights = {path: np.asarray(leaf) for path, leaf in subject.base.items()}
    shapes = subject.model.base_shapes
    write_checkpoint(epath.Path(base), RANDOM, shapes, weights.__getitem__, jnp.float32)
    job = tiny.get_config()
    _of_size(job, config)
    job.model.checkpoint = str(base)
    job.projection.kind = "sketch"
    job.run.methods = "none,random,less,g2is"
    job.finetune.epochs = 2
    job.evaluate.new_tokens = 32
    return job


def in_child(what: str, folder: Path, config: BenchConfig, stage: str = "") -> dict:
    """What `child` prints, in a process of its own."""
    code = (
        "from experiments.bench_estimate import child; "
        f"child({what!r}, {str(folder)!r}, {stage!r}, {config.threads}, {config.repeats})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InputError(f"--parts: {what} {stage} failed (see above)")
    return json.loads(done.stdout.splitlines()[-1])


def child(what: str, folder: str, stage: str, threads: int, repeats: int) -> None:
    """Reckon, or run a stage of the job in this folder, and print what came out as JSON."""
    pin(threads)
    from ml_collections import ConfigDict

    config = ConfigDict(json.loads((Path(folder) / "config.json").read_text()))
    found = reckon(config) if what == "reckon" else take(config, folder, stage, repeats)
    print("\n" + json.dumps(found))


def reckon(config: "ConfigDict") -> dict:
    """As `run_all --dry_run` for this machine, in seconds of the process."""
    from g2is_jax.planning.dry_run import read_plan
    from g2is_jax.planning.measured_chip import measured as measured_chip
    from g2is_jax.planning.stage_costs import stages

    plan, text_seconds, _ = read_plan(config, 1, time.process_time)
    machine = measured_chip(plan, text_seconds, time.process_time)
    activations = plan.settings.model.activations
    found = {
        stage.name: {
            "seconds": machine.seconds(stage, activations, 1),
            "memory": machine.memory(stage),
        }
        for stage in stages(plan)
    }
    return {"machine": {"told": machine.told, **machine.overheads}, "stages": found}


def take(config: "ConfigDict", folder: str, stage: str, repeats: int) -> dict:
    """Seconds of a stage that is compiled, and the peak of the process in its first run."""
    import shutil
    import statistics

    from etils import epath

    from g2is_jax.pipeline import features_stage
    from g2is_jax.pipeline.job import Job

    job = Job(config, epath.Path(folder) / "work")
    job.check()
    before, work = calls(job, stage)
    before()
    job.used.clear()
    reset_peak()
    work()
    peak, seconds = peak_memory(), []
    folders = [path for path, (name, how) in job.used.items()
               if (name, how) == (GROUPS[stage], "run")]  # fmt: skip
    for _ in range(repeats):
        for path in folders:
            shutil.rmtree(path)
        features_stage.forget()
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return {"seconds": statistics.median(seconds), "memory": peak}


def calls(job: "Job", stage: str) -> tuple[Callable, Callable]:
    """What is to be there before a stage of the table, and the stage."""
    from g2is_jax.pipeline import (
        evaluate_stage,
        features_stage,
        finetune_stage,
        selection_stage,
        warmup_stage,
    )
    from g2is_jax.selection.methods import SECTIONS

    def warm() -> None:
        for seed in job.seeds:
            warmup_stage.stage(job, seed)

    def gradients(*datasets: "Dataset") -> None:
        for seed in job.seeds:
            for dataset in datasets:
                for kind in job.kinds(dataset):
                    features_stage.stages(job, dataset, kind, seed)

    def choose() -> list:
        return [(which, selection_stage.stage(job, *which)) for which in selection_stage.each(job)]

    def walk() -> None:
        for which in selection_stage.each(job):
            if which[0] in SECTIONS:
                selection_stage.stage(job, *which)

    def tune() -> None:
        for (method, target, seed), chosen in choose():
            finetune_stage.stage(job, chosen, f"{method} {target.name}", seed)

    validations = [target.validation for target in job.targets]
    found: dict[str, tuple[Callable, Callable]] = {
        "warm-up": (lambda: None, warm),
        "pool gradients": (warm, partial(gradients, job.pool)),
        "validation gradients": (warm, partial(gradients, *validations)),
        "walk": (partial(gradients, job.pool, *validations), walk),
        "fine-tune": (lambda: choose(), tune),
        "evaluate": (tune, lambda: evaluate_stage.scores(job)),
    }
    return found[stage]


def reset_peak() -> None:
    """From now on the peak is counted anew (Linux)."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError as error:
        raise InputError(f"/proc/self/clear_refs: {error.strerror}; run on Linux") from error


def peak_memory() -> int:
    """Bytes, since the last reset."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def table(result: dict) -> str:
    """A line a stage."""
    lines = [heading(result)]
    for part in result["settings"]["parts"].split(","):
        stages = {name: of for name, of in result[part].items() if name != "machine"}
        lines += ["", f"{part}: {result[part]['machine']['told']}", ""]
        titles = ["stage", *("seconds, reckoned", "measured", "ratio")]
        titles += ("GB, reckoned", "measured", "ratio")
        lines += [f"| {' | '.join(titles)} |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        for name, of in stages.items():
            seconds = [of[side]["seconds"] for side in ("reckoned", "measured")]
            memory = sum(of["reckoned"]["memory"].values()), of["measured"]["memory"]
            lines.append(
                f"| {name} | {seconds[0]:.2f} | {seconds[1]:.2f} | {seconds[0] / seconds[1]:.2f} "
                f"| {memory[0] / 1e9:.2f} | {memory[1] / 1e9:.2f} | {memory[0] / memory[1]:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig("random,demo", 400, 60, 1, 1), table)


if __name__ == "__main__":
    main()
