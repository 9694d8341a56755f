"""One config at work in one work folder: its settings, its inputs and its stages."""

import dataclasses
import functools
import itertools
from dataclasses import dataclass

import jax
from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.files import FileRows, read_rows
from g2is_jax.data.hub_sets import Place
from g2is_jax.evaluation.tasks.table import EvalSet, make_eval_set
from g2is_jax.model.build import Model, with_adapter
from g2is_jax.model.lora import NO_ADAPTER, Leaves, match_report
from g2is_jax.pipeline import shared_rows
from g2is_jax.pipeline.check_data import short_lines
from g2is_jax.pipeline.first_date import dated
from g2is_jax.pipeline.input_checks import check_sizes, check_vocabulary, few_steps
from g2is_jax.pipeline.inputs import Checkpoint, Data, Readers, cached_readers
from g2is_jax.pipeline.job_stages import Stages, has_stages
from g2is_jax.pipeline.model_limits import lowered, within_limits
from g2is_jax.pipeline.settings import Settings, read_settings
from g2is_jax.runs.processes import is_first, wait_for_all
from g2is_jax.runs.workdir import claim_workdir
from g2is_jax.selection.budget import Limits, limits
from g2is_jax.selection.methods import EMBEDDINGS, needing

# They say how the work is done, not what comes out: runs in one work folder may differ in them.
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
    "selection.memory",
)
# A run without them does no more than the stages before any measurement.
MAY_COME_LATER = ("data.test",)


