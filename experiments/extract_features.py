"""Gradient features of the pool and of each target's validation rows, once a seed."""

import dataclasses
import functools

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from experiments import warmup
from experiments.job import Dataset, Job
from experiments.launch import launch
from g2is_jax.features.gradients import extract
from g2is_jax.features.store import Features, StoreWriter, read_store
from g2is_jax.runs.manifest import stage_hash


def run(config: ConfigDict, workdir: epath.Path) -> list[epath.Path]:
    """The features that method g2is needs, of each seed; returns the stages' folders."""
    job = Job(config, workdir)
    job.check()
    folders = []
    for seed in job.seeds:
        folders.append(stage(job, job.pool, config.grads.kind, seed))
        for target in job.targets:
            folders.append(stage(job, target.validation, config.grads.validation_kind, seed))
    return folders


def stage(job: Job, dataset: Dataset, kind: str, seed: int) -> epath.Path:
    """One feature row for each usable row of a file."""
    warm = warmup.stage(job, seed)
    direction, projection = job.direction(kind), job.projection(seed)
    name = dataset.path.name.removesuffix(".gz").removesuffix(".jsonl")

    def build(folder: epath.Path) -> dict:
        adapter, moments = warmup.load(job, seed)
        rows = [record.row for record in dataset.records]
        writer = StoreWriter(folder, rows, job.settings.store)
        batch_tokens = job.config.grads.batch_tokens
        extract(
            job.model,
            adapter,
            job.base,
            moments,
            dataset.encoded,
            direction,
            projection,
            batch_tokens,
            writer,
        )
        return {"rows": len(rows), "dropped": dataset.dropped, "truncated": dataset.truncated}

    identity = {
        "direction": dataclasses.asdict(direction),
        "projection": dataclasses.asdict(projection),
        "dtype": job.settings.store.dtype,
        **job.model_identity,
    }
    inputs = {"rows": dataset.digest, "warmup": stage_hash(warm), **job.checkpoint_digest}
    return job.run_stage("features", f"{name} {kind} seed {seed}", identity, inputs, build)


def load(job: Job, dataset: Dataset, kind: str, seed: int) -> Features:
    """The features of a file's usable rows, in their order; kept in memory for the next method."""
    return _read(stage(job, dataset, kind, seed))


@functools.lru_cache(maxsize=2)
def _read(folder: epath.Path) -> Features:
    features = read_store(folder)
    features.features_NP.setflags(write=False)
    return features


def unnormalised(features: Features) -> np.ndarray:
    """The rows at the length they had before normalisation."""
    return features.features_NP * features.norms_N[:, None]


if __name__ == "__main__":
    launch(run)
