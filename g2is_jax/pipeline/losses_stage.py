"""Answer losses of a file's rows under the base or an adapter, and the adapter of `loss_drop`."""

import dataclasses
from collections.abc import Callable

import numpy as np
from etils import epath

from g2is_jax.evaluation.loss_rows import extract_losses, stored_losses
from g2is_jax.features.store import StoreConfig, StoreWriter, open_store
from g2is_jax.model.adapters import read_adapter
from g2is_jax.model.lora import Leaves
from g2is_jax.pipeline.adapter_training import ADAPTER, fit_identity, train
from g2is_jax.pipeline.datasets import Dataset, Target
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.manifest import stage_hash
from g2is_jax.runs.processes import is_first, wait_for_all
from g2is_jax.runs.stages import Stage


def aligned(job: Job, target: Target, seed: int) -> epath.Path:
    """The stage of a fresh adapter trained on all validation rows of a target, as the warm-up is
    on its share of the pool."""
    settings, dataset = job.settings.warmup, target.validation
    own_seed = seed + settings.seed
    fit = dataclasses.replace(settings.fit, keep_checkpoints=1)  # features may need more; this not

    def build(folder: epath.Path) -> dict:
        return train(job, job.model, dataset, range(len(dataset.encoded)), fit, own_seed, folder)[1]

    identity = {"fit": fit_identity(fit), "seed": own_seed, **job.model_identity}
    inputs = {"rows": dataset.digest, **job.checkpoint.digest}
    name = f"{target.name} seed {seed}"
    return job.stages.run(Stage("aligned", identity, inputs), name, build, shared=True)


def before(job: Job) -> epath.Path:
    """The stage of the pool's losses under the base, which all targets and seeds share."""
    model = {key: value for key, value in job.model_identity.items() if key != "lora"}
    return _stage(job, job.data.pool, model, {}, "of the base", job.model.zero_adapter)


def after(job: Job, target: Target, seed: int) -> epath.Path:
    """The stage of the pool's losses under the adapter that is aligned with a target."""
    folder = aligned(job, target, seed)
    return under_adapter(job, job.data.pool, folder, f"of {target.name} seed {seed}")


def under_adapter(job: Job, dataset: Dataset, trained: epath.Path, name: str) -> epath.Path:
    """The stage of a file's losses under the last adapter of a finished training."""
    inputs = {"adapter": stage_hash(trained)}

    def adapter() -> Leaves:
        return read_adapter(trained / ADAPTER, job.model)

    return _stage(job, dataset, job.model_identity, inputs, name, adapter)


def losses(folder: epath.Path) -> np.ndarray:
    """The losses of a finished stage, one for each usable row of its file, NaN where not finite."""
    return stored_losses(open_store(folder))


def _stage(
    job: Job,
    dataset: Dataset,
    settings: dict,
    inputs: dict[str, str],
    name: str,
    adapter: Callable[[], Leaves],
) -> epath.Path:
    own = job.settings.features.store
    rows = dataset.records.numbers_N.tolist()

    def build(folder: epath.Path) -> dict:
        tokens = job.settings.evaluation.evaluate.batch_tokens  # of forward passes alone
        with StoreWriter(folder, rows, StoreConfig("float32", own.chunk_rows)) as writer:
            work = extract_losses(
                job.model, adapter(), job.weights, dataset.encoded, tokens, writer
            )
        wait_for_all(f"losses {name}")
        if not is_first():
            return {}
        odd = int(np.isnan(losses(folder)).sum())
        if odd:
            print(f"losses {name}: {odd:,} rows are not finite and cannot be chosen", flush=True)
        return dataset.counts | work | {"not_finite": odd}

    inputs = {"rows": dataset.digest, **inputs, **job.checkpoint.digest}
    return job.stages.run(Stage("losses", settings, inputs), name, build, shared=True)
