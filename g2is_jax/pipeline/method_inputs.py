"""The inputs of each method of a job: the stages that make them, and the rows read from those."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from etils import epath

from g2is_jax.data.records import prompt, whole
from g2is_jax.features.rows import Cosines, Rows, axes, one_below_the_other
from g2is_jax.features.store import open_store
from g2is_jax.pipeline import (
    embed_stage,
    features_stage,
    hidden_stage,
    losses_stage,
    ordered_stage,
    scores_stage,
    taken_at,
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
    JOINT,
    LOSSES,
    METHODS,
    NOTHING,
    TEXTS,
    MethodInputs,
)

Folders = dict[str, epath.Path]
# Stages of a file's rows that belong to no seed.
REPRESENTATIONS = {HIDDEN: hidden_stage.stage, EMBEDDINGS: embed_stage.stage}


def targets_of(job: Job, target: Target) -> Sequence[Target]:
    """The targets that a selection for this one is for: all of them where it is joint."""
    return job.data.targets if job.settings.selection.targets == JOINT else [target]


def validation_names(targets: Sequence[Target]) -> dict[str, Target]:
    """The name of each target's validation rows among the inputs of a selection."""
    if len(targets) == 1:
        return {"validation": targets[0]}
    return {f"validation {target.name}": target for target in targets}


def stages(job: Job, method: str, target: Target, seed: int) -> Folders:
    """The finished stages that a method reads, made now unless they were made before."""
    found: Folders = {}
    named = validation_names(targets_of(job, target))
    datasets = {"features": job.data.pool, **{name: own.validation for name, own in named.items()}}
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
        found |= taken_at.stages(job, seed)
        if job.settings.features.scores_only:
            del datasets["features"]
            for name, own in named.items():
                folders = scores_stage.stages(job, _kind_of_pool(job, method), own, seed)
                found |= _numbered(name.replace("validation", "features"), folders)
        for name, dataset in datasets.items():
            found |= _numbered(name, feature_stages(job, dataset, method, seed))
    return found


def _numbered(name: str, folders: Sequence[epath.Path]) -> Folders:
    return {f"{name}-{number}": folder for number, folder in enumerate(folders)}


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
    files = (job.data.pool, *(own.validation for own in targets_of(job, target)))
    for dataset in files:
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
        named = validation_names(targets_of(job, target))
        found |= {name: own.validation.digest for name, own in named.items()}
    return found


def gather(job: Job, method: str, target: Target, seed: int) -> MethodInputs:
    """The inputs of a method, read; pool rows that are not finite may not be chosen."""
    needs = METHODS[method].needs
    tokens_N = job.data.pool.tokens_N
    bare = MethodInputs(job.settings.selection, job.limits, seed, tokens_N, selection_mesh())
    targets = targets_of(job, target)
    if needs == NOTHING:
        return bare
    if needs == TEXTS:
        pool_prompts, pool_texts = _texts([job.data.pool])
        validation_prompts, validation_texts = _texts([own.validation for own in targets])
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
    parts = [rows_of(job, own.validation, method, seed) for own in targets]
    validation, order_M = one_below_the_other(parts), in_turn(list(map(len, parts)))
    chosen_M = order_M[validation.finite_N[order_M]]
    if needs == FEATURES and job.settings.features.scores_only:
        pool: Rows = _cosines(job, method, targets, parts, seed)
        places_M = np.cumsum(validation.finite_N) - 1  # of the usable rows among the cosines
        validation = axes(len(chosen_M)).take(places_M[chosen_M])
    else:
        pool = rows_of(job, job.data.pool, method, seed)
        validation = validation.take(chosen_M)
    subtasks_M, targets_M = _labels(targets)
    return dataclasses.replace(
        bare,
        limits=without(job.limits, ~pool.finite_N),
        pool=pool,
        validation=validation,
        subtasks_M=subtasks_M[chosen_M],
        targets_M=None if targets_M is None else targets_M[chosen_M],
    )


def in_turn(counts: Sequence[int]) -> np.ndarray:
    """An order of several targets' validation rows, of so many each, one below the other: a row of
    each target in turn, so that methods which go through them in order serve all."""
    ranks_M = np.concatenate([np.arange(count) for count in counts])
    return np.argsort(ranks_M, kind="stable")


def _cosines(
    job: Job, method: str, targets: Sequence[Target], parts: Sequence[Rows], seed: int
) -> Cosines:
    """The cosines of the pool's rows to the validation rows of each target, side by side."""
    found = []
    for own, rows in zip(targets, parts, strict=True):
        folders = scores_stage.stages(job, _kind_of_pool(job, method), own, seed)
        found.append(scores_stage.read(folders, _weights(job, folders, seed), rows.finite_N))
    finite_N = np.logical_and.reduce([cosines.finite_N for cosines in found])
    return Cosines(np.concatenate([cosines[:] for cosines in found], axis=1), finite_N=finite_N)


def _labels(targets: Sequence[Target]) -> tuple[np.ndarray, np.ndarray | None]:
    """The labels of the validation rows: of their subtasks, and of their targets where there are
    several, whose subtasks are then different ones."""
    records = [(number, r) for number, own in enumerate(targets) for r in own.validation.records]
    if len(targets) == 1:
        return np.array([record.subtask for _, record in records]), None
    subtasks = [f"{targets[number].name}: {record.subtask}" for number, record in records]
    return np.array(subtasks), np.array([number for number, _ in records])


def _texts(datasets: Sequence[Dataset]) -> tuple[list[str], list[str]]:
    """The prompt of each row, and all of its messages."""
    prompts, texts = [], []
    for dataset in datasets:
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
