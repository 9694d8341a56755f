"""Gradient features of the pool and of validation rows, once a seed and checkpoint."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from etils import epath

from g2is_jax.data.batches import Batch, row_lengths
from g2is_jax.data.widths import compile_cost
from g2is_jax.features.extract import extract, fitting_tokens
from g2is_jax.features.gradients import (
    WITH_MOMENTUM,
    DirectionConfig,
    FeatureBatch,
    feature_function,
    shared_inputs,
)
from g2is_jax.features.store import StoreConfig, StoreWriter
from g2is_jax.pipeline import folded_stage, taken_at
from g2is_jax.pipeline.datasets import Dataset
from g2is_jax.pipeline.job import Job
from g2is_jax.pipeline.store_diagnostics import write_diagnostics
from g2is_jax.runs.mesh import free_memory, shared_mesh
from g2is_jax.runs.processes import is_first, process_share, wait_for_all
from g2is_jax.runs.stages import Stage
from g2is_jax.selection.methods import FEATURES, needing, pool_kind, pool_kinds
from g2is_jax.training.optimizer import Moments

Compute = Callable[[Batch], FeatureBatch]


def kind_of(job: Job, dataset: Dataset, method: str) -> str:
    """The kind of features that a method takes of a file's rows; of layers there is but one."""
    if job.settings.features.layers:
        return "sgd"
    if dataset is not job.data.pool:
        return job.settings.features.validation_kind
    return pool_kind(method, job.settings.selection.kinds)


def kinds_of(job: Job, dataset: Dataset) -> list[str]:
    """All kinds that the methods of a job take of a file's rows, in order."""
    if job.settings.features.layers:
        return ["sgd"]
    if dataset is not job.data.pool:
        return [job.settings.features.validation_kind]
    methods = needing(job.settings.selection.methods, FEATURES) or ["g2is"]
    return pool_kinds(methods, job.settings.selection.kinds)


def stages(job: Job, dataset: Dataset, kind: str, seed: int) -> list[epath.Path]:
    """The stages of one feature row for each usable row of a file: one a checkpoint, oldest first.

    They are folded where the config asks for that.
    """
    passes = pass_stages(job, dataset, kind, seed)
    if not job.settings.features.folds:
        return passes
    return [folded_stage.stage(job, source, f"{dataset.name} {kind}", seed) for source in passes]


def pass_stages(job: Job, dataset: Dataset, kind: str, seed: int) -> list[epath.Path]:
    """The stages of the gradient passes, before any folding.

    All kinds that the job's methods take of these rows come from one pass.
    """
    return [
        _pass_stages(job, dataset, sorted({kind, *kinds_of(job, dataset)}), seed, number)[kind]
        for number in range(job.settings.features.checkpoints)
    ]


def make_together(job: Job, dataset: Dataset, kinds: Sequence[str], seed: int) -> None:
    """Make features of all these kinds in one pass over the rows, for jobs that each take one."""
    for number in range(job.settings.features.checkpoints):
        _pass_stages(job, dataset, sorted(kinds), seed, number)


def _pass_stages(
    job: Job, dataset: Dataset, kinds: Sequence[str], seed: int, number: int
) -> dict[str, epath.Path]:
    """The stages of all kinds at one checkpoint; those that are not finished share a pass."""
    labels = {kind: _label(job, dataset, kind, seed, number) for kind in kinds}

    def build(folders: dict[str, epath.Path]) -> dict[str, dict]:
        stores = {kind: folders[label] for kind, label in labels.items() if label in folders}
        # By all processes: they agree on each stage.
        point = taken_at.points(job, seed, tuple(kinds))[number]
        store, wanted = job.settings.features.store, [kinds.index(kind) for kind in stores]
        work = run_pass(
            *(job, dataset, seed, point, kinds, stores, store),
            lambda compute: _only(compute, wanted, len(kinds)),
        )
        wait_for_all(f"{', '.join(stores)} features of {dataset.name}")
        if not is_first():
            return {labels[kind]: {} for kind in stores}
        for kind, folder in stores.items():
            momentum = _momentum(kind, point.moments)
            write_diagnostics(folder, dataset, momentum, _direction(job, kind).b1)
        return {labels[kind]: dataset.counts | work for kind in stores}

    inputs = {"rows": dataset.digest, **taken_at.inputs(job, seed), **job.checkpoint.digest}
    identities = {
        label: Stage("features", identity(job, kind, seed, number), inputs)
        for kind, label in labels.items()
    }
    found = job.stages.run_together(identities, build, shared=True)
    return {kind: found[label] for kind, label in labels.items()}


