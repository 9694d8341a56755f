"""The inputs of each method of a job: the stages that make them, and the rows read from those."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from etils import epath

from g2is_jax.data.records import prompt, whole
from g2is_jax.features.rows import Rows, axes
from g2is_jax.features.store import open_store
from g2is_jax.pipeline import (
    embed_stage,
    features_stage,
    hidden_stage,
    losses_stage,
    ordered_stage,
    scores_stage,
    warmup_stage,
    whitened_stage,
)
from g2is_jax.pipeline.datasets import Dataset, Target
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.manifest import stage_hash
from g2is_jax.runs.mesh import selection_mesh
from g2is_jax.selection.budget import without
from g2is_jax.selection.methods import (
    EMBEDDINGS,
    FEATURES,
    HIDDEN,
    LOSSES,
    METHODS,
    NOTHING,
    TEXTS,
    MethodInputs,
)

Folders = dict[str, epath.Path]
# Stages of a file's rows that belong to no seed.
REPRESENTATIONS = {HIDDEN: hidden_stage.stage, EMBEDDINGS: embed_stage.stage}


def stages(job: Job, method: str, target: Target, seed: int) -> Folders:
    """The finished stages that a method reads, made now unless they were made before."""
    found: Folders = {}
    datasets = {"features": job.data.pool, "validation": target.validation}
    needs = METHODS[method].needs
    if needs in REPRESENTATIONS:
        return {name: REPRESENTATIONS[needs](job, dataset) for name, dataset in datasets.items()}
    if needs == LOSSES:
        return {
            "before": losses_stage.before(job),
            "aligned": losses_stage.aligned(job, target, seed),
            "after": losses_stage.after(job, target, seed),
        }
    if needs == FEATURES:
        found["warmup"] = warmup_stage.stage(job, seed)
        for name, dataset in datasets.items():
            if name == "features" and job.settings.features.scores_only:
                folders = scores_stage.stages(job, _kind_of_pool(job, method), target, seed)
            else:
                folders = feature_stages(job, dataset, method, seed)
            found |= {f"{name}-{number}": folder for number, folder in enumerate(folders)}
    return found


def feature_stages(job: Job, dataset: Dataset, method: str, seed: int) -> list[epath.Path]:
    """The stages of the features that a method takes of a file's rows, one a checkpoint; whitened
    by those that it takes of the pool, where the config asks for that."""
    kind = features_stage.kind_of(job, dataset, method)
    folders = features_stage.stages(job, dataset, kind, seed)
    if job.settings.features.precondition == "none":
        return folders
    return [
        whitened_stage.stage(job, folder, pool, f"{dataset.name} {kind} seed {seed}")
        for folder, pool in zip(folders, _of_pool(job, method, seed), strict=True)
    ]


def _kind_of_pool(job: Job, method: str) -> str:
    return features_stage.kind_of(job, job.data.pool, method)


def _of_pool(job: Job, method: str, seed: int) -> list[epath.Path]:
    """The stages of the pool's features that a method takes, before any whitening."""
    pool = job.data.pool
    return features_stage.stages(job, pool, _kind_of_pool(job, method), seed)


def sources(job: Job, method: str, target: Target, seed: int) -> list[epath.Path]:
    """The stages behind those of `stages`: of features that were folded or whitened."""
    found: list[epath.Path] = []
    settings = job.settings.features
    if METHODS[method].needs != FEATURES:
        return found
    for dataset in (job.data.pool, target.validation):
        kind = features_stage.kind_of(job, dataset, method)
        if settings.folds:
            found += features_stage.pass_stages(job, dataset, kind, seed)
        if settings.precondition != "none":
            found += features_stage.stages(job, dataset, kind, seed)
    if settings.precondition != "none":
        pools = _of_pool(job, method, seed)
        found += [whitened_stage.map_stage(job, pool) for pool in pools]
    return found


