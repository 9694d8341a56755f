"""What warm-up and fine-tune have in common: an adapter trained on rows of the pool."""

import dataclasses
from collections.abc import Callable, Sequence

from etils import epath

from g2is_jax.data.batches import TrainingShapes, row_lengths, training_padding
from g2is_jax.model.adapters import write_adapter
from g2is_jax.model.lora import Leaves
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.processes import is_first
from g2is_jax.training.fit import FitConfig, fit

ADAPTER = "adapter"  # folder within a stage: PEFT's files of the last adapter


def train(
    job: Job,
    rows: Sequence[int],
    config: FitConfig,
    seed: int,
    folder: epath.Path,
    after_epoch: Callable[[int, Leaves], None] | None = None,
) -> tuple[Leaves, dict]:
    """Fit a fresh adapter to these rows and write it; returns it, and counts for the manifest."""
    encoded = [job.pool.encoded[row] for row in rows]
    ids = [job.pool.records[row].id for row in rows]
    shapes, mesh = job.training_shapes(config, config.packing), job.training_mesh
    adapter, moments = fit(
        job.model, job.base, encoded, shapes, config, seed, folder, ids, mesh, after_epoch
    )
    if is_first():
        write_adapter(folder / ADAPTER, adapter, job.model, str(job.checkpoint))

    def padding(shapes: TrainingShapes) -> float:
        steps = (row_lengths(encoded), config.batch_size, seed, config.epochs)
        return round(training_padding(*steps, shapes, job.devices), 4)

    counts = {"rows": len(rows), "steps": moments.step, "padding": padding(shapes)}
    if config.packing:
        counts["padding_unpacked"] = padding(job.training_shapes(config, packed=False))
    return adapter, counts


def fit_identity(config: FitConfig) -> dict:
    """Training settings that decide the result; the microbatch does not."""
    fields = dataclasses.asdict(config)
    names = ("epochs", "batch_size", "optimizer", *(("packing",) if config.packing else ()))
    return {name: fields[name] for name in names}
