"""What each stage of a run costs, reckoned from the config, the model's shapes and the rows.

Only what takes long is counted: the passes through the model, the projection, the walks of g2is
and g2is_paper. Not counted: compiling, reading the files, the other selectors, and what devices
send each other. Padding is counted where the rows' lengths are known, what else takes time
(optimiser steps, saving, tokenising) on a machine that was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from ml_collections import ConfigDict

from g2is_jax.features.projection import features_width
from g2is_jax.features.rows import DTYPES
from g2is_jax.model.build import Model
from g2is_jax.pipeline.fields import parts
from g2is_jax.pipeline.settings import Settings
from g2is_jax.planning.chips import Work
from g2is_jax.planning.layouts import Layout, Rows, one_pass, training, training_steps
from g2is_jax.planning.model_costs import (
    base_bytes,
    cache_bytes,
    forward_operations,
    gradient_operations,
    head_operations,
    kept_bytes,
    size,
)
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.methods import FEATURES, METHODS, NOTHING, SECTIONS, WalkSettings, needing
from g2is_jax.selection.walk.select import WAITING, goes_on_a_front
from g2is_jax.training.fit import FitConfig

FLOAT32 = 4  # bytes of a value of the adapter, its moments and its gradients
KINDS = TRAINING, PASS, WALK, READING, DECODING = (
    *("training", "feature passes", "walk", "reading", "decoding"),
)


@dataclass(frozen=True)
class Sizes:
    """Rows of the pool and, of all targets together, of validation and test; a row's mean tokens,
    without padding."""

    pool_rows: int
    validation_rows: int
    test_rows: int
    mean_tokens: int

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"--{name}={value}; it must be at least 1")

    def rows(self) -> "RowsOf":
        """All as long as the mean one, and supervised from end to end."""
        pool, validation, test = (
            Rows(count, self.mean_tokens, self.mean_tokens)
            for count in (self.pool_rows, self.validation_rows, self.test_rows)
        )
        return RowsOf(pool, validation, test, test)


@dataclass(frozen=True)
class RowsOf:
    """Of each file, and the prompts of the test rows with what is shown before them.

    reply: tokens of the longest reply that the test rows hold; None where no row was read.
    """

    pool: Rows
    validation: Rows
    test: Rows
    prompts: Rows
    reply: int | None = None


@dataclass(frozen=True)
class Stage:
    """All that a run does of one kind, over seeds, targets and methods.

    work: by what kind of program does it. times: how often things are done that are no work of a
    device: `folders` of stages written, `trainings` begun, `steps` of the optimiser, `saves` and
    `loads` of checkpoints, `texts` tokenised. memory: bytes on each device, by what they hold.
    """

    name: str
    work: dict[str, Work]
    memory: dict[str, float]
    times: Mapping[str, float] = field(default_factory=dict)

    @property
    def operations(self) -> float:
        return sum(work.operations + work.exact for work in self.work.values())


@dataclass(frozen=True)
class Plan:
    """A config, the model that it names, the rows that it works on, and on how many devices."""

    config: ConfigDict
    settings: Settings
    model: Model
    rows: RowsOf
    devices: int

    @property
    def seeds(self) -> int:
        return len(self.settings.seeds)

    @property
    def targets(self) -> int:
        return len(parts(self.config.data.validation)) or len(self.settings.data.world.target_names)

    @property
    def chosen(self) -> float:
        """Rows that a method chooses."""
        budget, pool = self.settings.selection.budget, self.rows.pool
        if budget.unit == "fraction":
            return budget.budget * pool.count
        return budget.budget / (pool.supervised if budget.unit == "tokens" else 1)

    @property
    def held(self) -> dict[str, float]:
        """Memory that every stage with a model takes."""
        base = base_bytes(self.model, self.devices)
        return {"base": base, "adapter": FLOAT32 * size(self.model.adapter_shapes)}

    @property
    def reply_tokens(self) -> int:
        """Of the longest reply."""
        most = self.settings.evaluation.evaluate.new_tokens
        return most if self.rows.reply is None else min(most, self.rows.reply)

    @property
    def max_length(self) -> int:
        return self.config.model.max_length

    def kept(self, layout: Layout) -> float:
        """Activations of the largest batch."""
        return kept_bytes(self.model, layout.largest, layout.longest)

    def gradient(self, layout: Layout, rows: Rows) -> Work:
        """Of so many tokens, in rows like these."""
        width = rows.tokens if rows.lengths_S is None else layout.width
        supervised = rows.share * layout_share(rows, layout)
        return Work(layout.cells * gradient_operations(self.model, width, supervised))


def layout_share(rows: Rows, layout: Layout) -> float:
    """Of a batch's tokens, those that are no padding."""
    return min(rows.tokens / layout.width, 1.0)


