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
from g2is_jax.pipeline.fields import flat_fields, listed, owned
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
class Settings:
    """What each room and each method is to do."""

    selection: SelectionSettings
    seeds: list[int]
    model: ModelConfig
    lora: LoraConfig
    world: WorldConfig
    warmup: FitConfig
    warmup_fraction: float
    warmup_seed: int  # added to the run's
    checkpoints: int
    finetune: FitConfig
    projection: ProjectionConfig
    projection_seed: int  # added to the run's
    folds: int
    store: StoreConfig
    evaluate: EvaluateConfig
    harness: HarnessConfig
    tasks: list[Task]  # one a target
    shots_files: list[epath.Path | None]  # one a target; None: its validation file


def read_settings(config: ConfigDict) -> Settings:
    """Check every field by itself, and that the files it names are there."""
    settings = check_settings(config)
    _check_files(config)
    return settings


def check_settings(config: ConfigDict) -> Settings:
    """Check every field by itself; the files it names need not be there."""
    _check_values(config)
    lora = {**config.lora, "targets": tuple(listed(config.lora.targets, "lora.targets"))}
    listed(config.world.targets, "world.targets")
    model = {field: config.model[field] for field in ModelConfig.__dataclass_fields__}
    projection = {
        field: config.projection[field] for field in ProjectionConfig.__dataclass_fields__
    }
    evaluate = {field: config.evaluate[field] for field in EvaluateConfig.__dataclass_fields__}
    tasks = _for_each_target(config, config.evaluate.tasks, "evaluate.tasks")
    shots_files = _for_each_target(config, config.evaluate.shots_files, "evaluate.shots_files")
    return Settings(
        selection=read_selection(config),
        seeds=_seeds(config.run.seeds),
        model=owned(ModelConfig, model, "model"),
        lora=owned(LoraConfig, lora, "lora"),
        world=owned(WorldConfig, config.world, "world"),
        warmup=_warmup(config),
        warmup_fraction=config.warmup.fraction,
        warmup_seed=config.warmup.seed,
        checkpoints=config.grads.checkpoints or config.warmup.epochs,
        finetune=_fit(config.finetune, "finetune"),
        projection=owned(ProjectionConfig, projection, "projection"),
        projection_seed=config.projection.seed,
        folds=config.grads.folds,
        store=StoreConfig(config.grads.dtype, config.grads.chunk_rows),
        evaluate=owned(EvaluateConfig, evaluate, "evaluate"),
        harness=_harness(config.evaluate),
        tasks=[named_task(name) for name in tasks],
        shots_files=[epath.Path(file) if file else None for file in shots_files],
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


def _warmup(config: ConfigDict) -> FitConfig:
    """The warm-up's, which keeps the checkpoints that the features come from."""
    fit = _fit(config.warmup, "warmup")
    asked = config.grads.checkpoints or fit.epochs
    if asked > fit.epochs:
        raise InputError(
            f"grads.checkpoints = {asked}, but the warm-up writes one after each of its "
            f"{fit.epochs} epochs; lower it, or raise warmup.epochs"
        )
    return dataclasses.replace(
        fit, keep_checkpoints=fit.keep_checkpoints and max(fit.keep_checkpoints, asked)
    )


def _harness(section: ConfigDict) -> HarnessConfig:
    named = section.harness_tasks
    fields = {
        "tasks": tuple(listed(named, "evaluate.harness_tasks")) if named.strip() else (),
        "include": section.harness_include,
        "shots": section.harness_shots,
        "limit": section.harness_limit,
        "chat": section.harness_chat,
    }
    return owned(HarnessConfig, fields, "evaluate")


def _seeds(text: str) -> list[int]:
    seeds = listed(text, "run.seeds")
    for seed in seeds:
        if not (seed.isascii() and seed.isdigit() and str(int(seed)) == seed):
            raise InputError(
                f"run.seeds: {seed!r} is not a whole number from 0; write for instance 0,1,2"
            )
    return [int(seed) for seed in seeds]


def _for_each_target(config: ConfigDict, text: str, field: str) -> list[str]:
    """The parts of a field that has one by commas for each target, or one for all of them."""
    parts = [part.strip() for part in text.split(",")]
    targets = len(paths(config.data.test)) or len(listed(config.world.targets, "world.targets"))
    if len(parts) not in (1, targets):
        raise InputError(
            f"{field} = {text!r} names {len(parts)} for {targets} targets; give one for each, in "
            "the order of data.test, or one for all"
        )
    return parts if len(parts) == targets else parts * targets


def paths(text: str) -> list[epath.Path]:
    """The files of a field that names some by commas."""
    return [epath.Path(part.strip()) for part in text.split(",") if part.strip()]


def target_name(validation: epath.Path) -> str:
    """What a target is called: the name of its validation file, without `val_`."""
    stem = validation.name.removesuffix(".gz").removesuffix(".jsonl")
    return stem.removeprefix("validation_").removeprefix("val_")


def _check_files(config: ConfigDict) -> None:
    """Every file that the config names is there, before the first one is read."""
    if not config.model.checkpoint:
        raise InputError("model.checkpoint is empty; give a Hugging Face folder, or skills")
    if not config.data.pool:
        raise InputError("data.pool is empty; give a .jsonl or .jsonl.gz file, or skills")
    validations, tests = paths(config.data.validation), paths(config.data.test)
    if len(validations) != len(tests) or (not tests and config.data.pool != BUILT_IN):
        raise InputError(
            f"data.validation names {len(validations)} files and data.test {len(tests)}; "
            "give one of each for every target"
        )
    names = [target_name(file) for file in validations]
    for file, name in zip(validations, names, strict=True):
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
    pool = [] if config.data.pool == BUILT_IN else [epath.Path(config.data.pool)]
    for file in [*pool, *validations, *tests, *paths(config.evaluate.shots_files)]:
        if not file.exists():
            raise InputError(
                f"{file}: no such file; check data.pool, data.validation, data.test, "
                "evaluate.shots_files"
            )
