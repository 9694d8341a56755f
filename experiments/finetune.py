"""Fine-tuning of a fresh adapter on a selection."""

from etils import epath
from ml_collections import ConfigDict

from experiments import select_subset
from experiments.job import Job
from experiments.launch import launch
from experiments.warmup import fit_identity
from g2is_jax.model.adapters import write_adapter
from g2is_jax.runs.manifest import stage_hash
from g2is_jax.training.fit import fit


def run(config: ConfigDict, workdir: epath.Path) -> list[epath.Path]:
    """The fine-tune of each method, target and seed; returns the stages' folders."""
    job = Job(config, workdir)
    job.check()
    return [
        stage(job, select_subset.stage(job, method, target, seed), f"{method} {target.name}", seed)
        for seed in job.seeds
        for method in job.methods
        if method != "none"
        for target in job.targets
    ]


def stage(job: Job, chosen: select_subset.Chosen, label: str, seed: int) -> epath.Path:
    """Train on the chosen rows and write the adapter in PEFT's files, under `adapter/`."""
    settings = job.settings

    def build(folder: epath.Path) -> dict:
        shapes = job.training_shapes(settings.finetune)
        encoded = [job.pool.encoded[row] for row in chosen.rows]
        adapter, moments = fit(
            job.model, job.base, encoded, shapes, settings.finetune, seed, folder
        )
        write_adapter(folder / "adapter", adapter, job.model, str(job.checkpoint))
        return {"rows": len(encoded), "steps": moments.step}

    identity = {"fit": fit_identity(settings.finetune), "seed": seed, **job.model_identity}
    inputs = {"selection": stage_hash(chosen.folder), **job.checkpoint_digest}
    return job.run_stage("finetune", f"{label} seed {seed}", identity, inputs, build)


if __name__ == "__main__":
    launch(run)
