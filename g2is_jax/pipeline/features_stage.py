"""Gradient features of the pool and of validation rows, once a seed and checkpoint."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.batches import Batch, row_lengths
from g2is_jax.features.diagnostics import diagnose, lines
from g2is_jax.features.extract import extract, fitting_tokens
from g2is_jax.features.gradients import (
    WITH_MOMENTUM,
    FeatureBatch,
    feature_function,
    shared_inputs,
)
from g2is_jax.features.hidden_states import extract_hidden
from g2is_jax.features.projection import fold
from g2is_jax.features.rows import Rows, side_by_side
from g2is_jax.features.store import StoreWriter, open_store
from g2is_jax.pipeline import warmup_stage
from g2is_jax.pipeline.datasets import Dataset
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.manifest import stage_hash
from g2is_jax.runs.mesh import free_memory
from g2is_jax.runs.processes import is_first, process_share, wait_for_all
from g2is_jax.runs.storage import write_atomic
from g2is_jax.training.optimizer import Moments


def run(config: ConfigDict, workdir: epath.Path) -> list[epath.Path]:
    """The features that the methods need, of each seed; returns the stages' folders."""
    job = Job(config, workdir)
    job.check()
    datasets = [job.pool, *(target.validation for target in job.targets)]
    folders = []
    for seed in job.seeds:
        for dataset in datasets:
            for kind in job.kinds(dataset):
                folders += stages(job, dataset, kind, seed)
    if config.grads.hidden_states:
        folders += [hidden_stage(job, dataset) for dataset in datasets]
    return folders


def stages(job: Job, dataset: Dataset, kind: str, seed: int) -> list[epath.Path]:
    """One feature row for each usable row of a file: a folder for each checkpoint, folded where
    that is asked."""
    passes = pass_stages(job, dataset, kind, seed)
    if not job.settings.folds:
        return passes
    return [_folded(job, source, f"{dataset.name} {kind}", seed) for source in passes]


def pass_stages(job: Job, dataset: Dataset, kind: str, seed: int) -> list[epath.Path]:
    """The same as the gradient passes leave it.

    Kinds that other methods need of the same rows are made in the same pass.
    """
    others = [other for other in job.kinds(dataset) if other != kind]
    return [
        _stage(job, dataset, [kind, *others], seed, number, [])
        for number in range(job.settings.checkpoints)
    ]


def _stage(
    job: Job,
    dataset: Dataset,
    kinds: Sequence[str],
    seed: int,
    number: int,
    begun: list[tuple[str, epath.Path]],
) -> epath.Path:
    """The stage of the first kind. While it is open, those of the other kinds are opened too, and
    the innermost runs the pass for all of them.

    begun: kinds and folders of the stages around this one; emptied when they are filled.
    """
    kind, *others = kinds
    direction = job.direction(kind)

    def build(folder: epath.Path) -> dict:
        begun.append((kind, folder))
        if others:
            _stage(job, dataset, others, seed, number, begun)
        work = _pass(job, dataset, seed, number, begun) if begun else {}
        begun.clear()
        momentum = None
        if kind in WITH_MOMENTUM:
            momentum = _norm(warmup_stage.load(job, seed)[number].moments)
        wait_for_all(f"{kind} features of {dataset.name}")
        if not is_first():
            return {}
        return _counts(dataset, folder, momentum, direction.b1) | work

    identity = {
        "direction": dataclasses.asdict(direction),
        "projection": dataclasses.asdict(job.settings.projection)
        | {"seed": seed + job.settings.projection_seed},
        "rows_dtype": job.settings.store.dtype,
        "checkpoint": number - job.settings.checkpoints,  # -1 is the newest
        **job.model_identity,
    }
    warm = warmup_stage.stage(job, seed)
    inputs = {"rows": dataset.digest, "warmup": stage_hash(warm), **job.checkpoint_digest}
    which = f" checkpoint {number + 1}" if job.settings.checkpoints > 1 else ""
    label = f"{dataset.name} {kind} seed {seed}{which}"
    return job.run_stage("features", label, identity, inputs, build, shared=True)


def _pass(
    job: Job,
    dataset: Dataset,
    seed: int,
    number: int,
    begun: Sequence[tuple[str, epath.Path]],
) -> dict:
    """One pass over the rows, for all kinds that were begun.

    The program makes those that are finished already, too: without them it would be another
    program, which rounds differently.
    """
    checkpoint = warmup_stage.load(job, seed)[number]
    projection, own_seed = job.settings.projection, seed + job.settings.projection_seed
    inputs = shared_inputs(
        job.model, checkpoint.adapter, job.base, checkpoint.moments, projection, own_seed, job.mesh
    )
    kinds = sorted({*job.kinds(dataset), *(kind for kind, _ in begun)})
    directions = tuple(job.direction(kind) for kind in kinds)
    function = feature_function(job.model, directions, projection, job.mesh)
    begun = sorted(begun)
    wanted = [kinds.index(kind) for kind, _ in begun]

    def compute(batch: Batch) -> FeatureBatch:
        found = function(inputs, batch.tokens_BT, batch.supervised_BT)
        if len(wanted) == len(kinds):
            return found
        return found._replace(features_KBP=np.asarray(found.features_KBP)[wanted])

    devices = job.mesh.size if job.mesh else 1
    batch_tokens = job.config.grads.batch_tokens or _measured(dataset, function, inputs, devices)
    rows = [record.row for record in dataset.records]
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(StoreWriter(folder, rows, job.settings.store))
            for _, folder in begun
        ]
        label = f"gradients ({', '.join(kind for kind, _ in begun)})"
        return extract(
            compute, dataset.encoded, writers, batch_tokens, label, devices, process_share()
        )


