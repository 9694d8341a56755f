"""Selection: the rows of the pool that a method chooses for a target within the budget.

    python -m experiments.select_subset --config=configs/tiny.py --workdir=runs/demo

Features that were made elsewhere need neither model nor checkpoint (see own_features.py):

    python -m experiments.select_subset --config=configs/paper.py --workdir=OUT \\
        --train_features=F.npy --validation_features=V.npy --pool=pool.jsonl
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.pipeline.selection_files import read_why, show, write_lines, write_why
from g2is_jax.runs.manifest import read_manifest
from g2is_jax.runs.processes import alone, is_first
from g2is_jax.selection.methods import METHODS, NOTHING, choosers, identity

if TYPE_CHECKING:  # imported late where they are needed: own features are to start at once
    from g2is_jax.pipeline.datasets import Target
    from g2is_jax.pipeline.job import Job


@dataclass(frozen=True)
class Chosen:
    """A finished selection; `seconds` counts every stage behind it, as if it were run alone."""

    folder: epath.Path
    rows: list[int]
    tokens: int
    seconds: float


def run(config: ConfigDict, workdir: epath.Path) -> list[Chosen]:
    """The selection of each method, target and seed, also shown under `selections/`; what they
    are made of is told in `report/composition.md`."""
    from g2is_jax.pipeline.job import Job

    job = Job(config, workdir)
    job.check()
    chosen = [stage(job, *which) for which in each(job)]
    if is_first():
        with alone():
            print("\n" + write_compositions(job))
    return chosen


def each(job: "Job") -> list[tuple[str, "Target", int]]:
    return [
        (method, target, seed)
        for seed in job.seeds
        for method in choosers(job.methods)
        for target in job.targets
    ]


def write_compositions(job: "Job") -> str:
    """Write what the finished selections are made of to `report/`; returns the Markdown."""
    from g2is_jax.report.composition import write_composition

    sources = [record.source for record in job.pool.records]
    return write_composition(entries(job), sources, job.workdir / "report")


def entries(job: "Job") -> list[dict]:
    """Rows and costs of each selection, as `composition` takes them."""
    return [
        {"method": method, "target": target.name, "seed": seed}
        | {"rows": one.rows, "tokens": one.tokens, "seconds": one.seconds}
        for method, target, seed in each(job)
        for one in (stage(job, method, target, seed),)
    ]


def stage(job: "Job", method: str, target: "Target", seed: int) -> Chosen:
    """Choose rows, write `selection.jsonl` and `selected.jsonl`, and show them."""
    from g2is_jax.pipeline import method_inputs

    folders = method_inputs.stages(job, method, target, seed)
    choose = METHODS[method].choose
    assert choose is not None, f"{method} chooses no row"

    def build(folder: epath.Path) -> dict:
        selection = choose(method_inputs.gather(job, method, target, seed))
        write_why(folder, selection, lambda row: _known(job, row))
        write_lines(folder, selection, job.pool.records)
        return {"rows": len(selection.picks), **selection.summary}

    settings = identity(method, job.settings.selection, seed)
    if "warmup" in folders:
        settings["checkpoints"] = job.settings.checkpoints
    inputs = method_inputs.inputs(job, method, target, folders)
    folder = job.run_stage("selection", _label(method, target, seed), settings, inputs, build)
    if job.builds and not job.is_variant and is_first():
        show(folder, shown_at(job, method, target, seed))
    rows = [pick["position"] for pick in read_why(folder)]
    behind = [*folders.values(), *method_inputs.sources(job, method, target, seed), folder]
    seconds = sum(read_manifest(one)["seconds"] for one in behind)
    return Chosen(folder, rows, int(job.pool.tokens_N[rows].sum()), seconds)


def shown_at(job: "Job", method: str, target: "Target", seed: int) -> epath.Path:
    """Where people look for a selection."""
    place = job.workdir / "selections" / f"{method}-{seed}"
    return place / target.name if len(job.targets) > 1 else place


def _known(job: "Job", row: int) -> dict:
    record = job.pool.records[row]
    tokens = int(job.pool.encoded[row].supervised_T.sum())
    return {"row": record.row, "id": record.id, "source": record.source, "tokens": tokens}


def _label(method: str, target: "Target", seed: int) -> str:
    name = method if METHODS[method].needs == NOTHING else f"{method} {target.name}"
    return f"{name} seed {seed}"
