"""Selection: the rows of the pool that a method chooses for a target within the budget."""

import itertools
from dataclasses import dataclass

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.pipeline import method_inputs
from g2is_jax.pipeline.cases import cases, label, shown_at
from g2is_jax.pipeline.datasets import Target
from g2is_jax.pipeline.job import Job, open_checked_job
from g2is_jax.pipeline.selection_files import (
    SHOWN,
    read_picks,
    read_why,
    show,
    write_lines,
    write_why,
)
from g2is_jax.report.composition import write_composition
from g2is_jax.runs.manifest import read_manifest, stage_hash
from g2is_jax.runs.processes import alone, is_first, wait_for_all
from g2is_jax.runs.stages import Stage
from g2is_jax.selection.merged import merged
from g2is_jax.selection.methods import MERGED, METHODS, NOTHING, choosers, identity, shares


@dataclass(frozen=True)
class Chosen:
    """A finished selection, and the stages behind it; `seconds` counts these and its own, as if it
    were run alone."""

    folder: epath.Path
    behind: list[epath.Path]
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
    """Choose the rows that a target is trained on, and copy the files of it to `selections/`.

    `selection.targets` says whether other targets have a part in them.
    """
    several = len(job.data.targets) > 1 and METHODS[method].needs != NOTHING
    if several and job.settings.selection.targets == MERGED:
        chosen = _merged(job, method, seed)
    else:
        chosen = by_method(job, method, target, seed)
    if job.stages.builds and job.stages.shows and is_first():
        show(chosen.folder, shown_at(job, SHOWN, method, target, seed))
    return chosen


def by_method(job: Job, method: str, target: Target, seed: int) -> Chosen:
    """Choose rows for a target, or for all of them at once, and write `selection.jsonl` and
    `selected.jsonl`."""
    folders = method_inputs.stages(job, method, target, seed)
    targets = method_inputs.targets_of(job, target)
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
    of_all = METHODS[method].needs == NOTHING  # it looks at no target
    if len(targets) > 1 and not of_all:
        settings["targets"] = [own.name for own in targets]
    inputs = method_inputs.inputs(job, method, target, folders)
    name = f"{method} seed {seed}" if of_all or len(targets) > 1 else label(method, target, seed)
    stage = Stage("selection", settings, inputs)
    folder = job.stages.run(stage, name, build, shared=shares(method))
    behind = [*folders.values(), *method_inputs.sources(job, method, target, seed)]
    return _chosen(job, folder, behind)


def _merged(job: Job, method: str, seed: int) -> Chosen:
    """Take rows of each target's own selection in turn."""
    targets = job.data.targets
    own = {target.name: by_method(job, method, target, seed) for target in targets}

    def build(folder: epath.Path) -> dict:
        selections = [read_picks(chosen.folder) for chosen in own.values()]
        selection, numbers = merged(selections, job.limits)
        names = {
            pick.row: targets[number].name
            for pick, number in zip(selection.picks, numbers, strict=True)
        }
        write_why(folder, selection, lambda row: _known(job, row) | {"target": names[row]})
        write_lines(folder, selection, job.data.pool.records.lines)
        return {**selection.summary, "pool": job.data.pool.counts}

    inputs = {name: stage_hash(chosen.folder) for name, chosen in own.items()}
    settings = {"method": method, "merged": list(own)}
    folder = job.stages.run(Stage("selection", settings, inputs), f"{method} seed {seed}", build)
    stages = itertools.chain(*([*chosen.behind, chosen.folder] for chosen in own.values()))
    return _chosen(job, folder, list(dict.fromkeys(stages)))


def _chosen(job: Job, folder: epath.Path, behind: list[epath.Path]) -> Chosen:
    rows = [pick["position"] for pick in read_why(folder)]
    seconds = sum(read_manifest(stage_folder)["seconds"] for stage_folder in [*behind, folder])
    return Chosen(folder, behind, rows, int(job.data.pool.tokens_N[rows].sum()), seconds)


def _known(job: Job, row: int) -> dict:
    """The fields that identify a pool row beside the reasons for it."""
    pool = job.data.pool
    return {**pool.records.known(row), "tokens": int(pool.tokens_N[row])}
