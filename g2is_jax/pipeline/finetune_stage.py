"""Fine-tuning on a selection: a fresh adapter, or all weights."""

from dataclasses import dataclass
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.model.adapters import read_adapter, write_adapter
from g2is_jax.model.build import Model
from g2is_jax.model.lora import Leaves
from g2is_jax.model.merge import write_merged
from g2is_jax.model.weights import Sharding, read_weights
from g2is_jax.pipeline import selection_stage
from g2is_jax.pipeline.adapter_training import ADAPTER, MODEL, fit_identity, train
from g2is_jax.pipeline.cases import cases, label
from g2is_jax.pipeline.job import Job, open_checked_job
from g2is_jax.runs.manifest import stage_hash
from g2is_jax.runs.mesh import shared_mesh
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
    """Train on the chosen rows, and write the last adapter in PEFT's files under `adapter/`, or the
    whole checkpoint under `model/`.

    Where asked for, the adapter of each epoch is under `epochs/`, and base and adapter in one under
    `merged/`.
    """
    settings = job.settings.finetune

    def build(folder: epath.Path) -> dict:
        def keep(epoch: int, adapter: Leaves) -> None:
            if settings.keep_epochs and not settings.full:
                write_adapter(folder / of_epoch(epoch), adapter, job.model, str(base))

        base = job.checkpoint.folder
        pool, model = job.data.pool, job.tuned_model
        adapter, counts = train(job, model, pool, chosen.rows, settings.fit, seed, folder, keep)
        if settings.merge and is_first():
            write_merged(folder / "merged", base, job.model, adapter, job.weights)
        return counts

    identity = {"fit": fit_identity(settings.fit), "seed": seed, **job.tuned_identity}
    if settings.merge:
        identity["merge"] = True
    if not settings.keep_epochs:
        identity["keep_epochs"] = False
    inputs = {"selection": stage_hash(chosen.folder), **job.checkpoint.digest}
    return job.stages.run(Stage("finetune", identity, inputs), name, build, shared=True)


def of_epoch(epoch: int) -> str:
    """The folder, within the stage, of the adapter after so many epochs."""
    return f"epochs/{epoch}"


class Subject(NamedTuple):
    """A model to measure."""

    model: Model
    adapter: Leaves
    base: Leaves


def subject(job: Job, tuned: Tuned | None) -> Subject:
    """A fine-tuned model; without a fine-tune the base with an adapter of zeros, which leaves it as
    it is."""
    model = job.tuned_model
    if tuned is None:
        return Subject(model, model.zero_adapter(), job.weights)
    if not job.settings.finetune.full:
        return Subject(model, read_adapter(tuned.stage / tuned.adapter, model), job.weights)
    shared = shared_mesh()

    def sharding(path: str) -> Sharding | None:
        return model.sharding(path, shared) if shared else None

    weights = read_weights(tuned.stage / MODEL, model.base_layout, model.dtype, sharding)
    return Subject(model, {}, weights)


def adapter_hash(tuned: Tuned | None) -> dict[str, str]:
    """The adapter's content hash, as an input of a stage that measures it."""
    if tuned is None:
        return {}
    which = {} if tuned.adapter == ADAPTER else {"which": tuned.adapter}
    return {"adapter": stage_hash(tuned.stage), **which}
