"""A config, checked field by field and split among the rooms that own its parts."""

import dataclasses
import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from ml_collections import ConfigDict

from g2is_jax.data.hub_sets import Place, place_of_rows
from g2is_jax.data.row_fields import Columns, read_columns
from g2is_jax.evaluation.evaluate import EvaluateConfig
from g2is_jax.evaluation.harness_tasks import HarnessConfig
from g2is_jax.evaluation.tasks.table import Task, named_task
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.features.store import StoreConfig
from g2is_jax.model.backends import EXECUTION, execution
from g2is_jax.model.build import ModelConfig
from g2is_jax.model.lora import LoraConfig
from g2is_jax.model.two_sided import TwoSidedConfig
from g2is_jax.pipeline.config_checks import ADAPTER, LAYERS, check_files, check_values
from g2is_jax.pipeline.fields import file_names, listed, owned, part_of
from g2is_jax.pipeline.first_date import read_date
from g2is_jax.pipeline.selection_settings import read_selection
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.methods import SelectionSettings
from g2is_jax.skills.world import WorldConfig
from g2is_jax.training.fit import FitConfig
from g2is_jax.training.optimizer import OptimizerConfig

# Fields beside FitConfig's.
NOT_OF_FIT = ("fraction", "seed", "adapter", "keep_epochs", "merge", "full")


@dataclass(frozen=True)
class CheckpointSettings:
    """The source of the checkpoint: a folder, `skills`, or a hub id with its revision."""

    name: str
    revision: str


@dataclass(frozen=True)
class DataSettings:
    """Everything that the pool and the targets, as token arrays, depend on.

    validation, test: one file a target; both empty for all targets of the built-in world. Without
    test alone nothing can be measured. today: the date that a chat template writes; None: the
    present one.
    """

    checkpoint: CheckpointSettings
    chat_template: str
    max_length: int
    pool: str
    validation: tuple[str, ...]
    test: tuple[str, ...]
    overlap: str
    bad_rows: str
    columns: Columns
    world: WorldConfig
    today: datetime.date | None

    @property
    def targets_of_world(self) -> bool:
        """True where no files are named for targets, which are then those of the built-in world."""
        return not self.validation

    @property
    def targets(self) -> int:
        """The number of targets."""
        return len(self.world.targets if self.targets_of_world else self.validation)


@dataclass(frozen=True)
class WeightSettings:
    """Everything that the base's weights on the devices depend on."""

    checkpoint: CheckpointSettings
    dtype: str
    shard_base: bool
    scan: bool | None

    @property
    def model(self) -> ModelConfig:
        """A model that holds these weights, however it would compute with them."""
        return ModelConfig(self.dtype, self.dtype, "blocks", False, self.shard_base, self.scan)


@dataclass(frozen=True)
class BaseSettings:
    """The checkpoint, and how its decoder is computed."""

    checkpoint: CheckpointSettings
    model: ModelConfig

    @property
    def weights(self) -> WeightSettings:
        """The part that the weights depend on."""
        model = self.model
        return WeightSettings(self.checkpoint, model.dtype, model.shard_base, model.scan)


@dataclass(frozen=True)
class WarmupSettings:
    """The warm-up: share of the pool, a seed that is added to the run's, and the folder of an
    adapter that is taken instead (empty: none)."""

    fit: FitConfig
    fraction: float
    seed: int
    adapter: str


@dataclass(frozen=True)
class FeatureSettings:
    """The gradient features; `checkpoints` counts those of the warm-up, from the newest. `layers`:
    the base's own linear layers whose gradients are taken; None: those of an adapter."""

    layers: TwoSidedConfig | None
    validation_kind: str
    checkpoints: int
    hidden_states: bool
    scores_only: bool
    batch_tokens: int
    store: StoreConfig
    folds: int
    precondition: str  # none, pool, or diagonal
    damping: float
    projection: ProjectionConfig
    projection_seed: int  # added to the run's, but for layers

    def seed_of(self, seed: int) -> int:
        """Of the projection. Features of layers are the same for every seed of the run."""
        return self.projection_seed + (seed if self.layers is None else 0)


