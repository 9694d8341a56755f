"""The cost of each stage of a run, estimated from the config, the model's shapes and the rows.

Only what takes long is counted: the passes through the model, the projection, the walks of g2is
and g2is_paper. Not counted: compiling, reading the files, optimiser steps and saves, the other
selectors, an encoder of embed, whitening, and what devices send each other. Padding is counted
where the rows' lengths are known.
"""

from dataclasses import dataclass

import numpy as np

from g2is_jax.features.projection import ProjectionConfig, features_width
from g2is_jax.features.rows import dtype_in_memory
from g2is_jax.model.build import Model
from g2is_jax.planning.chips import Work
from g2is_jax.planning.model_costs import (
    base_bytes,
    cache_bytes,
    forward_operations,
    gradient_operations,
    head_operations,
    size,
)
from g2is_jax.planning.plan import FLOAT32, Plan
from g2is_jax.planning.token_counts import Layout, RowCounts, one_pass, training
from g2is_jax.selection.methods import (
    EMBEDDINGS,
    HIDDEN,
    LOSSES,
    METHODS,
    NOTHING,
    WalkSettings,
    needing,
    pool_kinds,
    walking,
)
from g2is_jax.selection.walk.select import WAITING, goes_on_a_front
from g2is_jax.training.fit import FitConfig
from g2is_jax.training.loss import tokens_with_logits


@dataclass(frozen=True)
class StageCost:
    """The cost of all stages of one kind, over seeds, targets and methods.

    work: on all devices together, by the kind of program that does it. memory: bytes on each
    device, by what they hold.
    """

    name: str
    work: dict[str, Work]
    memory: dict[str, float]

    @property
    def operations(self) -> float:
        """The operations of all its work, whatever their precision."""
        return sum(work.operations + work.exact for work in self.work.values())


def stage_costs(plan: Plan) -> list[StageCost]:
    """The costs in the order of a run; stages that no method asks for are left out."""
    selection, costs = plan.settings.selection, []
    if kinds := pool_kinds(selection.methods, selection.kinds):
        layers, own = plan.settings.features.layers, plan.settings.warmup.adapter
        kinds = ["sgd"] if layers else kinds
        costs = [
            *([] if layers or own else [_warmup(plan)]),
            _gradients(plan, "pool gradients", plan.rows.pool, len(kinds)),
            _gradients(plan, "validation gradients", plan.rows.validation, 1),
        ]
    if needing(selection.methods, HIDDEN):
        costs.append(_hidden(plan, "hidden states"))
    if needing(selection.methods, EMBEDDINGS) and not selection.encoder:
        costs.append(_hidden(plan, "prompt states"))
    if needing(selection.methods, LOSSES):
        costs += [_aligned(plan), _losses(plan)]
    if walking(selection.methods):
        costs.append(_walk(plan))
    return [*costs, _finetune(plan), _evaluate(plan)]


def _warmup(plan: Plan) -> StageCost:
    rows = plan.settings.warmup.fraction * plan.rows.pool.count
    return _training(plan, "warm-up", {rows: plan.seeds}, plan.settings.warmup.fit, plan.rows.pool)


def _aligned(plan: Plan) -> StageCost:
    """The cost of an adapter for each target and seed, trained on the target's validation rows."""
    rows, fit = plan.rows.validation, plan.settings.warmup.fit
    runs = {rows.count / plan.targets: plan.targets * plan.seeds}
    return _training(plan, "aligned adapters", runs, fit, rows)


def _finetune(plan: Plan) -> StageCost:
    """The cost of the fine-tunes; a method that looks at no target has one for all of them."""
    runs = {plan.chosen: 0, float(plan.rows.pool.count): 0}
    for method in plan.settings.selection.methods:
        if METHODS[method].choose is not None:
            count = float(plan.rows.pool.count) if method == "full" else plan.chosen
            runs[count] += plan.seeds * (1 if METHODS[method].needs == NOTHING else plan.targets)
    cost = _training(plan, "fine-tune", runs, plan.settings.finetune.fit, plan.rows.pool)
    return _in_full(plan, cost) if plan.settings.finetune.full else cost


