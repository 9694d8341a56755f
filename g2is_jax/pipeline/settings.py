"""A config, checked field by field and split among the rooms that own its parts."""

import dataclasses
from dataclasses import dataclass

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.chat import TEMPLATES
from g2is_jax.evaluation.evaluate import EvaluateConfig
from g2is_jax.evaluation.harness_tasks import HarnessConfig
from g2is_jax.evaluation.tasks.table import Task, named_task
from g2is_jax.features.gradients import KINDS
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.features.store import StoreConfig
from g2is_jax.model.build import ModelConfig
from g2is_jax.model.lora import LoraConfig
from g2is_jax.pipeline.fields import flat_fields, listed, owned, part_of, parts
from g2is_jax.pipeline.selection_settings import read_selection
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.methods import SelectionSettings
from g2is_jax.skills.world import WorldConfig
from g2is_jax.training.fit import FitConfig
from g2is_jax.training.optimizer import OptimizerConfig

BUILT_IN = "skills"
NOT_OF_FIT = ("fraction", "seed", "keep_epochs", "merge")  # fields beside FitConfig's
CHOICES = {
    "data.overlap": ("report", "remove"),
    "evaluate.adapter": ("last", "best"),
    "model.chat_template": ("auto", *TEMPLATES),
    "grads.kind": KINDS,
    "grads.less_kind": KINDS,
    "grads.validation_kind": KINDS,
    "paper.kind": KINDS,
}
AT_LEAST = {
    "model.max_length": 2,
    "lora.rank": 1,
    "world.validation_rows": 1,
    "world.test_rows": 1,
    "grads.batch_tokens": 0,
    "grads.checkpoints": 0,
    "grads.chunk_rows": 1,
    "grads.folds": 0,
    "projection.seed": 0,
    "warmup.seed": 0,
}
FROM_0_TO_1 = ("lora.dropout", "world.wrong", "world.duplicates", "warmup.fraction")
BELOW_1 = ("lora.dropout",)
ABOVE_0 = ("lora.alpha", "world.scale", "warmup.fraction")


@dataclass(frozen=True)
class CheckpointSettings:
    """The source of the checkpoint: a folder, `skills`, or a hub id with its revision."""

    name: str
    revision: str


@dataclass(frozen=True)
class DataSettings:
    """Everything that the pool and the targets, as token arrays, depend on.

    validation, test: one file a target; both empty for all targets of the built-in world.
    """

    checkpoint: CheckpointSettings
    chat_template: str
    max_length: int
    pool: str
    validation: tuple[str, ...]
    test: tuple[str, ...]
    overlap: str
    world: WorldConfig


@dataclass(frozen=True)
class BaseSettings:
    """Everything that the base's weights on the devices depend on."""

    checkpoint: CheckpointSettings
    model: ModelConfig


@dataclass(frozen=True)
class WarmupSettings:
    """The warm-up: share of the pool, and a seed that is added to the run's."""

    fit: FitConfig
    fraction: float
    seed: int


@dataclass(frozen=True)
class FeatureSettings:
    """The gradient features; `checkpoints` counts those of the warm-up, from the newest."""

    validation_kind: str
    checkpoints: int
    hidden_states: bool
    batch_tokens: int
    store: StoreConfig
    folds: int
    projection: ProjectionConfig
    projection_seed: int  # added to the run's


@dataclass(frozen=True)
class FinetuneSettings:
    """The fine-tune, and which files it leaves beside the last adapter."""

    fit: FitConfig
    keep_epochs: bool
    merge: bool


@dataclass(frozen=True)
class EvaluationSettings:
    """How an adapter is measured; tasks and shots_files have one entry for each target.

    shots_files: None takes a target's validation file. adapter: `last`, or `best` of the epochs.
    """

    evaluate: EvaluateConfig
    tasks: tuple[Task, ...]
    shots_files: tuple[epath.Path | None, ...]
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


def read_settings(config: ConfigDict) -> Settings:
    """Check every field by itself, and that the files it names are there."""
    settings = check_settings(config)
    _check_files(config, settings)
    return settings


def check_settings(config: ConfigDict) -> Settings:
    """Check every field by itself; the files it names need not be there."""
    _check_values(config)
    checkpoint = CheckpointSettings(config.model.checkpoint, config.model.revision)
    lora = {**config.lora, "targets": listed(config.lora.targets, "lora.targets")}
    return Settings(
        data=_data(config, checkpoint),
        base=BaseSettings(checkpoint, part_of(ModelConfig, config.model, "model")),
        lora=owned(LoraConfig, lora, "lora"),
        warmup=_warmup(config),
        features=_features(config),
        selection=read_selection(config),
        finetune=FinetuneSettings(
            _fit(config.finetune, "finetune"), config.finetune.keep_epochs, config.finetune.merge
        ),
        evaluation=_evaluation(config),
        seeds=_seeds(config.run.seeds),
    )


def _data(config: ConfigDict, checkpoint: CheckpointSettings) -> DataSettings:
    listed(config.world.targets, "world.targets")
    return DataSettings(
        checkpoint=checkpoint,
        chat_template=config.model.chat_template,
        max_length=config.model.max_length,
        pool=config.data.pool,
        validation=parts(config.data.validation),
        test=parts(config.data.test),
        overlap=config.data.overlap,
        world=owned(WorldConfig, config.world, "world"),
    )


def _features(config: ConfigDict) -> FeatureSettings:
    return FeatureSettings(
        validation_kind=config.grads.validation_kind,
        checkpoints=config.grads.checkpoints or config.warmup.epochs,
        hidden_states=config.grads.hidden_states,
        batch_tokens=config.grads.batch_tokens,
        store=StoreConfig(config.grads.dtype, config.grads.chunk_rows),
        folds=config.grads.folds,
        projection=part_of(ProjectionConfig, config.projection, "projection"),
        projection_seed=config.projection.seed,
    )


