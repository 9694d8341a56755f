"""The library in five functions, on lists of rows and arrays: no config file, no work folder.

    model = load("HuggingFaceTB/SmolLM2-135M-Instruct", {"lora.rank": 16})
    adapter = finetune(model, some_rows)
    picks = select(features(model, pool, adapter), features(model, examples, adapter), budget=0.05)
    tuned = finetune(model, [pool[pick.row] for pick in picks])
    evaluate(model, test_rows, tuned)

Settings are fields of the config by their full names, as flags have them without `--config.`, and
have the defaults of configs/default.py. A row is anything that a line of a file may hold
(docs/formats.md): a dictionary with `messages`, `instruction` and `output`, ...
"""

import functools
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from g2is_jax.commands import default_config
from g2is_jax.data.batches import length_batches, row_lengths, training_shapes
from g2is_jax.data.chat import ChatFormat, Encoded
from g2is_jax.data.files import read_records
from g2is_jax.data.records import Record
from g2is_jax.evaluation import evaluate as evaluation
from g2is_jax.evaluation.tasks.table import make_eval_set, named_task
from g2is_jax.features.extract import Microbatches
from g2is_jax.features.gradients import DirectionConfig, feature_function, shared_inputs
from g2is_jax.features.probes import probes
from g2is_jax.features.rows import Rows, as_rows, unit_length
from g2is_jax.model.adapters import write_adapter
from g2is_jax.model.build import Model, with_adapter
from g2is_jax.model.lora import Leaves
from g2is_jax.pipeline.config_checks import LAYERS
from g2is_jax.pipeline.inputs import describe_model, load_weights, read_chat, read_checkpoint
from g2is_jax.pipeline.selection_settings import read_selection
from g2is_jax.pipeline.settings import Settings, check_settings
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.mesh import shared_mesh
from g2is_jax.selection.budget import Pick, limits, without
from g2is_jax.selection.methods import FEATURES, METHODS, MethodInputs, needing
from g2is_jax.training.fit import fit
from g2is_jax.training.optimizer import Moments

Fields = Mapping[str, Any]  # of the config, by full names
RowsLike = Sequence[Mapping[str, Any]] | str | os.PathLike


