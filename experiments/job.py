"""One config at work: its settings, and its inputs, read and checked once.

Everything a user can get wrong is found here, before any long work begins.
"""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.settings import BUILT_IN, WALKS, paths, read_settings, target_name
from g2is_jax.data.batches import TrainingShapes, row_lengths, training_shapes
from g2is_jax.data.chat import ChatFormat, Encoded, load_tokenizer
from g2is_jax.data.records import Record, read_records
from g2is_jax.data.skills import BASE_FOLDER, WORLD_CODE, write_world
from g2is_jax.features.gradients import DirectionConfig
from g2is_jax.model.build import Model, build_model
from g2is_jax.model.families import read_config
from g2is_jax.model.hub import resolve_checkpoint
from g2is_jax.model.lora import Leaves, match_report
from g2is_jax.model.weights import checkpoint_files, read_weights
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import claim_workdir, file_hash, read_manifest, run_stage
from g2is_jax.runs.mesh import data_mesh
from g2is_jax.selection.selection import Limits, limits
from g2is_jax.training.fit import FitConfig

# How the work is done, not what comes out: may differ between runs in one work folder.
FREE_FIELDS = (
    "run",
    "grads.batch_tokens",
    "grads.chunk_rows",
    "evaluate.batch_tokens",
    "warmup.microbatch_tokens",
    "finetune.microbatch_tokens",
    "model.remat",
    "model.shard_base",
    "grads.hidden_states",
)


