"""Warm-up: LoRA fine-tuning on a random share of the pool, once a seed."""

from dataclasses import dataclass

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.batches import epoch_order
from g2is_jax.model.lora import Leaves
from g2is_jax.pipeline.adapter_training import fit_identity, train
from g2is_jax.pipeline.job import Job, open_checked_job
from g2is_jax.runs.stages import Stage
from g2is_jax.training.fit import load_trained, mean_rates
from g2is_jax.training.optimizer import Moments

DRAW = 2**31  # an "epoch" that training never reaches: the draw is not an order of training


@dataclass(frozen=True)
class WarmupCheckpoint:
    """A state of the warm-up, and its weight: its epoch's share of the mean learning rates."""

    adapter: Leaves
    moments: Moments
    weight: float


def run(config: ConfigDict, workdir: epath.Path) -> list[epath.Path]:
    """The warm-up of each seed; returns the stages' folders."""
    job = open_checked_job(config, workdir, measures=False)
    return [stage(job, seed) for seed in job.settings.seeds]


def stage(job: Job, seed: int) -> epath.Path:
    """Train on `warmup.fraction` of the usable rows and keep adapters and moments."""
    settings = job.settings.warmup
    own_seed = seed + settings.seed
    rows = drawn_rows(len(job.data.pool.encoded), settings.fraction, own_seed)

    def build(folder: epath.Path) -> dict:
        return train(job, job.model, job.data.pool, rows, settings.fit, own_seed, folder)[1]

    identity = {
        "fit": fit_identity(settings.fit),
        "fraction": settings.fraction,
        "seed": own_seed,
        "checkpoints": settings.fit.keep_checkpoints,
        **job.model_identity,
    }
    inputs = {"pool": job.data.pool.digest, **job.checkpoint.digest}
    return job.stages.run(Stage("warmup", identity, inputs), f"seed {seed}", build, shared=True)


def load(job: Job, seed: int) -> list[WarmupCheckpoint]:
    """The checkpoints that the features come from, oldest first."""
    folder, settings = stage(job, seed), job.settings.warmup
    trained = load_trained(job.model, settings.fit, seed + settings.seed, folder)
    trained = trained[-job.settings.features.checkpoints :]
    rates = mean_rates(folder, [moments.step for _, moments in trained], settings.fit.epochs)
    total = sum(rates) or 1.0
    return [
        WarmupCheckpoint(adapter, moments, rate / total if sum(rates) else 1 / len(rates))
        for (adapter, moments), rate in zip(trained, rates, strict=True)
    ]


def drawn_rows(count: int, fraction: float, seed: int) -> list[int]:
    """The rows of the warm-up, a function of count, fraction and seed alone; at least one."""
    return sorted(epoch_order(count, seed, DRAW)[: max(1, round(fraction * count))].tolist())
