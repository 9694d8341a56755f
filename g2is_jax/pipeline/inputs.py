"""Everything that a run reads: checkpoint, pool, targets and the base's weights.

Each part is read by a function of its own settings alone, and kept for as long as a command asks
with equal settings. So a config that differs elsewhere reads nothing again, and one that differs
there cannot be served what was read for another.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from etils import epath

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.files import FileRows, RowReader
from g2is_jax.data.row_fields import Columns
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.features.sentence_encoder import import_torch
from g2is_jax.model.build import Model, build_model
from g2is_jax.model.config import DecoderConfig
from g2is_jax.model.hub import resolve_checkpoint
from g2is_jax.model.lora import NO_ADAPTER, Leaves, LoraConfig
from g2is_jax.model.weight_files import checkpoint_files
from g2is_jax.model.weights import Sharding, read_decoder, read_weights
from g2is_jax.pipeline import shared_rows
from g2is_jax.pipeline.datasets import Dataset, Target, read_dataset, read_target, target_files
from g2is_jax.pipeline.fields import BUILT_IN, target_name
from g2is_jax.pipeline.first_date import date_line
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
from g2is_jax.runs.storage import in_object_store
from g2is_jax.skills.world import BASE_FOLDER, WORLD_CODE, WorldConfig, write_world


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder, on this machine or in a store."""

    folder: epath.Path

    @functools.cached_property
    def decoder(self) -> DecoderConfig:
        """Its decoder."""
        return self._read[0]

    @property
    def notes(self) -> list[str]:
        """Lines on what of its config is passed over."""
        return self._read[1]

    @functools.cached_property
    def _read(self) -> tuple[DecoderConfig, list[str]]:
        return read_decoder(self.folder)

    @functools.cached_property
    def digest(self) -> dict[str, str]:
        """The content hashes of its files, as inputs of the stages that run the model."""
        return {f"model/{f.name}": file_hash(f) for f in checkpoint_files(self.folder)}


@dataclass(frozen=True)
class Data:
    """Pool and targets as token arrays.

    whole_pool: with the rows in `shared`, which stand in a target's files too; pool: without them
    where they are to be removed. summary: lines on how config, files and templates were read.
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
    encoder: Callable[[str], Checkpoint]
    data: Callable[[DataSettings], Data]
    model: Callable[[BaseSettings, LoraConfig], Model]
    weights: Callable[[WeightSettings], Leaves]


def cached_readers(stages: Stages) -> Readers:
    """The readers, which have read nothing; the built-in world becomes one of the stages."""
    checkpoint = functools.cache(read_checkpoint)
    return Readers(
        checkpoint=checkpoint,
        encoder=functools.cache(read_encoder),
        data=functools.cache(lambda settings: read_data(settings, checkpoint, stages)),
        model=functools.cache(lambda base, lora: describe_model(base, lora, checkpoint)),
        weights=functools.cache(lambda settings: load_weights(settings, checkpoint)),
    )


def read_checkpoint(settings: CheckpointSettings) -> Checkpoint:
    """The checkpoint, downloaded where it is a hub id."""
    built_in = settings.name == BUILT_IN
    folder = BASE_FOLDER if built_in else resolve_checkpoint(settings.name, settings.revision)
    return Checkpoint(folder)


def read_encoder(name: str) -> Checkpoint:
    """The encoder of `embed.encoder`, downloaded where it is a hub id."""
    if in_object_store(name):
        raise InputError(f"embed.encoder: {name} is not on this machine; give a copy that is")
    import_torch()  # so that its absence is said before any download
    return Checkpoint(resolve_checkpoint(name, None, field="embed.encoder"))


def read_data(
    settings: DataSettings,
    checkpoint: Callable[[CheckpointSettings], Checkpoint],
    stages: Stages,
) -> Data:
    """The pool and the targets, read; InputError names what is wrong with a file."""
    base = checkpoint(settings.checkpoint)
    notes = list(base.notes)  # before the tokenizer, which transformers would blame
    chat = read_chat(base.folder, settings)
    files = target_files(settings, lambda: world_stage(stages, settings.world))
    pool_file, validation_files, test_files = files
    columns, length = settings.columns, settings.max_length
    targets: list[Target] = []
    of_targets: list[FileRows] = []
    for validation, test in itertools.zip_longest(validation_files, test_files):
        shown = RowReader(validation, columns=columns)
        measured = RowReader(test, True, columns) if test else None
        target, read = read_target(target_name(validation), shown, measured, chat, length)
        targets.append(target)
        of_targets += read
    finder = shared_rows.Finder(targets)
    pool = RowReader(pool_file, columns=columns)
    whole = read_dataset(pool, settings.bad_rows, chat, length, finder.look)
    read = [whole.file, *of_targets]
    check_columns(settings.columns, [dict(rows.by_hand) for rows in read])
    notes += [line for rows in read for line in rows.summary()]
    notes += chat.summary() + ([date_line(chat.today)] if chat.today else [])
    shared = finder.found(whole)
    removed = {row.row for row in shared} if settings.overlap == "remove" else set()
    return Data(chat, whole, targets, shared, whole.without(removed), "\n".join(notes))


def read_chat(checkpoint: epath.Path, settings: DataSettings) -> ChatFormat:
    """The tokenizer of a checkpoint with the config's chat template."""
    return ChatFormat(load_tokenizer(checkpoint), settings.chat_template, settings.today)


def check_columns(columns: Columns, found: Sequence[Mapping[str, str]]) -> None:
    """Check that every field that is named by hand was found in some file."""
    for part, field in columns:
        if not any(by_hand.get(part) == field for by_hand in found):
            raise InputError(
                f"data.columns: no row has the field {field!r}, named as {part}; correct its name"
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
    return build_model(checkpoint(base.checkpoint).decoder, lora, base.model)


def load_weights(
    settings: WeightSettings, checkpoint: Callable[[CheckpointSettings], Checkpoint]
) -> Leaves:
    """The base's weights, on the devices of this process."""
    base, devices = checkpoint(settings.checkpoint), shared_mesh()
    model = build_model(base.decoder, NO_ADAPTER, settings.model)

    def sharding(path: str) -> Sharding | None:
        return model.sharding(path, devices) if devices else None

    return read_weights(base.folder, model.base_layout, model.dtype, sharding)
