"""What a config means: the settings of each room, and the inputs, read and checked once.

Everything a user can get wrong is found here, before any long work begins.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.batches import TrainingShapes, row_lengths, training_shapes
from g2is_jax.data.chat import ChatFormat, Encoded, load_tokenizer
from g2is_jax.data.records import Record, read_records
from g2is_jax.data.skills import BASE_FOLDER, WorldConfig, write_world
from g2is_jax.evaluation.evaluate import EvaluateConfig
from g2is_jax.features.gradients import DirectionConfig
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.features.store import StoreConfig
from g2is_jax.model.build import Model, load_model
from g2is_jax.model.lora import Leaves, LoraConfig
from g2is_jax.model.weights import checkpoint_files
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import claim_workdir, file_hash, read_manifest, run_stage
from g2is_jax.selection.graph import GraphConfig
from g2is_jax.selection.knowledge import KnowledgeConfig
from g2is_jax.selection.selection import BudgetConfig, Limits, limits
from g2is_jax.selection.walk import WalkConfig
from g2is_jax.training.fit import FitConfig
from g2is_jax.training.optimizer import OptimizerConfig

BUILT_IN = "skills"
METHODS = ("none", "full", "random", "length", "less", "less_rr", "g2is_paper", "g2is")
# How the work is done, not what comes out: may differ between runs in one work folder.
FREE_FIELDS = (
    "run",
    "grads.batch_tokens",
    "grads.chunk_rows",
    "evaluate.batch_tokens",
    "warmup.microbatch_tokens",
    "finetune.microbatch_tokens",
    "model.remat",
)
Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Dataset:
    """The usable rows of one file: those with at least one supervised token."""

    path: epath.Path
    digest: str
    records: list[Record]
    encoded: list[Encoded]
    dropped: int
    truncated: int

    @property
    def tokens_N(self) -> np.ndarray:
        """Supervised tokens of each row."""
        return np.array([int(example.supervised_T.sum()) for example in self.encoded])


@dataclass(frozen=True)
class Target:
    """One task: the few examples that describe it, and the rows that measure it."""

    name: str
    validation: Dataset
    test: epath.Path
    test_records: list[Record]
    test_digest: str


class Job:
    """One config at work in one work folder; each input is read on first use."""

    def __init__(self, config: ConfigDict, workdir: epath.Path):
        self.config = config
        self.settings = _all_settings(config)
        self.projection(seed=0)
        for kind in (config.grads.kind, config.grads.less_kind, config.grads.validation_kind):
            self.direction(kind)
        self.methods = _listed(config.run.methods, "run.methods")
        self.seeds = [_seed(seed) for seed in _listed(config.run.seeds, "run.seeds")]
        for method in self.methods:
            if method not in METHODS:
                raise InputError(
                    f"run.methods: {method!r} is unknown; choose from {', '.join(METHODS)}"
                )
        _check_files(config)
        self.workdir = workdir
        self._told: set[epath.Path] = set()
        claim_workdir(workdir, config.to_dict(), FREE_FIELDS, config.run.replace)

    def check(self) -> None:
        """Read all inputs, so that whatever is wrong with them is said now."""
        _ = self.limits, self.targets, self.model
        print(
            f"pool {self.pool.path}: {len(self.pool.records):,} usable rows, "
            f"{self.pool.dropped:,} dropped without a supervised token, "
            f"{self.pool.truncated:,} cut at {self.config.model.max_length} tokens; "
            f"budget {self.limits.budget:,} {self.cost_unit}",
            flush=True,
        )

    @functools.cached_property
    def world(self) -> epath.Path:
        """Folder of the built-in world."""
        world = self.settings.world
        return run_stage(
            self.workdir,
            "world",
            dataclasses.asdict(world),
            {},
            lambda folder: write_world(folder, world),
        )

    @functools.cached_property
    def checkpoint(self) -> epath.Path:
        name = self.config.model.checkpoint
        return BASE_FOLDER if name == BUILT_IN else epath.Path(name)

    @functools.cached_property
    def checkpoint_digest(self) -> dict[str, str]:
        """Content hashes of the checkpoint's files."""
        return {f"model/{f.name}": file_hash(f) for f in checkpoint_files(self.checkpoint)}

    @functools.cached_property
    def chat(self) -> ChatFormat:
        return ChatFormat(load_tokenizer(self.checkpoint), self.config.model.chat_template)

    @functools.cached_property
    def loaded(self) -> tuple[Model, Leaves]:
        m = self.config.model
        return load_model(self.checkpoint, self.settings.lora, m.dtype, m.remat)

    @property
    def model(self) -> Model:
        return self.loaded[0]

    @property
    def base(self) -> Leaves:
        return self.loaded[1]

    @functools.cached_property
    def pool(self) -> Dataset:
        path = self.config.data.pool
        return self._dataset(self.world / "pool.jsonl" if path == BUILT_IN else epath.Path(path))

    @property
    def cost_unit(self) -> str:
        return "supervised tokens" if self.config.selection.unit == "tokens" else "rows"

    @functools.cached_property
    def limits(self) -> Limits:
        """The budget, in rows or supervised tokens of the usable pool."""
        sources = [record.source for record in self.pool.records]
        return limits(self.settings.budget, self.pool.tokens_N, sources)

    def training_shapes(self, config: FitConfig) -> TrainingShapes:
        """The pool's, so that all selections share their compiled programs."""
        lengths = row_lengths(self.pool.encoded)
        return training_shapes(lengths, config.batch_size, config.microbatch_tokens)

    @functools.cached_property
    def targets(self) -> list[Target]:
        validations, tests = self._target_files()
        return [
            self._target(validation, test)
            for validation, test in zip(validations, tests, strict=True)
        ]

    def _target_files(self) -> tuple[list[epath.Path], list[epath.Path]]:
        data = self.config.data
        if data.pool == BUILT_IN and not data.validation and not data.test:
            names = self.settings.world.target_names
            files = [[self.world / f"{part}_{n}.jsonl" for n in names] for part in ("val", "test")]
            return files[0], files[1]
        return _paths(data.validation), _paths(data.test)

    def _target(self, validation: epath.Path, test: epath.Path) -> Target:
        stem = validation.name.removesuffix(".gz").removesuffix(".jsonl")
        name = stem.removeprefix("validation_").removeprefix("val_")
        records = read_records(test, need_answer=True)
        return Target(name, self._dataset(validation), test, records, file_hash(test))

    def _dataset(self, path: epath.Path) -> Dataset:
        records = read_records(path)
        encoded = self.chat.encode_all(records, self.config.model.max_length)
        kept = [i for i, example in enumerate(encoded) if example.supervised_T.any()]
        if not kept:
            raise InputError(
                f"{path}: no row has a supervised token within {self.config.model.max_length} "
                "tokens; raise model.max_length or check the assistant messages"
            )
        return Dataset(
            path,
            file_hash(path),
            [records[i] for i in kept],
            [encoded[i] for i in kept],
            dropped=len(records) - len(kept),
            truncated=sum(example.truncated for example in encoded),
        )

    def projection(self, seed: int) -> ProjectionConfig:
        """The projection of one run: its random bits follow the run's seed."""
        return ProjectionConfig(**self.config.projection, seed=seed)

    def direction(self, kind: str) -> DirectionConfig:
        """A kind of feature, with the constants of the Adam that left the moments."""
        adam = self.settings.warmup.optimizer
        return DirectionConfig(kind, adam.b1, adam.b2, adam.eps)

    @functools.cached_property
    def model_identity(self) -> dict:
        """What model and text come down to: part of the identity of each stage that runs it."""
        return {
            "dtype": self.config.model.dtype,
            "lora": dataclasses.asdict(self.settings.lora),
            "template": self.chat.template,
            "max_length": self.config.model.max_length,
        }

    def run_stage(self, name: str, label: str, settings: dict, inputs: dict, build) -> epath.Path:
        """`runs.run_stage` in this work folder, with a line on what happened."""
        built = []

        def build_and_tell(folder: epath.Path) -> dict:
            print(f"{name} {label}", flush=True)
            built.append(True)
            return build(folder)

        folder = run_stage(self.workdir, name, settings, inputs, build_and_tell)
        if folder not in self._told:
            done = f"done in {read_manifest(folder)['seconds']:.1f} s" if built else "reused"
            print(f"{name} {label}: {done} ({folder.name})", flush=True)
            self._told.add(folder)
        return folder