def _measured(dataset: Dataset, function, inputs, devices: int) -> int:
    """Tokens a device has room for, by what the compiler says of the longest rows."""
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


def _counts(dataset: Dataset, folder: epath.Path, momentum: float | None, b1: float) -> dict:
    """What the manifest says of the features; their diagnostics are written beside them.

    momentum: |m|, where the kind has a momentum term.
    """
    ids = [record.id for record in dataset.records]
    sources = [record.source for record in dataset.records]
    found = diagnose(open_store(folder), ids, sources, momentum, b1)
    written = json.dumps(dataclasses.asdict(found), indent=2) + "\n"
    write_atomic(folder / "diagnostics.json", written)
    print(lines(found), flush=True)
    return {"rows": len(ids), "dropped": dataset.dropped, "truncated": dataset.truncated}


def _norm(moments: Moments) -> float:
    """|m|, over all leaves."""
    return float(np.sqrt(sum(float(np.sum(np.square(m))) for m in moments.first.values())))


def _folded(job: Job, source: epath.Path, label: str, seed: int) -> epath.Path:
    """The rows of another store, folded to a narrower projection: no gradient is computed again."""
    folds, own_seed = job.settings.folds, seed + job.settings.projection_seed

    def build(folder: epath.Path) -> dict:
        store = open_store(source)
        with StoreWriter(folder, store.rows_N, job.settings.store) as writer:
            done = writer.start(store.positions)
            for index, (positions_B, rows_BP) in enumerate(store.blocks()):
                if done[index]:
                    continue
                rows_BP = rows_BP * store.norms_N[positions_B, None]
                for _ in range(folds):
                    rows_BP = fold(rows_BP, own_seed)
                rows_BP[~store.finite_N[positions_B]] = np.nan  # stays a row that is marked
                tokens_B = store.tokens_N[positions_B]
                writer.write(index, rows_BP, store.gradient_norms_N[positions_B], tokens_B)
        return {"rows": len(store.rows_N), "width": store.width // 2**folds}

    identity = {"folds": folds, "seed": own_seed, "rows_dtype": job.settings.store.dtype}
    label = f"{label} seed {seed} folded {folds}x"
    return job.run_stage("folded", label, identity, {"features": stage_hash(source)}, build)


def hidden_stage(job: Job, dataset: Dataset) -> epath.Path:
    """The representation of RDS+ for each usable row of a file; needs no warm-up."""
    rows = [record.row for record in dataset.records]

    def build(folder: epath.Path) -> dict:
        tokens = job.config.evaluate.batch_tokens  # of forward passes alone
        with StoreWriter(folder, rows, job.settings.store) as writer:
            work = extract_hidden(job.model, job.base, dataset.encoded, tokens, writer)
        wait_for_all(f"hidden states of {dataset.name}")
        return _counts(dataset, folder, None, 0.0) | work if is_first() else {}

    model = {key: value for key, value in job.model_identity.items() if key != "lora"}
    identity = {"rows_dtype": job.settings.store.dtype, **model}
    inputs = {"rows": dataset.digest, **job.checkpoint_digest}
    return job.run_stage("hidden", dataset.name, identity, inputs, build, shared=True)


def load(job: Job, dataset: Dataset, kind: str, seed: int) -> Rows:
    """The features of a file's usable rows, in their order; those of several checkpoints side by
    side, under the checkpoints' weights."""
    folders = tuple(stages(job, dataset, kind, seed))
    weights: tuple[float, ...] = (1.0,)
    if len(folders) > 1:
        weights = tuple(checkpoint.weight for checkpoint in warmup_stage.load(job, seed))
    return _kept(job, dataset, folders, weights)


def load_hidden(job: Job, dataset: Dataset) -> Rows:
    """The hidden states of a file's usable rows, in their order."""
    return _kept(job, dataset, (hidden_stage(job, dataset),), (1.0,))


def forget() -> None:
    """Drops the rows that are kept in memory for the next method."""
    _pool_rows.cache_clear()
    _validation_rows.cache_clear()


def _kept(
    job: Job, dataset: Dataset, folders: tuple[epath.Path, ...], weights: tuple[float, ...]
) -> Rows:
    read = _pool_rows if dataset is job.pool else _validation_rows
    return read(folders, weights)


def _read(folders: tuple[epath.Path, ...], weights: tuple[float, ...]) -> Rows:
    found = [open_store(folder).read() for folder in folders]
    return found[0] if len(found) == 1 else side_by_side(found, weights)


_pool_rows = functools.lru_cache(maxsize=1)(_read)  # the largest thing in memory
_validation_rows = functools.lru_cache(maxsize=8)(_read)