BY_FEATURES = ("less", "less_rr", "g2is_paper", "g2is")


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
    def name(self) -> str:
        """Of the file, without its suffixes."""
        return self.path.name.removesuffix(".gz").removesuffix(".jsonl")

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
        self.settings = read_settings(config)
        self.methods, self.seeds = self.settings.methods, self.settings.seeds
        self.workdir = workdir
        self._told: set[epath.Path] = set()
        replace = config.run.replace or not _begun(workdir)
        claim_workdir(workdir, config.to_dict(), FREE_FIELDS, replace)

    def check(self) -> None:
        """Read all inputs, so that whatever is wrong with them is said now."""
        decoder = read_config(self.checkpoint)  # transformers would blame the tokenizer
        if self.config.model.max_length > decoder.max_position_embeddings:
            raise InputError(
                f"model.max_length = {self.config.model.max_length}: {self.checkpoint} takes at "
                f"most {decoder.max_position_embeddings} tokens (max_position_embeddings)"
            )
        _ = self.limits, self.targets, self.model
        self._check_vocabulary()
        self._check_sizes()
        print(
            f"pool {self.pool.path}: {len(self.pool.records):,} usable rows, "
            f"{self.pool.dropped:,} dropped without a supervised token, "
            f"{self.pool.truncated:,} cut at {self.config.model.max_length} tokens; "
            f"budget {self.limits.budget:,} {self.cost_unit}\n"
            f"{match_report(self.settings.lora, self.model.base_shapes)}",
            flush=True,
        )

    def _check_vocabulary(self) -> None:
        """Every token has a row in the embedding: a lookup beyond it would not fail by itself."""
        rows = self.model.config.vocab_size
        for dataset in (self.pool, *(target.validation for target in self.targets)):
            largest = max(int(example.tokens_T.max()) for example in dataset.encoded)
            if largest >= rows:
                raise InputError(
                    f"{self.checkpoint}: the tokenizer gives token {largest} for {dataset.path}, "
                    f"the model has {rows}; use the tokenizer that belongs to the model"
                )

    def _check_sizes(self) -> None:
        """What the selectors ask of the numbers of rows, said before the features are made."""
        pool_rows = len(self.pool.records)
        for method in self.methods:
            if method not in self.settings.walk:
                continue
            section = WALKS[method]
            graph, knowledge = self.settings.graph[method], self.settings.knowledge[method]
            if graph.kind == "knn" and graph.neighbours >= pool_rows:
                raise InputError(
                    f"{section}graph.neighbours: {graph.neighbours} asked, a pool of {pool_rows} "
                    f"rows has at most {pool_rows - 1} for each"
                )
            for target in self.targets:
                most = len(target.validation.records) - knowledge.center
                if most < (knowledge.keep_value if knowledge.keep == "count" else 1):
                    raise InputError(
                        f"{section}knowledge asks for more components than the {most} that "
                        f"{target.validation.path} can give; give more validation rows, or "
                        f"change {section}knowledge.center or {section}knowledge.keep_value"
                    )

    @functools.cached_property
    def world(self) -> epath.Path:
        """Folder of the built-in world."""
        world = self.settings.world
        return run_stage(
            self.workdir,
            "world",
            dataclasses.asdict(world),
            {f"code/{file.name}": file_hash(file) for file in WORLD_CODE},
            lambda folder: write_world(folder, world),
        )

    @functools.cached_property
    def checkpoint(self) -> epath.Path:
        name = self.config.model.checkpoint
        revision = self.config.model.revision
        return BASE_FOLDER if name == BUILT_IN else resolve_checkpoint(name, revision)

    @functools.cached_property
    def checkpoint_digest(self) -> dict[str, str]:
        """Content hashes of the checkpoint's files."""
        return {f"model/{f.name}": file_hash(f) for f in checkpoint_files(self.checkpoint)}

    @functools.cached_property
    def chat(self) -> ChatFormat:
        return ChatFormat(load_tokenizer(self.checkpoint), self.config.model.chat_template)

    @functools.cached_property
    def loaded(self) -> tuple[Model, Leaves]:
        model = build_model(read_config(self.checkpoint), self.settings.lora, self.settings.model)
        shapes = model.base_shapes

        def sharding(path: str):
            return model.sharding(path, self.mesh) if self.mesh else None

        return model, read_weights(self.checkpoint, shapes, model.dtype, sharding)

    @functools.cached_property
    def mesh(self) -> Mesh | None:
        """The devices that share the gradient pass; None where there is but one."""
        mesh = data_mesh()
        return mesh if mesh.size > 1 else None

    @property
    def model(self) -> Model:
        return self.loaded[0]

    @property
    def base(self) -> Leaves:
        return self.loaded[1]

    @functools.cached_property
    def pool(self) -> Dataset:
        name = self.config.data.pool
        path = self.world / "pool.jsonl" if name == BUILT_IN else epath.Path(name)
        return self._dataset(path, read_records(path))

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
        return paths(data.validation), paths(data.test)

    def _target(self, validation: epath.Path, test: epath.Path) -> Target:
        records = read_records(test, need_answer=True)
        self._dataset(test, records)  # its answers are not all cut off
        name = target_name(validation)
        dataset = self._dataset(validation, read_records(validation))
        return Target(name, dataset, test, records, file_hash(test))

    def _dataset(self, path: epath.Path, records: list[Record]) -> Dataset:
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

    def kind(self, dataset: Dataset, method: str) -> str:
        """The kind of features that a method takes of a file's rows."""
        grads = self.config.grads
        if dataset is not self.pool:
            return grads.validation_kind
        own = {"g2is": grads.kind, "g2is_paper": self.config.paper.kind}
        return own.get(method, grads.less_kind)

    def kinds(self, dataset: Dataset) -> list[str]:
        """All kinds that the methods of this job take of a file's rows."""
        asked = [method for method in self.methods if method in BY_FEATURES]
        return sorted({self.kind(dataset, method) for method in asked or ["g2is"]})

    def direction(self, kind: str) -> DirectionConfig:
        """A kind of feature, with the constants of the Adam that left the moments."""
        adam = self.settings.warmup.optimizer
        return DirectionConfig(kind, adam.b1, adam.b2, adam.eps)

    @functools.cached_property
    def model_identity(self) -> dict:
        """What model and text come down to: part of the identity of each stage that runs it."""
        return {
            "dtype": self.settings.model.dtype,
            "activations": self.settings.model.activations,
            "attention": self.settings.model.attention,
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


def _begun(workdir: epath.Path) -> bool:
    """Whether work was done here: a run that was refused must not bind the folder to its config."""
    return any(not stage.name.startswith("world-") for stage in (workdir / "stages").glob("*"))
