"""Selection: the rows of the pool that a method chooses for a target within the budget."""

from dataclasses import dataclass

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.pipeline import method_inputs
from g2is_jax.pipeline.cases import cases, label, shown_at
from g2is_jax.pipeline.datasets import Target
from g2is_jax.pipeline.job import Job, open_checked_job
from g2is_jax.pipeline.selection_files import SHOWN, read_why, show, write_lines, write_why
from g2is_jax.report.composition import write_composition
from g2is_jax.runs.manifest import read_manifest
from g2is_jax.runs.processes import alone, is_first, wait_for_all
from g2is_jax.runs.stages import Stage
from g2is_jax.selection.methods import METHODS, NOTHING, choosers, identity, shares


@dataclass(frozen=True)
class Chosen:
    """A finished selection; `seconds` counts every stage behind it, as if it were run alone."""

    folder: epath.Path
    rows: list[int]
    tokens: int
    seconds: float


def run(config: ConfigDict, workdir: epath.Path) -> list[Chosen]:
    """The selection of each method, target and seed, also copied to `selections/`.

    Their composition is printed, and written to `report/composition.md`.
    """
    job = open_checked_job(config, workdir, measures=False)
    chosen = [stage(job, *case) for case in cases(job, choosers(job.settings.selection.methods))]
    if is_first():
        with alone():
            print("\n" + write_compositions(job))
    wait_for_all("composition written")
    return chosen


def write_compositions(job: Job) -> str:
    """Write the composition of the finished selections to `report/`; returns the Markdown."""
    sources = job.data.pool.sources
    return write_composition(entries(job), sources, job.stages.workdir / "report")


def entries(job: Job) -> list[dict]:
    """The rows and costs of each selection, as `composition` takes them."""
    return [
        {"method": method, "target": target.name, "seed": seed}
        | {"rows": chosen.rows, "tokens": chosen.tokens, "seconds": chosen.seconds}
        for method, target, seed in cases(job, choosers(job.settings.selection.methods))
        for chosen in (stage(job, method, target, seed),)
    ]


def stage(job: Job, method: str, target: Target, seed: int) -> Chosen:
    """Choose rows, write `selection.jsonl` and `selected.jsonl`, and copy them to `selections/`."""
    folders = method_inputs.stages(job, method, target, seed)
    choose = METHODS[method].choose
    assert choose is not None, f"{method} chooses no row"

    def build(folder: epath.Path) -> dict:
        selection = choose(method_inputs.gather(job, method, target, seed))
        if is_first():
            write_why(folder, selection, lambda row: _known(job, row))
            write_lines(folder, selection, job.data.pool.records.lines)
        return {
            "rows": len(selection.picks),
            **selection.summary,
            "pool": job.data.pool.counts,
        }

    settings = identity(method, job.settings.selection, seed)
    if "warmup" in folders:
        settings["checkpoints"] = job.settings.features.checkpoints
    inputs = method_inputs.inputs(job, method, target, folders)
    of_all = METHODS[method].needs == NOTHING  # it looks at no target
    name = f"{method} seed {seed}" if of_all else label(method, target, seed)
    stage = Stage("selection", settings, inputs)
    folder = job.stages.run(stage, name, build, shared=shares(method))
    if job.stages.builds and job.stages.shows and is_first():
        show(folder, shown_at(job, SHOWN, method, target, seed))
    rows = [pick["position"] for pick in read_why(folder)]
    needed = [*folders.values(), *method_inputs.sources(job, method, target, seed), folder]
    seconds = sum(read_manifest(stage_folder)["seconds"] for stage_folder in needed)
    return Chosen(folder, rows, int(job.data.pool.tokens_N[rows].sum()), seconds)


def _known(job: Job, row: int) -> dict:
    """The fields that identify a pool row beside the reasons for it."""
    pool = job.data.pool
    return {**pool.records.known(row), "tokens": int(pool.tokens_N[row])}
