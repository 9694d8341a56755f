"""Fine-tuning of a fresh adapter on a selection."""

from dataclasses import dataclass

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.model.adapters import read_adapter, write_adapter
from g2is_jax.model.lora import Leaves
from g2is_jax.model.merge import write_merged
from g2is_jax.pipeline import selection_stage
from g2is_jax.pipeline.adapter_training import ADAPTER, fit_identity, train
from g2is_jax.pipeline.cases import cases, label
from g2is_jax.pipeline.job import Job, open_checked_job
from g2is_jax.runs.manifest import stage_hash
from g2is_jax.runs.processes import is_first
from g2is_jax.runs.stages import Stage
from g2is_jax.selection.methods import choosers


@dataclass(frozen=True)
class Tuned:
    """A fine-tune's stage, and the folder of one of its adapters there."""

    stage: epath.Path
    adapter: str = ADAPTER


def run(config: ConfigDict, workdir: epath.Path) -> list[epath.Path]:
    """The fine-tune of each method, target and seed; returns the stages' folders."""
    job = open_checked_job(config, workdir, measures=False)
    return [
        stage(job, selection_stage.stage(job, *case), label(*case), case[-1])
        for case in cases(job, choosers(job.settings.selection.methods))
    ]


def stage(job: Job, chosen: selection_stage.Chosen, name: str, seed: int) -> epath.Path:
    """Train on the chosen rows, and write the last adapter in PEFT's files under `adapter/`.

    Where asked for, that of each epoch is under `epochs/`, and base and adapter in one under
    `merged/`.
    """
    settings = job.settings.finetune

    def build(folder: epath.Path) -> dict:
        def keep(epoch: int, adapter: Leaves) -> None:
            if settings.keep_epochs:
                write_adapter(folder / of_epoch(epoch), adapter, job.model, str(base))

        base = job.checkpoint.folder
        adapter, counts = train(job, job.data.pool, chosen.rows, settings.fit, seed, folder, keep)
        if settings.merge and is_first():
            write_merged(folder / "merged", base, job.model, adapter, job.weights)
        return counts

    identity = {"fit": fit_identity(settings.fit), "seed": seed, **job.model_identity}
    if settings.merge:
        identity["merge"] = True
    if not settings.keep_epochs:
        identity["keep_epochs"] = False
    inputs = {"selection": stage_hash(chosen.folder), **job.checkpoint.digest}
    return job.stages.run(Stage("finetune", identity, inputs), name, build, shared=True)


def of_epoch(epoch: int) -> str:
    """The folder, within the stage, of the adapter after so many epochs."""
    return f"epochs/{epoch}"


def adapter_leaves(job: Job, tuned: Tuned | None) -> Leaves:
    """The adapter; without a fine-tune one of zeros, which leaves the base as it is."""
    if tuned is None:
        return job.model.zero_adapter()
    return read_adapter(tuned.stage / tuned.adapter, job.model)


def adapter_hash(tuned: Tuned | None) -> dict[str, str]:
    """The adapter's content hash, as an input of a stage that measures it."""
    if tuned is None:
        return {}
    which = {} if tuned.adapter == ADAPTER else {"which": tuned.adapter}
    return {"adapter": stage_hash(tuned.stage), **which}