@dataclass(frozen=True)
class _Settings:
    """A config, checked and split among the rooms that own its parts."""

    lora: LoraConfig
    world: WorldConfig
    warmup: FitConfig
    warmup_fraction: float
    finetune: FitConfig
    store: StoreConfig
    budget: BudgetConfig
    evaluate: EvaluateConfig
    knowledge: dict[str, KnowledgeConfig]
    graph: dict[str, GraphConfig]
    walk: dict[str, WalkConfig]


def _all_settings(config: ConfigDict) -> _Settings:
    lora = {**config.lora, "targets": tuple(_listed(config.lora.targets, "lora.targets"))}
    fraction = config.warmup.fraction
    if not 0 < fraction <= 1:
        raise InputError(f"warmup.fraction = {fraction}; it must be above 0 and at most 1")
    walks = {"g2is": config, "g2is_paper": config.paper}
    return _Settings(
        lora=_owned(LoraConfig, lora, "lora"),
        world=_owned(WorldConfig, config.world, "world"),
        warmup=_fit(config.warmup, "warmup"),
        warmup_fraction=fraction,
        finetune=_fit(config.finetune, "finetune"),
        store=StoreConfig(config.grads.dtype, config.grads.chunk_rows),
        budget=_owned(BudgetConfig, config.selection, "selection"),
        evaluate=_owned(EvaluateConfig, config.evaluate, "evaluate"),
        knowledge={m: _owned(KnowledgeConfig, c.knowledge, "knowledge") for m, c in walks.items()},
        graph={m: _owned(GraphConfig, c.graph, "graph") for m, c in walks.items()},
        walk={m: _owned(WalkConfig, c.walk, "walk") for m, c in walks.items()},
    )


