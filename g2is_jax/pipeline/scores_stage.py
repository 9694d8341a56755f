"""Cosines of the pool's rows to each target's validation rows, from a pass that keeps no features.

What `grads.scores_only` asks for: of a store of features nothing is left but N x M numbers, which
the methods take that look at cosines alone.
"""

from collections.abc import Sequence

import numpy as np
from etils import epath

from g2is_jax.features.cosines import scoring
from g2is_jax.features.rows import Cosines, unit_length
from g2is_jax.features.store import Store, StoreConfig, open_store
from g2is_jax.pipeline import features_stage, taken_at
from g2is_jax.pipeline.datasets import Target
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.manifest import stage_hash
from g2is_jax.runs.processes import is_first, wait_for_all
from g2is_jax.runs.stages import Stage


def stages(job: Job, kind: str, target: Target, seed: int) -> list[epath.Path]:
    """The stages of a target's cosines, one a checkpoint, oldest first; those of all targets and
    kinds that are not finished come from one pass."""
    return [
        _pass_stages(job, seed, number)[kind, target.name]
        for number in range(job.settings.features.checkpoints)
    ]


def read(folders: Sequence[epath.Path], weights: Sequence[float], rows_M: np.ndarray) -> Cosines:
    """The cosines to some of a target's validation rows (indices or a mask), averaged over the
    checkpoints by their weights."""
    stores = [open_store(folder) for folder in folders]
    parts = [
        weight * store.read().at_former_length()[:, : len(rows_M)][:, rows_M]
        for store, weight in zip(stores, weights, strict=True)
    ]
    finite_N = np.logical_and.reduce([store.finite_N for store in stores])
    return Cosines(sum(parts[1:], parts[0]), finite_N=finite_N)


def _pass_stages(job: Job, seed: int, number: int) -> dict[tuple[str, str], epath.Path]:
    """The stages of all kinds and targets at one checkpoint."""
    pool, kinds = job.data.pool, features_stage.kinds_of(job, job.data.pool)
    of_targets = {
        target.name: features_stage.stages(
            job, target.validation, job.settings.features.validation_kind, seed
        )[number]
        for target in job.data.targets
    }
    labels = {
        (kind, target): f"{pool.name} {kind} for {target} seed {seed} checkpoint {number + 1}"
        for kind in kinds
        for target in of_targets
    }

    def build(folders: dict[str, epath.Path]) -> dict[str, dict]:
        wanted = {which: folders[label] for which, label in labels.items() if label in folders}
        point = taken_at.points(job, seed, tuple(kinds))[number]
        units = [_units(open_store(of_targets[target])) for _, target in wanted]
        places = [kinds.index(kind) for kind, _ in wanted]
        work = features_stage.run_pass(
            job,
            pool,
            seed,
            point,
            kinds,
            {labels[which]: folder for which, folder in wanted.items()},
            StoreConfig("float32", job.settings.features.store.chunk_rows),
            lambda compute: scoring(compute, places, units),
        )
        wait_for_all(f"cosines of {pool.name}")
        counts = pool.counts | work if is_first() else {}
        return {labels[which]: counts for which in wanted}

    inputs = {"rows": pool.digest, **taken_at.inputs(job, seed), **job.checkpoint.digest}
    identities = {
        label: Stage(
            "scores",
            features_stage.identity(job, kind, seed, number),
            inputs | {"validation": stage_hash(of_targets[target])},
        )
        for (kind, target), label in labels.items()
    }
    found = job.stages.run_together(identities, build, shared=True)
    return {which: found[label] for which, label in labels.items()}


def _units(store: Store) -> np.ndarray:
    return unit_length(store.read()[:])