@dataclass(frozen=True)
class FinetuneSettings:
    """The fine-tune, and which files it leaves beside the last adapter."""

    fit: FitConfig
    keep_epochs: bool
    merge: bool
    full: bool  # all weights are trained, and no adapter


@dataclass(frozen=True)
class EvaluationSettings:
    """How an adapter is measured; tasks and shots_files have one entry for each target.

    shots_files: None takes a target's validation file. adapter: `last`, or `best` of the epochs.
    """

    evaluate: EvaluateConfig
    tasks: tuple[Task, ...]
    shots_files: tuple[Place | None, ...]
    curves: bool
    adapter: str
    harness: HarnessConfig


@dataclass(frozen=True)
class Settings:
    """A whole config, each part as the room that owns it takes it."""

    data: DataSettings
    base: BaseSettings
    lora: LoraConfig
    warmup: WarmupSettings
    features: FeatureSettings
    selection: SelectionSettings
    finetune: FinetuneSettings
    evaluation: EvaluationSettings
    seeds: tuple[int, ...]


def read_settings(config: ConfigDict, backend: str, measures: bool = True) -> Settings:
    """Check every field by itself, and that the files it names are there.

    measures: whether test rows are needed.
    backend: that which the run is for, as in `jax.default_backend()`; it chooses the kernel of
    attention where the config leaves that open.
    """
    settings = check_settings(config, backend)
    check_files(config, measures)
    return settings


def check_settings(config: ConfigDict, backend: str) -> Settings:
    """Check every field by itself; the files it names need not be there."""
    check_values(config)
    checkpoint = CheckpointSettings(config.model.checkpoint, config.model.revision)
    lora = {**config.lora, "targets": listed(config.lora.targets, "lora.targets")}
    data = _data(config, checkpoint)
    return Settings(
        data=data,
        base=BaseSettings(checkpoint, read_model(config.model, backend)),
        lora=owned(LoraConfig, lora, "lora"),
        warmup=_warmup(config),
        features=_features(config),
        selection=read_selection(config),
        finetune=_finetune(config),
        evaluation=_evaluation(config, data.targets),
        seeds=_seeds(config.run.seeds),
    )


def _data(config: ConfigDict, checkpoint: CheckpointSettings) -> DataSettings:
    world = {**config.world, "targets": listed(config.world.targets, "world.targets")}
    return DataSettings(
        checkpoint=checkpoint,
        chat_template=config.model.chat_template,
        max_length=config.model.max_length,
        pool=config.data.pool,
        validation=tuple(filter(None, file_names(config.data.validation))),
        test=tuple(filter(None, file_names(config.data.test))),
        overlap=config.data.overlap,
        bad_rows=config.data.bad_rows,
        columns=read_columns(config.data.columns),
        world=owned(WorldConfig, world, "world"),
        today=read_date(config.data.today),
    )


def read_model(section: ConfigDict, backend: str) -> ModelConfig:
    """The decoder's execution on a backend, from the section `model` of a config."""
    fields = {name: section[name] for name in EXECUTION}
    return owned(execution, {**fields, "backend": backend}, "model")


def _features(config: ConfigDict) -> FeatureSettings:
    return FeatureSettings(
        layers=_layers(config.grads),
        validation_kind=config.grads.validation_kind,
        checkpoints=_checkpoints(config),
        hidden_states=config.grads.hidden_states,
        scores_only=config.grads.scores_only,
        batch_tokens=config.grads.batch_tokens,
        store=StoreConfig(config.grads.dtype, config.grads.chunk_rows),
        folds=config.grads.folds,
        precondition=config.grads.precondition,
        damping=config.grads.damping,
        projection=part_of(ProjectionConfig, config.projection, "projection"),
        projection_seed=config.projection.seed,
    )


def _layers(section: ConfigDict) -> TwoSidedConfig | None:
    """The linear layers whose own gradients are taken, where these are asked for."""
    if section.of == ADAPTER:
        return None
    return TwoSidedConfig(section.layer_width, listed(section.layers, "grads.layers"))


