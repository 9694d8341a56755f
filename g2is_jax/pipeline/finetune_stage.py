"""Fine-tuning of a fresh adapter on a selection."""

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.model.adapters import write_adapter
from g2is_jax.model.lora import Leaves
from g2is_jax.model.merge import write_merged
from g2is_jax.pipeline import selection_stage
from g2is_jax.pipeline.adapter_training import fit_identity, train
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.manifest import stage_hash
from g2is_jax.runs.processes import is_first


def run(config: ConfigDict, workdir: epath.Path) -> list[epath.Path]:
    """The fine-tune of each method, target and seed; returns the stages' folders."""
    job = Job(config, workdir)
    job.check()
    return [
        stage(
            job, selection_stage.stage(job, method, target, seed), f"{method} {target.name}", seed
        )
        for seed in job.seeds
        for method in job.methods
        if method != "none"
        for target in job.targets
    ]


def stage(job: Job, chosen: selection_stage.Chosen, label: str, seed: int) -> epath.Path:
    """Train on the chosen rows; adapters in PEFT's files: the last under `adapter/`, where asked
    for that of each epoch under `epochs/`, and base and last adapter in one under `merged/`."""
    config, files = job.settings.finetune, job.config.finetune

    def build(folder: epath.Path) -> dict:
        def keep(epoch: int, adapter: Leaves) -> None:
            if files.keep_epochs:
                write_adapter(folder / of_epoch(epoch), adapter, job.model, str(job.checkpoint))

        adapter, counts = train(job, chosen.rows, config, seed, folder, keep)
        if files.merge and is_first():
            write_merged(folder / "merged", job.checkpoint, job.model, adapter, job.base)
        return counts

    identity = {"fit": fit_identity(config), "seed": seed, **job.model_identity}
    if files.merge:
        identity["merge"] = True
    if not files.keep_epochs:
        identity["keep_epochs"] = False
    inputs = {"selection": stage_hash(chosen.folder), **job.checkpoint_digest}
    return job.run_stage("finetune", f"{label} seed {seed}", identity, inputs, build, shared=True)


def of_epoch(epoch: int) -> str:
    """Folder, within the stage, of the adapter after so many epochs."""
    return f"epochs/{epoch}"