def _in_full(plan: Plan, cost: StageCost) -> StageCost:
    """The cost of training all weights instead of an adapter: the product for each weight's own
    gradient beside those of its passes both ways, and four copies of the weights in float32."""
    shapes, shared = plan.model.base_shapes, plan.model.settings.shard_base
    weights = FLOAT32 * size(shapes) / (plan.devices // plan.hosts if shared else 1)
    memory = {name: cost.memory[name] for name in ("base", "activations")}
    memory |= {"weights": weights, "optimiser": 2 * weights, "gradients": 2 * weights}
    return StageCost(cost.name, {kind: work.times(1.5) for kind, work in cost.work.items()}, memory)


def _training(
    plan: Plan, name: str, runs: dict[float, int], fit: FitConfig, rows: RowCounts
) -> StageCost:
    """The cost of some trainings; runs: number of such rows -> trainings on so many."""
    adapter = plan.held["adapter"]
    layouts = {
        count: training(rows, count, fit, plan.max_length, plan.devices)
        for count, times in runs.items()
        if times
    }
    operations = sum(
        runs[count] * _gradient_work(plan.model, layout, rows).operations
        for count, layout in layouts.items()
    )
    kept = max((plan.kept(layout) for layout in layouts.values()), default=0.0)
    memory = plan.held | {
        "optimiser": 2 * adapter,
        "gradients": 2 * adapter,  # the sum over microbatches, and the newest one's
        "activations": kept,
    }
    return StageCost(name, {"training": Work(operations)}, memory)


def _gradient_work(model: Model, layout: Layout, rows: RowCounts) -> Work:
    """The work of forward and backward passes through the model, for all batches of the layout."""
    width = rows.tokens if rows.lengths_S is None else layout.width
    supervised = rows.share * min(rows.tokens / layout.width, 1.0)  # padding is not
    return Work(layout.cells * gradient_operations(model, width, supervised))


def _gradients(plan: Plan, name: str, rows: RowCounts, kinds: int) -> StageCost:
    """The cost of each example's gradient; a pass a checkpoint serves all kinds of features."""
    projection = plan.settings.features.projection
    shapes = plan.gradient_model.gradient_shapes
    width, batch_tokens = features_width(projection, shapes), plan.batch_tokens
    layout = one_pass(rows, batch_tokens, plan.max_length, plan.devices)
    batch_rows = max(batch_tokens // rows.tokens, 1)
    if rows.lengths_S is not None:
        batch_rows = layout.places / layout.batches
    passes = plan.settings.features.checkpoints * plan.seeds
    projected = _projection_work(projection, size(shapes), batch_rows)
    work = _gradient_work(plan.gradient_model, layout, rows) + projected.times(
        layout.places * kinds
    )
    memory = plan.held | {
        "optimiser": 2 * plan.held["adapter"],
        "features": FLOAT32 * kinds * batch_rows * 2 * width,
        "activations": plan.kept(layout),
    }
    return StageCost(name, {"feature passes": work.times(passes)}, memory)


def _projection_work(projection: ProjectionConfig, values: int, batch_rows: float) -> Work:
    """The work of projecting one gradient of so many values, in a batch of so many rows."""
    traffic = 2.0 * FLOAT32 * values  # the gradient, written and read
    if projection.kind == "rademacher":
        signs = 1.0 * values * projection.width
        # Made anew for each batch, in bfloat16, and read for each of a value's two parts.
        return Work(2 * 2 * signs, 0.0, traffic + (1 + 2) * FLOAT32 / 2 * signs / batch_rows)
    if projection.kind == "sketch":
        traffic += FLOAT32 * values * projection.repetitions
    return Work(0.0, 0.0, traffic)


def _hidden(plan: Plan, name: str) -> StageCost:
    """The cost of one forward pass over pool and validation rows, for all seeds; prompts are
    counted as whole rows, which is more than they are."""
    rows = (plan.rows.pool, plan.rows.validation)
    operations = sum(_reading(plan, of_file, 0.0) for of_file in rows)
    return StageCost(name, {"reading": Work(operations)}, plan.held)


def _losses(plan: Plan) -> StageCost:
    """The cost of the pool's losses under the base, and under the adapter of each target and
    seed."""
    passes, pool = 1 + plan.targets * plan.seeds, plan.rows.pool
    tokens = plan.settings.evaluation.evaluate.batch_tokens
    largest = one_pass(pool, tokens, plan.max_length).largest
    logits = FLOAT32 * tokens_with_logits(largest) * plan.model.config.vocab_size
    work = Work(passes * _reading(plan, pool, head_operations(plan.model)))
    return StageCost("pool losses", {"reading": work}, plan.held | {"logits": logits})


def _reading(plan: Plan, rows: RowCounts, head: float) -> float:
    """The operations of one forward pass, with so many of the head for each token."""
    tokens = plan.settings.evaluation.evaluate.batch_tokens
    layout = one_pass(rows, tokens, plan.max_length)
    width = rows.tokens if rows.lengths_S is None else layout.width
    return layout.cells * (forward_operations(plan.model, width) + head)


def _walk(plan: Plan) -> StageCost:
    """The cost of the walks: features are read once a chosen row, on a front once for many."""
    settings = plan.settings.features
    width = features_width(settings.projection, plan.gradient_model.gradient_shapes)
    width = width // 2**settings.folds * settings.checkpoints
    dtype = "float32" if settings.checkpoints > 1 else settings.store.dtype
    rows = plan.rows.pool.count
    itemsize = dtype_in_memory(dtype).itemsize
    features = float(rows * width * itemsize)
    selections = plan.targets * plan.seeds
    work = Work(0.0)
    for name in walking(plan.settings.selection.methods):
        of_pick = _walk_work(plan.settings.selection.walks[name], rows, width, itemsize)
        work += of_pick.times(plan.chosen * selections)
    served = FLOAT32 * rows * plan.rows.validation.count / plan.targets
    memory = {"features": features / plan.devices, "served": served / plan.devices}
    return StageCost("walk", {"walk": work}, memory)


def _walk_work(settings: WalkSettings, rows: int, width: int, itemsize: int) -> Work:
    """The work of the cosines of one chosen row to all rows."""
    has_front = goes_on_a_front(settings.walk, settings.graph.kind == "knn", rows)
    read = rows * width * itemsize / (WAITING if has_front else 1)
    return Work(0.0, 2.0 * rows * width, read)


def _evaluate(plan: Plan) -> StageCost:
    """The cost of the answers' loss, and of the letters' likelihoods where a task has some, else of
    a reply to every row, as long as the longest of the test rows' own or, where none was read, as
    it may be."""
    model, settings = plan.model, plan.settings.evaluation
    config, tasks = settings.evaluate, settings.tasks
    test, prompts = plan.rows.test, plan.rows.prompts
    times = len(plan.settings.selection.methods) * plan.seeds
    head = head_operations(model)

    letters = float(np.mean([len(task.letters) for task in tasks]))  # each a row of its own
    replied = float(np.mean([not task.letters for task in tasks])) * (config.new_tokens > 0)
    reading = _reading(plan, test, head) + letters * _reading(plan, prompts, head)
    reading += replied * _reading(plan, prompts, 0.0)
    whole = prompts.longer(config.new_tokens)  # with the room for the longest reply
    layout = one_pass(whole, config.batch_tokens, plan.max_length)
    batch_rows, room = max(config.batch_tokens // whole.tokens, 1), whole.tokens
    if whole.lengths_S is not None:
        batch_rows, room = layout.places / layout.batches, layout.width
    made = times * replied * layout.places * plan.reply_tokens
    largest = one_pass(test, config.batch_tokens, plan.max_length).largest
    memory = plan.held | {
        "cache": batch_rows * room * cache_bytes(model),
        "logits": FLOAT32 * tokens_with_logits(largest) * model.config.vocab_size,
    }
    work = {"reading": Work(times * reading)}
    if made:
        work["decoding"] = _decoding_work(model, batch_rows, room).times(made)
    return StageCost("evaluate", work, memory)


def _decoding_work(model: Model, batch_rows: float, room: float) -> Work:
    """The work of one token of a row among so many.

    A step reads the base once for the whole batch, and the whole cache of each row.
    """
    operations = forward_operations(model, room) + head_operations(model)
    traffic = base_bytes(model, 1) / batch_rows + room * cache_bytes(model)
    return Work(operations, 0.0, traffic)
