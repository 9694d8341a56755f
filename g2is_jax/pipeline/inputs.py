"""Everything that a run reads: checkpoint, pool, targets and the base's weights.

Each part is read by a function of its own settings alone, and kept for as long as a command asks
with equal settings. So a config that differs elsewhere reads nothing again, and one that differs
there cannot be served what was read for another.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from etils import epath

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.files import FileRows, read_rows
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.model.build import Model, build_model
from g2is_jax.model.families import read_config
from g2is_jax.model.hub import resolve_checkpoint
from g2is_jax.model.lora import NO_ADAPTER, Leaves, LoraConfig
from g2is_jax.model.weights import Sharding, checkpoint_files, read_weights
from g2is_jax.pipeline import shared_rows
from g2is_jax.pipeline.datasets import Dataset, Target, read_target, target_files, usable_rows
from g2is_jax.pipeline.fields import BUILT_IN, target_name
from g2is_jax.pipeline.job_stages import Stages
from g2is_jax.pipeline.settings import (
    BaseSettings,
    CheckpointSettings,
    DataSettings,
    WeightSettings,
)
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.hashing import file_hash
from g2is_jax.runs.mesh import shared_mesh
from g2is_jax.runs.stages import Stage
from g2is_jax.skills.world import BASE_FOLDER, WORLD_CODE, WorldConfig, write_world


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder, on this machine or in a store."""

    folder: epath.Path

    @functools.cached_property
    def digest(self) -> dict[str, str]:
        """The content hashes of its files, as inputs of the stages that run the model."""
        return {f"model/{f.name}": file_hash(f) for f in checkpoint_files(self.folder)}


@dataclass(frozen=True)
class Data:
    """Pool and targets as token arrays.

    whole_pool: with the rows in `shared`, which stand in a target's files too; pool: without them
    where they are to be removed. summary: the lines that say how each file was read.
    """

    chat: ChatFormat
    whole_pool: Dataset
    targets: Sequence[Target]
    shared: Sequence[shared_rows.Shared]
    pool: Dataset
    summary: str


@dataclass(frozen=True)
class Readers:
    """The readers of a command, each of which keeps what it has read."""

    checkpoint: Callable[[CheckpointSettings], Checkpoint]
    data: Callable[[DataSettings], Data]
    model: Callable[[BaseSettings, LoraConfig], Model]
    weights: Callable[[WeightSettings], Leaves]


def cached_readers(stages: Stages) -> Readers:
    """The readers, which have read nothing; the built-in world becomes one of the stages."""
    checkpoint = functools.cache(read_checkpoint)
    return Readers(
        checkpoint=checkpoint,
        data=functools.cache(lambda settings: read_data(settings, checkpoint, stages)),
        model=functools.cache(lambda base, lora: describe_model(base, lora, checkpoint)),
        weights=functools.cache(lambda settings: load_weights(settings, checkpoint)),
    )


def read_checkpoint(settings: CheckpointSettings) -> Checkpoint:
    """The checkpoint, downloaded where it is a hub id."""
    built_in = settings.name == BUILT_IN
    folder = BASE_FOLDER if built_in else resolve_checkpoint(settings.name, settings.revision)
    return Checkpoint(folder)


def read_data(
    settings: DataSettings,
    checkpoint: Callable[[CheckpointSettings], Checkpoint],
    stages: Stages,
) -> Data:
    """The pool and the targets, read; InputError names what is wrong with a file."""
    folder = checkpoint(settings.checkpoint).folder
    _check_length(folder, settings.max_length)
    chat = ChatFormat(load_tokenizer(folder), settings.chat_template)
    files = target_files(settings, lambda: world_stage(stages, settings.world))
    pool_file, validation_files, test_files = files
    columns = settings.columns
    pool = read_rows(pool_file, settings.bad_rows, columns=columns)
    validations = [read_rows(file, "stop", columns=columns) for file in validation_files]
    tests = [read_rows(file, "stop", True, columns) for file in test_files]
    to_measure: list[FileRows | None] = [*tests] if tests else [None] * len(validations)
    whole = usable_rows(pool, chat, settings.max_length)
    targets = tuple(
        read_target(target_name(validation.path), validation, test, chat, settings.max_length)
        for validation, test in zip(validations, to_measure, strict=True)
    )
    _check_columns(settings, [pool, *validations, *tests])
    summary = "\n".join(line for rows in (pool, *validations, *tests) for line in rows.summary())
    shared = shared_rows.find(whole, targets)
    removed = {row.row for row in shared} if settings.overlap == "remove" else set()
    return Data(chat, whole, targets, shared, whole.without(removed), summary)


def _check_columns(settings: DataSettings, files: Sequence[FileRows]) -> None:
    """Check that every field that is named by hand is in some row."""
    for part, field in settings.columns:
        if not any((part, field) in rows.by_hand for rows in files):
            raise InputError(
                f"data.columns: no row has the field {field!r}, named as {part}; correct its name"
            )


def _check_length(checkpoint: epath.Path, max_length: int) -> None:
    decoder = read_config(checkpoint)  # before the tokenizer, which transformers would blame
    if max_length > decoder.max_position_embeddings:
        raise InputError(
            f"model.max_length = {max_length}: {checkpoint} takes at most "
            f"{decoder.max_position_embeddings} tokens (max_position_embeddings)"
        )


def world_stage(stages: Stages, world: WorldConfig) -> epath.Path:
    """The folder of the built-in world."""
    code = {f"code/{file.name}": file_hash(file) for file in WORLD_CODE}
    settings = dataclasses.asdict(world)
    return stages.run(
        Stage("world", settings, code),
        f"of {', '.join(world.targets)}",
        lambda folder: write_world(folder, world),
    )


def describe_model(
    base: BaseSettings, lora: LoraConfig, checkpoint: Callable[[CheckpointSettings], Checkpoint]
) -> Model:
    """The model with its adapter, without any weights."""
    return build_model(read_config(checkpoint(base.checkpoint).folder), lora, base.model)


def load_weights(
    settings: WeightSettings, checkpoint: Callable[[CheckpointSettings], Checkpoint]
) -> Leaves:
    """The base's weights, on the devices of this process."""
    folder, devices = checkpoint(settings.checkpoint).folder, shared_mesh()
    model = build_model(read_config(folder), NO_ADAPTER, settings.model)

    def sharding(path: str) -> Sharding | None:
        return model.sharding(path, devices) if devices else None

    return read_weights(folder, model.base_layout, model.dtype, sharding)