def stages(plan: Plan) -> list[Stage]:
    """In the order of a run; those that no method asks for are left out."""
    methods = needing(plan.settings.selection.methods, FEATURES)
    found = []
    if methods:
        kinds = pool_kinds(plan)
        found = [
            _warmup(plan),
            _gradients(plan, "pool gradients", plan.rows.pool, len(kinds), 1),
            _gradients(plan, "validation gradients", plan.rows.validation, 1, plan.targets),
        ]
    if any(method in SECTIONS for method in methods):
        found.append(_walk(plan))
    return [*found, _finetune(plan), _evaluate(plan)]


def pool_kinds(plan: Plan) -> list[str]:
    """Of the features of the pool's rows."""
    methods = needing(plan.settings.selection.methods, FEATURES)
    return sorted({_kind(plan.config, method) for method in methods})


def _kind(config: ConfigDict, method: str) -> str:
    kind = METHODS[method].kind
    return config.grads.validation_kind if kind is None else kind(config)


def _warmup(plan: Plan) -> Stage:
    rows = plan.settings.warmup.fraction * plan.rows.pool.count
    return _training(plan, "warm-up", {rows: plan.seeds}, plan.settings.warmup.fit)


def _finetune(plan: Plan) -> Stage:
    """A method that looks at no target is trained once for all of them."""
    runs = {plan.chosen: 0, float(plan.rows.pool.count): 0}
    for method in plan.settings.selection.methods:
        if METHODS[method].choose is not None:
            count = float(plan.rows.pool.count) if method == "full" else plan.chosen
            runs[count] += plan.seeds * (1 if METHODS[method].needs == NOTHING else plan.targets)
    return _training(plan, "fine-tune", runs, plan.settings.finetune.fit)


def _training(plan: Plan, name: str, runs: dict[float, int], fit: FitConfig) -> Stage:
    """runs: how many trainings there are on so many rows of the pool each."""
    adapter, pool = plan.held["adapter"], plan.rows.pool
    layouts = {
        count: training(pool, count, fit, plan.max_length, plan.devices)
        for count, times in runs.items()
        if times
    }
    operations = sum(
        runs[count] * plan.gradient(layout, pool).operations for count, layout in layouts.items()
    )
    kept = max((plan.kept(layout) for layout in layouts.values()), default=0.0)
    memory = plan.held | {
        "optimiser": 2 * adapter,
        "gradients": 2 * adapter,  # the sum over microbatches, and the newest one's
        "activations": kept,
    }
    times = {
        "steps": sum(runs[count] * training_steps(count, fit) for count in layouts),
        "saves": sum(runs.values()) * fit.epochs,
        "trainings": sum(runs.values()),
        "folders": sum(runs.values()),
    }
    return Stage(name, {TRAINING: Work(operations)}, memory, times)


