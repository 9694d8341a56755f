"""One config at work: its settings, and its inputs, read and checked once.

Everything a user can get wrong is found here, before any long work begins.
"""

import dataclasses
import functools

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from g2is_jax.data.batches import TrainingShapes, row_lengths, training_shapes
from g2is_jax.data.chat import ChatFormat, load_tokenizer
from g2is_jax.data.files import read_records
from g2is_jax.evaluation.tasks.table import EvalSet, make_eval_set
from g2is_jax.features.gradients import DirectionConfig
from g2is_jax.model.build import Model, build_model
from g2is_jax.model.families import read_config
from g2is_jax.model.hub import resolve_checkpoint
from g2is_jax.model.lora import Leaves, match_report
from g2is_jax.model.weights import checkpoint_files, read_weights
from g2is_jax.pipeline import shared_rows
from g2is_jax.pipeline.datasets import Dataset, Target, read_target, target_files, usable_rows
from g2is_jax.pipeline.fields import flat_fields
from g2is_jax.pipeline.input_checks import check_sizes, check_vocabulary
from g2is_jax.pipeline.settings import BUILT_IN, read_settings, target_name
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import (
    claim_workdir,
    file_hash,
    is_finished,
    read_manifest,
    run_stage,
    stage_folder,
)
from g2is_jax.runs.mesh import data_mesh, training_mesh
from g2is_jax.runs.processes import is_first, wait_for_all
from g2is_jax.selection.budget import Limits, limits
from g2is_jax.selection.methods import FEATURES, METHODS, needing
from g2is_jax.skills.world import BASE_FOLDER, WORLD_CODE, write_world
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

# What has been read survives a change of the other sections of the config.
OF_DATA = (
    *("world", "checkpoint", "checkpoint_digest", "chat"),
    *("whole_pool", "shared_rows", "pool", "targets"),
)
OF_BASE, OF_MODEL = ("base", "mesh", "training_mesh"), ("model",)