def _evaluation(config: ConfigDict) -> EvaluationSettings:
    tasks = _for_each_target(config, config.evaluate.tasks, "evaluate.tasks")
    shots_files = _for_each_target(config, config.evaluate.shots_files, "evaluate.shots_files")
    return EvaluationSettings(
        evaluate=part_of(EvaluateConfig, config.evaluate, "evaluate"),
        tasks=tuple(map(named_task, tasks)),
        shots_files=tuple(epath.Path(file) if file else None for file in shots_files),
        curves=config.evaluate.curves,
        adapter=config.evaluate.adapter,
        harness=_harness(config.evaluate),
    )


def _check_values(config: ConfigDict) -> None:
    """Fields that no room's settings check."""
    fields = flat_fields(config)
    for field, known in CHOICES.items():
        if fields[field] not in known:
            raise InputError(
                f"{field} = {fields[field]!r} is unknown; choose one of {', '.join(known)}"
            )
    for field, least in AT_LEAST.items():
        if fields[field] < least:
            raise InputError(f"{field} = {fields[field]}; it must be at least {least}")
    for field in FROM_0_TO_1:
        if not 0 <= fields[field] <= 1:
            raise InputError(f"{field} = {fields[field]}; it must be from 0 to 1")
    for field in ABOVE_0:
        if not fields[field] > 0:
            raise InputError(f"{field} = {fields[field]}; it must be above 0")
    for field in BELOW_1:
        if not fields[field] < 1:
            raise InputError(f"{field} = {fields[field]}; it must be below 1")
    if config.evaluate.new_tokens >= config.model.max_length:
        raise InputError(
            f"evaluate.new_tokens = {config.evaluate.new_tokens} leaves no room for a prompt "
            f"within model.max_length = {config.model.max_length}; lower the one or raise the other"
        )
    curves = config.evaluate.curves or config.evaluate.adapter == "best"
    if curves and not config.finetune.keep_epochs:
        raise InputError(
            "evaluate.curves and evaluate.adapter = 'best' need the adapter of each epoch; "
            "set finetune.keep_epochs"
        )


def _fit(section: ConfigDict, name: str) -> FitConfig:
    fields = OptimizerConfig.__dataclass_fields__
    optimizer = {key: value for key, value in section.items() if key in fields}
    loop = {k: v for k, v in section.items() if k not in (*optimizer, *NOT_OF_FIT)}
    return owned(FitConfig, {**loop, "optimizer": owned(OptimizerConfig, optimizer, name)}, name)


def _warmup(config: ConfigDict) -> WarmupSettings:
    """The warm-up, which keeps the checkpoints that the features come from."""
    fit = _fit(config.warmup, "warmup")
    asked = config.grads.checkpoints or fit.epochs
    if asked > fit.epochs:
        raise InputError(
            f"grads.checkpoints = {asked}, but the warm-up writes one after each of its "
            f"{fit.epochs} epochs; lower it, or raise warmup.epochs"
        )
    kept = fit.keep_checkpoints and max(fit.keep_checkpoints, asked)
    fit = dataclasses.replace(fit, keep_checkpoints=kept)
    return WarmupSettings(fit, config.warmup.fraction, config.warmup.seed)


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


def _for_each_target(config: ConfigDict, text: str, field: str) -> list[str]:
    """The parts of a field that has one by commas for each target, or one for all of them."""
    named = [part.strip() for part in text.split(",")]
    targets = len(parts(config.data.test)) or len(listed(config.world.targets, "world.targets"))
    if len(named) not in (1, targets):
        raise InputError(
            f"{field} = {text!r} names {len(named)} for {targets} targets; give one for each, in "
            "the order of data.test, or one for all"
        )
    return named if len(named) == targets else named * targets


def target_name(validation: epath.Path) -> str:
    """The name of a target: that of its validation file, without `val_`."""
    stem = validation.name.removesuffix(".gz").removesuffix(".jsonl")
    return stem.removeprefix("validation_").removeprefix("val_")


def _check_files(config: ConfigDict, settings: Settings) -> None:
    """Every file that the config names is there, before the first one is read."""
    data = settings.data
    if not data.checkpoint.name:
        raise InputError("model.checkpoint is empty; give a Hugging Face folder, or skills")
    if not data.pool:
        raise InputError("data.pool is empty; give a .jsonl or .jsonl.gz file, or skills")
    if len(data.validation) != len(data.test) or (not data.test and data.pool != BUILT_IN):
        raise InputError(
            f"data.validation names {len(data.validation)} files and data.test {len(data.test)}; "
            "give one of each for every target"
        )
    _check_target_names(data.validation)
    pool = () if data.pool == BUILT_IN else (data.pool,)
    for name in (*pool, *data.validation, *data.test, *parts(config.evaluate.shots_files)):
        if not epath.Path(name).exists():
            raise InputError(
                f"{epath.Path(name)}: no such file; check data.pool, data.validation, data.test, "
                "evaluate.shots_files"
            )


def _check_target_names(validation: tuple[str, ...]) -> None:
    names = [target_name(epath.Path(file)) for file in validation]
    for file, name in zip(validation, names, strict=True):
        if name in ("", ".", ".."):
            raise InputError(
                f"data.validation: the target of {file} would be called {name!r}, which is no name "
                "of a folder; rename the file"
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"data.validation: two targets would be called {twice[0]!r}, after their files; "
            "rename one of the files"
        )