def _gradients(plan: Plan, name: str, rows: Rows, kinds: int, files: int) -> Stage:
    """Each example's gradient, for so many kinds of features from one pass a checkpoint."""
    projection, shapes = plan.settings.features.projection, plan.model.adapter_shapes
    width, batch_tokens = features_width(projection, shapes), plan.config.grads.batch_tokens
    layout = one_pass(rows, batch_tokens, plan.max_length, plan.devices)
    batch_rows = max(batch_tokens // rows.tokens, 1)
    if rows.lengths_S is not None:
        batch_rows = layout.places / layout.batches
    passes = plan.settings.features.checkpoints * plan.seeds
    projected = projection_work(projection, size(shapes), batch_rows)
    work = plan.gradient(layout, rows) + projected.times(layout.places * kinds)
    memory = plan.held | {
        "optimiser": 2 * plan.held["adapter"],
        "features": FLOAT32 * kinds * batch_rows * 2 * width,
        "activations": plan.kept(layout),
    }
    times = {"loads": passes * files * kinds, "folders": passes * files * kinds}
    return Stage(name, {PASS: work.times(passes)}, memory, times)


def projection_work(projection, values: int, batch_rows: float) -> Work:
    """Of an example's gradient of so many values, among so many in a batch."""
    traffic = 2.0 * FLOAT32 * values  # the gradient, written and read
    if projection.kind == "rademacher":  # the signs are made anew for each batch
        exact = 2.0 * values * projection.width
        return Work(0.0, exact, traffic + FLOAT32 * exact / batch_rows)
    if projection.kind == "sketch":
        traffic += FLOAT32 * values * projection.repetitions
    return Work(0.0, 0.0, traffic)


def _walk(plan: Plan) -> Stage:
    """All features are read once for each chosen row, on a front once for many."""
    width = features_width(plan.settings.features.projection, plan.model.adapter_shapes)
    width = width // 2**plan.settings.features.folds * plan.settings.features.checkpoints
    dtype = (
        "float32" if plan.settings.features.checkpoints > 1 else plan.settings.features.store.dtype
    )
    rows = plan.rows.pool.count
    itemsize = DTYPES[dtype].itemsize
    features = float(rows * width * itemsize)
    walks = [name for name in plan.settings.selection.methods if name in SECTIONS]
    selections = plan.targets * plan.seeds
    work = Work(0.0)
    for name in walks:
        of_row = walk_work(plan.settings.selection.walks[name], rows, width, itemsize)
        work += of_row.times(plan.chosen * selections)
    served = FLOAT32 * rows * plan.rows.validation.count / plan.targets
    memory = {"features": features / plan.devices, "served": served / plan.devices}
    return Stage("walk", {WALK: work}, memory, {"folders": len(walks) * selections})


def walk_work(settings: WalkSettings, rows: int, width: int, itemsize: int) -> Work:
    """Of one chosen row: its cosines to all rows."""
    has_front = goes_on_a_front(settings.walk, settings.graph.kind == "knn", rows)
    read = rows * width * itemsize / (WAITING if has_front else 1)
    return Work(0.0, 2.0 * rows * width, read)


def _evaluate(plan: Plan) -> Stage:
    """The answers' loss, the letters' likelihoods where a task has some, else a reply to every row,
    as long as the longest of the test rows' own or, where none was read, as it may be."""
    model, config, tasks = (
        plan.model,
        plan.settings.evaluation.evaluate,
        plan.settings.evaluation.tasks,
    )
    test, prompts = plan.rows.test, plan.rows.prompts
    times = len(plan.settings.selection.methods) * plan.seeds
    head = head_operations(model)

    def read(rows: Rows, head: float) -> float:
        layout = one_pass(rows, config.batch_tokens, plan.max_length)
        width = rows.tokens if rows.lengths_S is None else layout.width
        return layout.cells * (forward_operations(model, width) + head)

    letters = float(np.mean([len(task.letters) for task in tasks]))  # each a row of its own
    replied = float(np.mean([not task.letters for task in tasks])) * (config.new_tokens > 0)
    reading = read(test, head) + letters * read(prompts, head) + replied * read(prompts, 0.0)
    layout = one_pass(prompts, config.batch_tokens, plan.max_length)
    known = prompts.lengths_S is not None
    batch_rows = max(config.batch_tokens // prompts.tokens, 1)
    if known:
        batch_rows = layout.places / layout.batches
    room = (layout.width if known else prompts.tokens) + config.new_tokens
    made = times * replied * layout.places * plan.reply_tokens
    longest = one_pass(test, config.batch_tokens, plan.max_length).largest
    memory = plan.held | {
        "cache": batch_rows * room * cache_bytes(model),
        "logits": FLOAT32 * longest * model.config.vocab_size,
    }
    work = {READING: Work(times * reading)}
    if made:
        work[DECODING] = decoding_work(model, batch_rows, room).times(made)
    counted = {
        "folders": times * plan.targets,
        "texts": 2 * times * test.count,
    }
    return Stage("evaluate", work, memory, counted)


def decoding_work(model: Model, batch_rows: float, room: float) -> Work:
    """Of a token of one among so many rows: a step reads the base once for the whole batch, and the
    whole cache of each row."""
    operations = forward_operations(model, room) + head_operations(model)
    traffic = base_bytes(model, 1) / batch_rows + room * cache_bytes(model)
    return Work(operations, 0.0, traffic)