@dataclass(frozen=True, eq=False)
class Job:
    """A config's settings, the readers of its inputs, and the stages that it runs."""

    config: ConfigDict
    settings: Settings
    readers: Readers
    stages: Stages

    def variant(self, overrides: dict) -> "Job":
        """A job with other values of some fields ({"walk.delta": 0.7}), in the same work folder.

        The folder's config and the shown selections stay those of this job.
        """
        config = self.config.copy_and_resolve_references()
        config.update_from_flattened_dict(overrides)
        measures = bool(self.settings.data.test)
        settings = _fitted(read_settings(config, jax.default_backend(), measures), self.readers)
        return Job(config, settings, self.readers, self.stages.for_variant())

    @property
    def checkpoint(self) -> Checkpoint:
        """The base model's files."""
        return self.readers.checkpoint(self.settings.base.checkpoint)

    @property
    def data(self) -> Data:
        """Pool and targets."""
        return self.readers.data(self.settings.data)

    @property
    def model(self) -> Model:
        """The decoder with its adapter, without weights."""
        return self.readers.model(self.settings.base, self.settings.lora)

    @property
    def gradient_model(self) -> Model:
        """The model whose gradients are taken: with its adapter, or with probes of its layers."""
        return with_adapter(self.model, self.settings.features.layers)

    @property
    def tuned_model(self) -> Model:
        """The model as it is fine-tuned: with an adapter, or in full."""
        return with_adapter(self.model, NO_ADAPTER if self.settings.finetune.full else None)

    @property
    def weights(self) -> Leaves:
        """The base's weights, whatever adapter the model has."""
        return self.readers.weights(self.settings.base.weights)

    @functools.cached_property
    def limits(self) -> Limits:
        """The budget, in rows or supervised tokens of the usable pool."""
        pool = self.data.pool
        return limits(self.settings.selection.budget, pool.tokens_N, pool.sources)

    @functools.cached_property
    def eval_sets(self) -> dict[str, EvalSet]:
        """The rows that measure each target, by its name, with the worked rows shown before."""
        shots_files = self.shots_files
        return {
            target.name: make_eval_set(
                task,
                target.test_records,
                target.test,
                list(self.shots_rows[shots_files[target.name]].records) if task.shots else [],
                shots_files[target.name],
            )
            for target, task in zip(self.data.targets, self.settings.evaluation.tasks, strict=True)
            if target.test is not None
        }

    @functools.cached_property
    def shots_rows(self) -> dict[Place, FileRows]:
        """The worked rows of the files that tasks with shots take them from."""
        files, tasks = self.shots_files.values(), self.settings.evaluation.tasks
        asked = [file for file, task in zip(files, tasks, strict=True) if task.shots]
        columns = self.settings.data.columns
        return {file: read_rows(file, "stop", columns=columns) for file in dict.fromkeys(asked)}

    @property
    def shots_files(self) -> dict[str, Place]:
        """The file of the worked rows that are shown for each target, by its name."""
        named = self.settings.evaluation.shots_files
        return {
            target.name: file or target.validation.path
            for target, file in zip(self.data.targets, named, strict=True)
        }

    @functools.cached_property
    def model_identity(self) -> dict:
        """How model and text are computed: part of the identity of each stage that runs them."""
        model = self.settings.base.model
        return {
            "dtype": model.dtype,
            "activations": model.activations,
            "attention": model.attention,
            "lora": dataclasses.asdict(self.settings.lora),
            **self.text_identity,
        }

    @property
    def tuned_identity(self) -> dict:
        """As `model_identity`, of stages that fine-tune a model or measure it."""
        if not self.settings.finetune.full:
            return self.model_identity
        return self.model_identity | {"lora": None, "full": True}

    @functools.cached_property
    def text_identity(self) -> dict:
        """How rows become tokens: template and tokenizer by what they make of a probe."""
        chat = self.data.chat
        found = {
            "template": chat.template,
            "probe": chat.probe,
            "max_length": self.settings.data.max_length,
        }
        return found | ({"today": str(chat.today)} if chat.today else {})

    @property
    def text_inputs(self) -> dict[str, str]:
        """The inputs of usable rows and their token counts beside the file: no weights."""
        text = {key: str(value) for key, value in self.text_identity.items()}
        files = self.checkpoint.digest
        return text | {n: d for n, d in files.items() if not n.endswith(".safetensors")}

    @property
    def cost_unit(self) -> str:
        """The unit of the budget and of what rows cost."""
        return "supervised tokens" if self.settings.selection.budget.unit == "tokens" else "rows"

    def check_inputs(self) -> None:
        """Read everything but the weights, so that whatever is wrong with it is said now."""
        data, selection = self.data, self.settings.selection
        _ = self.limits, self.eval_sets
        if selection.encoder and needing(selection.methods, EMBEDDINGS):
            _ = self.readers.encoder(selection.encoder).digest  # of all its files
        files = [data.pool, *(target.validation for target in data.targets)]
        check_vocabulary(files, self.model.config.vocab_size, self.checkpoint.folder)
        check_sizes(self.settings, self.gradient_model, data.pool, data.targets)

    def check(self) -> None:
        """Read everything, and print what there is."""
        self.check_inputs()
        _ = self.weights
        data, length = self.data, self.settings.data.max_length
        shown = [target.validation.path for target in data.targets]
        shots = [rows.summary() for file, rows in self.shots_rows.items() if file not in shown]
        of_rows = [*itertools.chain(*shots), *short_lines(data.pool)]
        removed = self.settings.data.overlap == "remove"
        for line in lowered(self.config, self.settings):
            print(line)
        if any(target.test is None for target in data.targets):
            print("data.test is empty: overlap is looked for in validation rows alone")
        print(
            "\n".join([data.summary, *of_rows]) + "\n"
            f"pool {data.pool.path}: {len(data.pool.records):,} usable rows, "
            f"{data.pool.dropped:,} dropped without a supervised token, "
            f"{data.pool.truncated:,} cut at {length:,} tokens; "
            f"budget {self.limits.budget:,} {self.cost_unit}\n"
            f"{shared_rows.summary(data.shared, len(data.whole_pool.records), removed)}\n"
            f"{match_report(self.settings.lora, self.model.base_shapes)}",
            flush=True,
        )
        if self.cost_unit == "rows":
            for line in few_steps(self.settings.finetune.fit, self.limits.budget):
                print(line, flush=True)


def open_job(
    config: ConfigDict, workdir: epath.Path, builds: bool = True, measures: bool = True
) -> Job:
    """A job of the work folder, which takes this config unless it has another one already.

    builds: whether a stage that is not finished is run; else it is an error. measures: whether test
    rows are needed.
    """
    # What is wrong with them does not bind the folder.
    read_settings(config, jax.default_backend(), measures)
    if is_first():
        is_new = not has_stages(workdir)
        own = dated(config, workdir, is_new)
        replace = config.run.replace or is_new
        claim_workdir(workdir, own.to_dict(), FREE_FIELDS, replace, MAY_COME_LATER)
    wait_for_all("work folder claimed")
    config = dated(config, workdir, is_new=False)  # the same for all processes
    stages = Stages(workdir, builds)
    readers = cached_readers(stages)
    settings = _fitted(read_settings(config, jax.default_backend(), measures), readers)
    return Job(config, settings, readers, stages)


def _fitted(settings: Settings, readers: Readers) -> Settings:
    decoder = readers.checkpoint(settings.base.checkpoint).decoder
    return within_limits(settings, decoder.max_position_embeddings)


def open_checked_job(config: ConfigDict, workdir: epath.Path, measures: bool = True) -> Job:
    """A job whose inputs were all read, so that whatever is wrong is said before any long work.

    measures: whether test rows are needed.
    """
    job = open_job(config, workdir, measures=measures)
    job.check()
    return job