def _owned(kind: Callable[..., Settings], section, name: str) -> Settings:
    """The frozen settings that a room owns, from the section of the config of the same fields."""
    try:
        return kind(**section)
    except TypeError as error:
        raise InputError(
            f"config section {name}: {error}; compare it with configs/default.py"
        ) from error


def _fit(section: ConfigDict, name: str) -> FitConfig:
    optimizer_fields = OptimizerConfig.__dataclass_fields__
    optimizer = {key: value for key, value in section.items() if key in optimizer_fields}
    loop = {k: v for k, v in section.items() if k not in optimizer and k != "fraction"}
    return _owned(FitConfig, {**loop, "optimizer": OptimizerConfig(**optimizer)}, name)


def _listed(text: str, field: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise InputError(f"{field} is empty; give at least one, separated by commas")
    if len(set(parts)) < len(parts):
        raise InputError(f"{field} = {text!r} names one twice; name each once")
    return parts


def _seed(text: str) -> int:
    if not text.isdigit():
        raise InputError(f"run.seeds: {text!r} is not a whole number; write for instance 0,1,2")
    return int(text)


def _paths(text: str) -> list[epath.Path]:
    return [epath.Path(part.strip()) for part in text.split(",") if part.strip()]


def _check_files(config: ConfigDict) -> None:
    """Every file that the config names is there, before the first one is read."""
    if not config.model.checkpoint:
        raise InputError("model.checkpoint is empty; give a Hugging Face folder, or skills")
    if not config.data.pool:
        raise InputError("data.pool is empty; give a .jsonl or .jsonl.gz file, or skills")
    validations, tests = _paths(config.data.validation), _paths(config.data.test)
    if len(validations) != len(tests) or (not tests and config.data.pool != BUILT_IN):
        raise InputError(
            f"data.validation names {len(validations)} files and data.test {len(tests)}; "
            "give one of each for every target"
        )
    pool = [] if config.data.pool == BUILT_IN else [epath.Path(config.data.pool)]
    for file in [*pool, *validations, *tests]:
        if not file.exists():
            raise InputError(f"{file}: no such file; check data.pool, data.validation, data.test")