def inputs(job: Job, method: str, target: Target, folders: Folders) -> dict[str, str]:
    """Content hashes of everything that a method's selection depends on, beside its settings."""
    found = {name: stage_hash(folder) for name, folder in folders.items()}
    found["pool"] = job.data.pool.digest
    if not folders:
        found |= job.text_inputs
    if METHODS[method].needs == TEXTS:
        found["validation"] = target.validation.digest
    return found


def gather(job: Job, method: str, target: Target, seed: int) -> MethodInputs:
    """The inputs of a method, read; pool rows that are not finite may not be chosen."""
    needs = METHODS[method].needs
    tokens_N = job.data.pool.tokens_N
    bare = MethodInputs(job.settings.selection, job.limits, seed, tokens_N, selection_mesh())
    if needs == NOTHING:
        return bare
    if needs == TEXTS:
        pool_prompts, pool_texts = _texts(job.data.pool)
        validation_prompts, validation_texts = _texts(target.validation)
        return dataclasses.replace(
            bare,
            pool_prompts=pool_prompts,
            pool_texts=pool_texts,
            validation_prompts=validation_prompts,
            validation_texts=validation_texts,
        )
    if needs == LOSSES:
        return dataclasses.replace(
            bare,
            losses_before_N=losses_stage.losses(losses_stage.before(job)),
            losses_after_N=losses_stage.losses(losses_stage.after(job, target, seed)),
        )
    validation = rows_of(job, target.validation, method, seed)
    subtasks_M = np.array([record.subtask for record in target.validation.records])
    if needs == FEATURES and job.settings.features.scores_only:
        folders = scores_stage.stages(job, _kind_of_pool(job, method), target, seed)
        cosines = scores_stage.read(folders, _weights(job, folders, seed), validation.finite_N)
        return dataclasses.replace(
            bare,
            limits=without(job.limits, ~cosines.finite_N),
            pool=cosines,
            validation=axes(int(validation.finite_N.sum())),
            subtasks_M=subtasks_M[validation.finite_N],
        )
    pool = rows_of(job, job.data.pool, method, seed)
    return dataclasses.replace(
        bare,
        limits=without(job.limits, ~pool.finite_N),
        pool=pool,
        validation=validation.take(validation.finite_N),
        subtasks_M=subtasks_M[validation.finite_N],
    )


def _texts(dataset: Dataset) -> tuple[list[str], list[str]]:
    """The prompt of each row, and all of its messages."""
    prompts, texts = [], []
    for record in dataset.records:
        prompts.append(prompt(record))
        texts.append(whole(record))
    return prompts, texts


def rows_of(job: Job, dataset: Dataset, method: str, seed: int) -> Rows:
    """The features, hidden states or embeddings that a method takes of the pool or of validation
    rows."""
    needs = METHODS[method].needs
    if needs in REPRESENTATIONS:
        return _load(job, dataset, (REPRESENTATIONS[needs](job, dataset),), (1.0,))
    return load_features(job, dataset, method, seed)


def load_features(job: Job, dataset: Dataset, method: str, seed: int) -> Rows:
    """The features that a method takes of a file's usable rows, in their order.

    Those of several checkpoints stand side by side, under the checkpoints' weights.
    """
    folders = tuple(feature_stages(job, dataset, method, seed))
    return _load(job, dataset, folders, _weights(job, folders, seed))


def _weights(job: Job, folders: Sequence[epath.Path], seed: int) -> tuple[float, ...]:
    """The weights of the checkpoints that these folders are of."""
    if len(folders) == 1:
        return (1.0,)
    return tuple(checkpoint.weight for checkpoint in warmup_stage.load(job, seed))


def _load(
    job: Job, dataset: Dataset, folders: tuple[epath.Path, ...], weights: tuple[float, ...]
) -> Rows:
    if dataset is job.data.pool:
        memory = job.settings.selection.memory
        return ordered_stage.pool_rows(job.stages, memory, folders, weights)
    return _validation_rows(folders, weights)


@functools.lru_cache(maxsize=8)
def _validation_rows(folders: tuple[epath.Path, ...], weights: tuple[float, ...]) -> Rows:
    return ordered_stage.read([open_store(folder) for folder in folders], weights)