class Job:
    """One config at work in one work folder; each input is read on first use.

    builds: whether a stage that is not finished is made; else it is an error.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: epath.Path,
        variant_of: "Job | None" = None,
        builds: bool = True,
    ):
        self.config = config
        self.settings = read_settings(config)
        self.methods, self.seeds = self.settings.selection.methods, self.settings.seeds
        self.workdir, self.builds = workdir, builds
        self.is_variant = variant_of is not None
        self.told: set[epath.Path] = variant_of.told if variant_of else set()
        self.used: dict[epath.Path, tuple[str, str]] = {}  # stage -> its name, and run or reused
        if variant_of is None:
            if is_first():
                replace = config.run.replace or not begun(workdir)
                claim_workdir(workdir, config.to_dict(), FREE_FIELDS, replace)
            wait_for_all("work folder claimed")

    def variant(self, overrides: dict) -> "Job":
        """A job with other values of some fields ({"walk.delta": 0.7}), in the same work folder.

        It reads nothing again that they do not change, and leaves the folder's config and the
        shown selections to this job.
        """
        config = self.config.copy_and_resolve_references()
        config.update_from_flattened_dict(overrides)
        other = Job(config, self.workdir, variant_of=self, builds=self.builds)
        before = flat_fields(self.config)
        sections = {
            field.partition(".")[0]
            for field, value in flat_fields(config).items()
            if value != before[field]
        }
        for names, changed_by in (
            (OF_DATA, {"model", "data", "world"}),
            (OF_BASE, {"model"}),
            (OF_MODEL, {"model", "lora"}),
        ):
            if not sections & changed_by:
                shared = {name: self.__dict__[name] for name in names if name in self.__dict__}
                other.__dict__.update(shared)
        return other

    def check(self) -> None:
        """Read all inputs, so that whatever is wrong with them is said now."""
        self.check_inputs()
        _ = self.base
        removed = self.config.data.overlap == "remove"
        print(
            f"pool {self.pool.path}: {len(self.pool.records):,} usable rows, "
            f"{self.pool.dropped:,} dropped without a supervised token, "
            f"{self.pool.truncated:,} cut at {self.config.model.max_length} tokens; "
            f"budget {self.limits.budget:,} {self.cost_unit}\n"
            f"{shared_rows.told(self.shared_rows, len(self.whole_pool.records), removed)}\n"
            f"{match_report(self.settings.lora, self.model.base_shapes)}",
            flush=True,
        )

    def check_inputs(self) -> None:
        """As `check`, without the weights."""
        decoder = read_config(self.checkpoint)  # transformers would blame the tokenizer
        if self.config.model.max_length > decoder.max_position_embeddings:
            raise InputError(
                f"model.max_length = {self.config.model.max_length}: {self.checkpoint} takes at "
                f"most {decoder.max_position_embeddings} tokens (max_position_embeddings)"
            )
        _ = self.limits, self.exams
        files = [self.pool, *(target.validation for target in self.targets)]
        check_vocabulary(files, self.model.config.vocab_size, self.checkpoint)
        check_sizes(self.settings, self.model, self.pool, self.targets)

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
    def model(self) -> Model:
        return build_model(read_config(self.checkpoint), self.settings.lora, self.settings.model)

    @functools.cached_property
    def base(self) -> Leaves:
        """The checkpoint's weights, whatever adapter the model has."""
        model = self.model

        def sharding(path: str):
            return model.sharding(path, self.mesh) if self.mesh else None

        return read_weights(self.checkpoint, model.base_shapes, model.dtype, sharding)

    @functools.cached_property
    def mesh(self) -> Mesh | None:
        """This process's devices, which share its work; None where there is but one."""
        mesh = data_mesh()
        return mesh if mesh.size > 1 else None

    @functools.cached_property
    def training_mesh(self) -> Mesh | None:
        """All processes' devices, which share training; None where there is but one."""
        mesh = training_mesh()
        return mesh if mesh.size > 1 else None

    @functools.cached_property
    def whole_pool(self) -> Dataset:
        path = self._files[0]
        return usable_rows(path, read_records(path), self.chat, self.config.model.max_length)

    @functools.cached_property
    def shared_rows(self) -> list[shared_rows.Shared]:
        """Pool rows that stand in a target's files too."""
        return shared_rows.find(self.whole_pool, self.targets)

    @functools.cached_property
    def pool(self) -> Dataset:
        if self.config.data.overlap != "remove":
            return self.whole_pool
        return self.whole_pool.without({one.row for one in self.shared_rows})

    @property
    def cost_unit(self) -> str:
        return "supervised tokens" if self.config.selection.unit == "tokens" else "rows"

    @functools.cached_property
    def limits(self) -> Limits:
        """The budget, in rows or supervised tokens of the usable pool."""
        sources = [record.source for record in self.pool.records]
        return limits(self.settings.selection.budget, self.pool.tokens_N, sources)

    @property
    def devices(self) -> int:
        """That share training."""
        return self.training_mesh.size if self.training_mesh else 1

    def training_shapes(self, config: FitConfig, packed: bool) -> TrainingShapes:
        """The pool's, so that all selections share their compiled programs."""
        lengths, devices = row_lengths(self.pool.encoded), self.devices
        tokens = config.microbatch_tokens * devices
        return training_shapes(lengths, config.batch_size, tokens, multiple=devices, packed=packed)

    @functools.cached_property
    def targets(self) -> list[Target]:
        length = self.config.model.max_length
        return [
            read_target(target_name(validation), validation, test, self.chat, length)
            for validation, test in zip(*self._files[1:], strict=True)
        ]

    @property
    def _files(self) -> tuple[epath.Path, list[epath.Path], list[epath.Path]]:
        return target_files(self.config.data, self.settings.world, lambda: self.world)

    @functools.cached_property
    def exams(self) -> dict[str, EvalSet]:
        """What each target, by its name, is measured with."""
        return {
            target.name: make_eval_set(
                task,
                target.test_records,
                target.test,
                read_records(shots_file) if task.shots else [],
                shots_file,
            )
            for target, task, shots_file in zip(
                self.targets, self.settings.tasks, self.shots_files.values(), strict=True
            )
        }

    @property
    def shots_files(self) -> dict[str, epath.Path]:
        """Where the worked rows that are shown for each target, by its name, stand."""
        return {
            target.name: named or target.validation.path
            for target, named in zip(self.targets, self.settings.shots_files, strict=True)
        }

    def kind(self, dataset: Dataset, method: str) -> str:
        """The kind of features that a method takes of a file's rows."""
        kind = METHODS[method].kind
        if dataset is not self.pool or kind is None:
            return self.config.grads.validation_kind
        return kind(self.settings.selection.kinds)

    def kinds(self, dataset: Dataset) -> list[str]:
        """All kinds that the methods of this job take of a file's rows."""
        asked = needing(self.methods, FEATURES) or ["g2is"]
        return sorted({self.kind(dataset, method) for method in asked})

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

    def run_stage(
        self, name: str, label: str, settings: dict, inputs: dict, build, shared: bool = False
    ) -> epath.Path:
        """`runs.run_stage` in this work folder, with a line on what happened."""
        built = []

        def build_and_tell(folder: epath.Path) -> dict:
            print(f"{name} {label}", flush=True)
            built.append(True)
            return {"devices": jax.device_count(), **build(folder)}

        if not (self.builds or is_finished(stage_folder(self.workdir, name, settings, inputs))):
            raise InputError(
                f"{self.workdir}: the stage {name} {label} is not finished; finish the run with "
                "experiments.run_all and the same config first"
            )
        folder = run_stage(self.workdir, name, settings, inputs, build_and_tell, shared)
        self.used.setdefault(folder, (name, "run" if built else "reused"))
        if folder not in self.told:
            done = _took(read_manifest(folder)) if built else "reused"
            print(f"{name} {label}: {done} ({folder.name})", flush=True)
            self.told.add(folder)
        return folder


def _took(manifest: dict) -> str:
    told = f"done in {manifest['seconds']:.1f} s"
    if count := manifest["compilations"]:
        told += f", {manifest['compile_seconds']:.1f} of them for compiling {count} programs"
    return told


def begun(workdir: epath.Path) -> bool:
    """Whether work was done here: a run that was refused must not bind the folder to its config."""
    return any(not stage.name.startswith("world-") for stage in (workdir / "stages").glob("*"))