@dataclass(frozen=True, eq=False)
class Loaded:
    """A checkpoint's model and weights, how rows become tokens, and the settings of all else."""

    model: Model
    base: Leaves
    chat: ChatFormat
    folder: epath.Path
    settings: Settings


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter, with the moments that Adam left."""

    leaves: Leaves
    moments: Moments


def load(checkpoint: str, fields: Fields | None = None) -> Loaded:
    """Loads a Hugging Face folder or hub id, or `skills`, the built-in base.

    fields: of `model`, `lora`, `projection`, `grads`, `finetune` and `evaluate`. InputError names
    what is wrong with the checkpoint or a field.
    """
    own = {"model.checkpoint": checkpoint, "grads.of": LAYERS}  # where there is no adapter
    config = _config(fields, own)
    settings = check_settings(config, jax.default_backend())
    read = functools.cache(read_checkpoint)
    folder = read(settings.base.checkpoint).folder
    model = describe_model(settings.base, settings.lora, read)
    base = load_weights(settings.base.weights, read)
    return Loaded(model, base, read_chat(folder, settings.data), folder, settings)


def features(
    model: Loaded, rows: RowsLike, adapter: Adapter | None = None, kind: str = "sgd", seed: int = 0
) -> Rows:
    """The gradient features of rows, unit vectors [N, P] in float32.

    adapter: where the gradients are taken, of its own values; None: of the base's own linear layers
    (`grads.layers`, `grads.layer_width`), which needs no training. kind: of KINDS in
    features/gradients.py; without an adapter `sgd`. seed: of the projection; both sides of a
    comparison need the same. InputError names a row without a supervised token.
    """
    encoded, settings = _encoded(model, _records(rows)), model.settings
    own = model.model
    if adapter is None:
        if kind != "sgd":
            raise InputError(f"kind = {kind!r}: of layers it is sgd; give an adapter")
        own = with_adapter(own, settings.features.layers)
        leaves = probes(own, seed)
        adapter = Adapter(leaves, Moments(0, leaves, leaves))
    adam, projection = settings.finetune.fit.optimizer, settings.features.projection
    mesh = shared_mesh()
    leaves, moments = adapter.leaves, adapter.moments
    inputs = shared_inputs(own, leaves, model.base, moments, projection, seed, mesh)
    direction = DirectionConfig(kind, adam.b1, adam.b2, adam.eps)
    function = feature_function(own, (direction,), projection, mesh)
    devices = mesh.size if mesh else 1
    microbatches = Microbatches(
        lambda batch: function(inputs, batch.tokens_BT, batch.supervised_BT), encoded, devices
    )
    plans = length_batches(encoded, settings.features.batch_tokens * devices, devices)
    found = np.concatenate([part.features_KBP[0] for part in microbatches.run(plans)])
    order = np.argsort(np.concatenate([plan.rows for plan in plans]))
    lengths_N = np.linalg.norm(found[order], axis=1).astype(np.float32)
    return Rows(unit_length(found[order]).astype(np.float32), norms_NK=lengths_N[:, None])


def select(
    pool: Rows | np.ndarray,
    target: Rows | np.ndarray,
    method: str = "g2is",
    budget: float = 0.05,
    unit: str = "fraction",
    fields: Fields | None = None,
    subtasks: Sequence[str] | None = None,
) -> list[Pick]:
    """The rows of the pool that a method chooses towards a target, in order, with the reasons.

    pool, target: features of one width, [N, P] and [M, P]. budget: a share of the pool (`unit`
    fraction) or a number of `rows`. fields: of `walk`, `knowledge`, `graph`, `paper` and `gist`.
    subtasks: a label of each target row, for `less` and `gist`. A pick's `row` is its place in the
    pool, its `component` the target row (or direction) that it was chosen for.
    """
    if method not in METHODS or method not in needing(list(METHODS), FEATURES):
        able = ", ".join(needing(list(METHODS), FEATURES))
        raise InputError(f"method = {method!r} does not choose by features; choose one of {able}")
    asked = {"selection.budget": budget, "selection.unit": unit, "run.methods": method}
    settings = read_selection(_config(fields, asked))
    pool_rows, target_rows = as_rows(pool), as_rows(target)
    count = len(pool_rows)
    ones_N = np.ones(count, int)
    allowed = without(limits(settings.budget, ones_N, [""] * count), ~pool_rows.finite_N)
    labels = [""] * len(target_rows) if subtasks is None else list(subtasks)
    inputs = MethodInputs(
        settings=settings,
        limits=allowed,
        seed=0,
        tokens_N=ones_N,
        mesh=shared_mesh(),
        pool=pool_rows,
        validation=_with_norms(target_rows),
        subtasks_M=np.array(labels),
    )
    choose = METHODS[method].choose
    assert choose is not None, "a method by features chooses rows"
    return list(choose(inputs).picks)


def finetune(
    model: Loaded, rows: RowsLike, folder: str | os.PathLike | None = None, seed: int = 0
) -> Adapter:
    """Trains a fresh adapter on rows by the fields of `finetune`.

    folder: gets checkpoints, from which the same call goes on, and PEFT's files under `adapter/`;
    None: nothing is kept. seed: of the adapter and of the order of the rows.
    """
    records, config = _records(rows), model.settings.finetune.fit
    encoded, mesh = _encoded(model, records), shared_mesh()
    devices = mesh.size if mesh else 1
    tokens = config.microbatch_tokens * devices
    shapes = training_shapes(
        row_lengths(encoded), config.batch_size, tokens, multiple=devices, packed=config.packing
    )
    ids = [record.id for record in records]
    with tempfile.TemporaryDirectory() as nowhere:
        place = epath.Path(folder or nowhere)
        found = fit(model.model, model.base, encoded, shapes, config, seed, place, ids, mesh)
    adapter = Adapter(*found)
    if folder:
        write_adapter(place / "adapter", adapter.leaves, model.model, str(model.folder))
    return adapter


def evaluate(
    model: Loaded,
    rows: RowsLike,
    adapter: Adapter | None = None,
    task: str = "answer",
    worked: RowsLike | None = None,
) -> dict[str, float]:
    """The metrics of the base, or of an adapter, on test rows: `answer_loss` and the task's own.

    task: as in `evaluate.tasks`. worked: rows to show before each, for a task with shots. Replies
    are of at most `evaluate.new_tokens` tokens; with 0 there are none.
    """
    records, settings = _records(rows), model.settings
    leaves = model.model.zero_adapter() if adapter is None else adapter.leaves
    shown = [] if worked is None else _records(worked)
    eval_set = make_eval_set(named_task(task), records, "rows", shown, "worked")
    config = settings.evaluation.evaluate
    length = settings.data.max_length
    return evaluation.evaluate(
        model.model, leaves, model.base, model.chat, eval_set, length, config
    )[0]


def _config(fields: Fields | None, own: Fields) -> ConfigDict:
    """The default config with some fields changed; InputError names one that there is not."""
    config = default_config()
    for name, value in {**(fields or {}), **own}.items():
        try:
            config.update_from_flattened_dict({name: value})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{name} = {value!r}: {error}; see configs/default.py") from error
    return config


def _records(rows: RowsLike) -> list[Record]:
    """The rows of a file or a hub id, or those of a list, read as the lines of a file."""
    if isinstance(rows, str | os.PathLike):
        return read_records(rows)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("".join(json.dumps(dict(row)) + "\n" for row in rows))
        return read_records(file)


def _encoded(model: Loaded, records: Sequence[Record]) -> list[Encoded]:
    length = model.settings.data.max_length
    encoded = model.chat.encode_all(records, length)
    for record, example in zip(records, encoded, strict=True):
        if not example.supervised_T.any():
            raise InputError(
                f"row {record.row} ({record.id}) has no supervised token within {length} tokens; "
                "leave it out, or raise model.max_length"
            )
    return encoded


def _with_norms(rows: Rows) -> Rows:
    """The rows with their lengths; those of an array have them already."""
    if rows.norms_NK is not None:
        return rows
    lengths_M = np.linalg.norm(rows[:], axis=1).astype(np.float32)
    return Rows(jnp.asarray(unit_length(rows[:])), norms_NK=lengths_M[:, None])