def _checkpoints(config: ConfigDict) -> int:
    """The number of the warm-up's checkpoints that features are made at; 0 asks for all. Without a
    warm-up there is one place alone."""
    if not (config.warmup.adapter or config.grads.of == LAYERS):
        return config.grads.checkpoints or config.warmup.epochs
    if config.grads.checkpoints > 1:
        raise InputError(
            f"grads.checkpoints = {config.grads.checkpoints}: there is no warm-up with "
            "warmup.adapter or grads.of = layers; set it to 1"
        )
    return 1


def _evaluation(config: ConfigDict, targets: int) -> EvaluationSettings:
    section = config.evaluate
    tasks = [part.strip() for part in section.tasks.split(",")]
    tasks = _for_each_target(tasks, "evaluate.tasks", targets)
    named = file_names(section.shots_files)
    shots_files = _for_each_target(named, "evaluate.shots_files", targets)
    return EvaluationSettings(
        evaluate=part_of(EvaluateConfig, config.evaluate, "evaluate"),
        tasks=tuple(map(named_task, tasks)),
        shots_files=tuple(place_of_rows(file) if file else None for file in shots_files),
        curves=config.evaluate.curves,
        adapter=config.evaluate.adapter,
        harness=_harness(config.evaluate),
    )


def _fit(section: ConfigDict, name: str) -> FitConfig:
    fields = OptimizerConfig.__dataclass_fields__
    optimizer = {key: value for key, value in section.items() if key in fields}
    loop = {k: v for k, v in section.items() if k not in (*optimizer, *NOT_OF_FIT)}
    return owned(FitConfig, {**loop, "optimizer": owned(OptimizerConfig, optimizer, name)}, name)


def _warmup(config: ConfigDict) -> WarmupSettings:
    """The warm-up, which keeps the checkpoints that the features come from."""
    fit = _fit(config.warmup, "warmup")
    asked = _checkpoints(config)
    if asked > fit.epochs:
        raise InputError(
            f"grads.checkpoints = {asked}, but the warm-up writes one after each of its "
            f"{fit.epochs} epochs; lower it, or raise warmup.epochs"
        )
    kept = fit.keep_checkpoints and max(fit.keep_checkpoints, asked)
    fit = dataclasses.replace(fit, keep_checkpoints=kept)
    section = config.warmup
    return WarmupSettings(fit, section.fraction, section.seed, section.adapter)


def _finetune(config: ConfigDict) -> FinetuneSettings:
    section = config.finetune
    if section.full and (section.merge or config.evaluate.curves):
        raise InputError(
            "finetune.full leaves a whole checkpoint, no adapter to merge nor one of each epoch; "
            "set finetune.merge and evaluate.curves to False"
        )
    if section.full and config.evaluate.adapter != "last":
        raise InputError("finetune.full leaves its last weights; set evaluate.adapter to last")
    fit = _fit(section, "finetune")
    return FinetuneSettings(fit, section.keep_epochs, section.merge, section.full)


def _harness(section: ConfigDict) -> HarnessConfig:
    named = section.harness_tasks
    fields = {
        "tasks": listed(named, "evaluate.harness_tasks") if named.strip() else (),
        "include": section.harness_include,
        "shots": section.harness_shots,
        "limit": section.harness_limit,
        "chat": section.harness_chat,
    }
    return owned(HarnessConfig, fields, "evaluate")


def _seeds(text: str) -> tuple[int, ...]:
    seeds = listed(text, "run.seeds")
    for seed in seeds:
        if not (seed.isascii() and seed.isdigit() and str(int(seed)) == seed):
            raise InputError(
                f"run.seeds: {seed!r} is not a whole number from 0; write for instance 0,1,2"
            )
    return tuple(map(int, seeds))


def _for_each_target(named: Sequence[str], field: str, targets: int) -> list[str]:
    """The parts of a field that has one for each target, or one for all of them."""
    if len(named) not in (1, targets):
        raise InputError(
            f"{field} = {','.join(named)!r} names {len(named)} for {targets} targets; give one for "
            "each, in the order of data.test, or one for all"
        )
    return [*named] if len(named) == targets else [*named] * targets