def _label(job: Job, dataset: Dataset, kind: str, seed: int, number: int) -> str:
    which = f" checkpoint {number + 1}" if job.settings.features.checkpoints > 1 else ""
    return f"{dataset.name} {kind} seed {seed}{which}"


def identity(job: Job, kind: str, seed: int, number: int) -> dict:
    """The settings of a pass that its features depend on; number: of the checkpoint."""
    settings = job.settings.features
    projection = dataclasses.asdict(settings.projection)
    return {
        "direction": dataclasses.asdict(_direction(job, kind)),
        "projection": projection | {"seed": settings.seed_of(seed)},
        "rows_dtype": settings.store.dtype,
        "checkpoint": number - settings.checkpoints,  # -1 is the newest
        **taken_at.identity(job),
    }


def _direction(job: Job, kind: str) -> DirectionConfig:
    """A kind of feature, with the constants of the Adam that left the moments."""
    adam = job.settings.warmup.fit.optimizer
    return DirectionConfig(kind, adam.b1, adam.b2, adam.eps)


def run_pass(
    job: Job,
    dataset: Dataset,
    seed: int,
    point: taken_at.Point,
    kinds: Sequence[str],
    folders: dict[str, epath.Path],
    store: StoreConfig,
    rows_of: Callable[[Compute], Compute],
) -> dict:
    """One pass over the rows, which fills a store in each of these folders.

    The program makes all `kinds`, also those whose stores are finished: without them it would be
    another program, which rounds differently. rows_of: makes of it what gives each store its rows.
    """
    mesh = shared_mesh()
    settings = job.settings.features
    projection, own_seed = settings.projection, settings.seed_of(seed)
    model = job.gradient_model
    inputs = shared_inputs(
        model, point.adapter, job.weights, point.moments, projection, own_seed, mesh
    )
    directions = tuple(_direction(job, kind) for kind in kinds)
    function = feature_function(model, directions, projection, mesh)
    compute = rows_of(lambda batch: function(inputs, batch.tokens_BT, batch.supervised_BT))
    devices = mesh.size if mesh else 1
    batch_tokens = settings.batch_tokens or _measured(dataset, function, inputs, devices)
    rows = dataset.records.numbers_N.tolist()
    parameters = sum(leaf.size for leaf in job.weights.values())
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(StoreWriter(folder, rows, store)) for folder in folders.values()
        ]
        label = f"gradients ({', '.join(folders)})"
        return extract(
            compute,
            dataset.encoded,
            writers,
            batch_tokens,
            label,
            devices,
            process_share(),
            compile_cost(parameters, jax.default_backend()),
        )


def _only(compute: Compute, wanted: Sequence[int], kinds: int) -> Compute:
    """The function of a pass with the features of some of its kinds."""
    if len(wanted) == kinds:
        return compute

    def some(batch: Batch) -> FeatureBatch:
        found = compute(batch)
        return found._replace(features_KBP=found.features_KBP[np.array(wanted)])

    return some


def _measured(dataset: Dataset, function, inputs, devices: int) -> int:
    """The tokens that a device has room for, by what the compiler says of the longest rows."""
    width_T = -(-int(row_lengths(dataset.encoded).max()) // 8) * 8

    def memory_of(rows: int, width_T: int) -> int:
        shape = (rows * devices, width_T)
        tokens_BT = jax.ShapeDtypeStruct(shape, np.int32)
        supervised_BT = jax.ShapeDtypeStruct(shape, np.bool_)
        compiled = function.lower(inputs, tokens_BT, supervised_BT).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    tokens = fitting_tokens(memory_of, width_T, free_memory())
    print(f"memory allows {tokens:,} tokens a batch", flush=True)
    return tokens


def _momentum(kind: str, moments: Moments) -> float | None:
    """|m| over all leaves, where the kind has a momentum term."""
    if kind not in WITH_MOMENTUM:
        return None
    return float(np.sqrt(sum(float(np.sum(np.square(m))) for m in moments.first.values())))
