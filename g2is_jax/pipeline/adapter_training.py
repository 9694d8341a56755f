"""Training on rows of the pool or of a target: warm-up, alignment and fine-tune."""

import dataclasses
from collections.abc import Callable, Sequence

from etils import epath

from g2is_jax.data.batches import (
    TrainingShapes,
    row_lengths,
    training_padding,
    training_shapes,
)
from g2is_jax.model.adapters import write_adapter
from g2is_jax.model.build import Model
from g2is_jax.model.lora import Leaves
from g2is_jax.model.merge import write_merged
from g2is_jax.pipeline.datasets import Dataset
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.mesh import shared_training_mesh
from g2is_jax.runs.processes import is_first
from g2is_jax.training.fit import FitConfig, fit

# Folders within a stage: PEFT's files of the last adapter, or a checkpoint of all weights.
ADAPTER, MODEL = "adapter", "model"


def train(
    job: Job,
    model: Model,
    dataset: Dataset,
    rows: Sequence[int],
    config: FitConfig,
    seed: int,
    folder: epath.Path,
    after_epoch: Callable[[int, Leaves], None] | None = None,
) -> tuple[Leaves, dict]:
    """Fit a fresh adapter, or all weights of a model without one, to these rows and write it;
    returns it, and counts for the manifest."""
    mesh = shared_training_mesh()
    devices = mesh.size if mesh else 1
    encoded = dataset.encoded.take(rows)
    ids = dataset.records.take(rows).ids_N.tolist()
    shapes = shapes_of(dataset, config, len(rows), devices, config.packing)
    adapter, moments = fit(
        model, job.weights, encoded, shapes, config, seed, folder, ids, mesh, after_epoch
    )
    if is_first() and model.adapter_shapes:
        write_adapter(folder / ADAPTER, adapter, model, str(job.checkpoint.folder))
    elif is_first():
        write_merged(folder / MODEL, job.checkpoint.folder, model, {}, adapter)

    def padding(shapes: TrainingShapes) -> float:
        steps = (row_lengths(encoded), config.batch_size, seed, config.epochs)
        return round(training_padding(*steps, shapes), 4)

    counts = {"rows": len(rows), "steps": moments.step, "padding": padding(shapes)}
    if config.packing:
        counts["padding_unpacked"] = padding(
            shapes_of(dataset, config, len(rows), devices, packed=False)
        )
    return adapter, counts


def shapes_of(
    dataset: Dataset, config: FitConfig, rows: int, devices: int, packed: bool
) -> TrainingShapes:
    """The shapes for so many rows of a file, whichever they are: all selections of one size share
    compiled programs."""
    lengths, tokens = row_lengths(dataset.encoded), config.microbatch_tokens * devices
    step = min(config.batch_size, rows)  # few rows would leave most of a larger step's shape empty
    return training_shapes(lengths, step, tokens, multiple=devices, packed=packed)


def fit_identity(config: FitConfig) -> dict:
    """The training settings that decide the result; the microbatch does not."""
    fields = dataclasses.asdict(config)
    names = ("epochs", "batch_size", "optimizer", *(("packing",) if config.packing else ()))
    return {name: fields[name] for name in names}
