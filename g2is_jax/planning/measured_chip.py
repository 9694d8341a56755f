"""This machine in place of a chip of the table: a few seconds of measuring, in the job's shapes.

Full speed is that of a matrix product and of a copy. What share of it each kind of work reaches is
found by running the job's own programs, on batches as large as the job's, with a model of its
shapes of at most two layers and random weights. So what small shapes, norms, softmax and the like
cost is part of the share; what more layers cost is reckoned. Also measured: an optimiser step, a
save, a stage's folder, and what the process itself takes of memory.
"""

import dataclasses
import functools
import gc
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from g2is_jax.evaluation.likelihood import likelihood_function
from g2is_jax.features.gradients import DirectionConfig, feature_function, shared_inputs
from g2is_jax.features.projection import features_width
from g2is_jax.features.rows import Rows
from g2is_jax.model.adapters import write_adapter
from g2is_jax.model.build import DTYPES, Model, build_model
from g2is_jax.model.generate import decoding_functions
from g2is_jax.model.lora import Leaves
from g2is_jax.model.sampling import row_keys
from g2is_jax.planning.chips import Chip, Work
from g2is_jax.planning.layouts import Layout, one_pass, training
from g2is_jax.planning.machines import Machine
from g2is_jax.planning.model_costs import (
    forward_operations,
    gradient_operations,
    head_operations,
    size,
)
from g2is_jax.planning.stage_costs import (
    DECODING,
    PASS,
    READING,
    TRAINING,
    WALK,
    Plan,
    decoding_work,
    pool_kinds,
    projection_work,
    walk_work,
)
from g2is_jax.runs.manifest import run_stage
from g2is_jax.runs.metrics import MetricsLog
from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.methods import FEATURES, METHODS, SECTIONS, MethodInputs, needing
from g2is_jax.training.checkpoints import Checkpoints
from g2is_jax.training.fit import all_finite, gradient_function, update_function
from g2is_jax.training.optimizer import Moments, adam_direction, learning_rates

LAYERS = 2  # of the model that is measured
SECONDS, REPEATS = 0.5, (3, 25)  # of each measurement, at most; repeats, at least and at most
STEPS = 16  # of decoding
COPIED = 2**25  # float32
WALKED, PICKS = 2**23, 32  # values of the features that walks are measured on, and rows chosen
MOST_NEIGHBOURS = 512  # a graph of more than the rows that are walked on cannot be made

Clock = Callable[[], float]
Done = tuple[Work, float]  # work, and the seconds that it took


def measured(plan: Plan, text_seconds: float, clock: Clock = time.perf_counter) -> Machine:
    """The machine, for the work of this plan. text_seconds: of a row that is tokenised; `clock`: of
    seconds."""
    chip = _chip(plan, clock)
    shares, runtime = _shares(plan, chip, clock)
    overheads = _overheads(plan, clock) | {"texts": text_seconds}
    reached = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
    told = (
        f"measured: {chip.float32 / 1e9:,.0f} GFLOP/s in float32, {chip.bfloat16 / 1e9:,.0f} in "
        f"bfloat16, {chip.bandwidth / 1e9:,.1f} GB/s; of what these would give: {reached}"
    )
    return Machine("cpu", chip, shares, told, overheads, runtime)


def _shares(plan: Plan, chip: Chip, clock: Clock) -> tuple[dict[str, float], float]:
    """Of full speed, what each kind of the plan's work reaches; and bytes that the process holds
    once programs for training and for reading are compiled."""
    few, methods = _few_layers(plan.model), plan.settings.selection.methods
    base, adapter = _random(few.base_shapes, few.dtype), _random(few.adapter_shapes, jnp.float32)
    found = {
        TRAINING: _training(plan, few, adapter, base, clock),
        READING: _reading(plan, few, adapter, base, clock),
    }
    gc.collect()
    runtime = max(_resident() - sum(leaf.nbytes for leaf in (*base.values(), *adapter.values())), 0)
    if needing(methods, FEATURES):
        found[PASS] = _pass(plan, few, adapter, base, clock)
    if set(SECTIONS) & set(methods):
        found[WALK] = _walk(plan, clock)
    if plan.settings.evaluate.new_tokens:
        found[DECODING] = _decoding(plan, few, adapter, base, clock)
    activations = plan.settings.model.activations
    reached = {kind: work.seconds(chip, activations) / s for kind, (work, s) in found.items()}
    return reached, runtime


def _seconds(call: Callable[[], object], clock: Clock) -> float:
    """Median of repeated calls, after one that compiles."""
    jax.block_until_ready(call())
    taken: list[float] = []
    while len(taken) < REPEATS[0] or (sum(taken) < SECONDS and len(taken) < REPEATS[1]):
        began = clock()
        jax.block_until_ready(call())
        taken.append(clock() - began)
    return statistics.median(taken)


def _chip(plan: Plan, clock: Clock) -> Chip:
    """Products in the shape of the MLP's, for as many tokens as go through the model at once."""
    c, rates = plan.model.config, {}
    tokens = _trained(plan).largest
    for name, dtype in DTYPES.items():
        x_TD = jnp.ones((tokens, c.hidden_size), dtype)
        w_DF = jnp.ones((c.hidden_size, c.intermediate_size), dtype)
        seconds = _seconds(functools.partial(jnp.matmul, x_TD, w_DF), clock)
        rates[name] = 2 * tokens * c.hidden_size * c.intermediate_size / seconds
    numbers = jnp.zeros(COPIED)
    seconds = _seconds(lambda: jax.lax.neg(numbers), clock)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Chip(rates["bfloat16"], rates["float32"], memory, 2 * numbers.nbytes / seconds)


def _few_layers(model: Model) -> Model:
    config = dataclasses.replace(model.config, layers=model.config.layers[:LAYERS])
    return build_model(config, model.lora, model.settings)


def _random(shapes: dict[str, tuple[int, ...]], dtype) -> Leaves:
    draws = np.random.default_rng(0)
    return {
        path: jnp.asarray(draws.standard_normal(shape, np.float32) * shape[-1] ** -0.5, dtype)
        for path, shape in sorted(shapes.items())
    }


def _trained(plan: Plan) -> Layout:
    """A fine-tune."""
    fit = plan.settings.finetune
    return training(plan.rows.pool, plan.chosen, fit, plan.max_length, plan.devices)


def _batch(layout: Layout, share: float, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (B, T) of a batch like the layout's, the last of each row supervised."""
    width_T = max(round(layout.width / 8), 1) * 8
    rows = max(round(layout.cells / layout.batches / width_T), 1)
    tokens_BT = np.random.default_rng(0).integers(0, vocabulary, (rows, width_T), np.int32)
    supervised_BT = np.zeros(tokens_BT.shape, bool)
    supervised_BT[:, -max(round(share * width_T), 1) :] = True
    return tokens_BT, supervised_BT


def _training(plan: Plan, few: Model, adapter: Leaves, base: Leaves, clock: Clock) -> Done:
    pool, layout = plan.rows.pool, _trained(plan)
    share = min(pool.supervised / layout.width, 1.0)
    tokens_BT, supervised_BT = _batch(layout, share, few.config.vocab_size)
    batch = {
        "rows_B": np.arange(len(tokens_BT), dtype=np.int32),
        "tokens_BT": tokens_BT,
        "supervised_BT": supervised_BT,
        "segments_BT": None,
    }
    function, key = gradient_function(few), jax.random.key(0)
    width = tokens_BT.shape[1]
    work = Work(tokens_BT.size * gradient_operations(few, width, supervised_BT.mean()))
    return work, _seconds(lambda: function(adapter, base, batch, key), clock)


def _reading(plan: Plan, few: Model, adapter: Leaves, base: Leaves, clock: Clock) -> Done:
    rows, config = plan.rows.test, plan.settings.evaluate
    layout = one_pass(rows, config.batch_tokens, plan.max_length)
    tokens_BT, supervised_BT = _batch(layout, rows.share, few.config.vocab_size)
    function, width = likelihood_function(few), tokens_BT.shape[1]
    work = Work(tokens_BT.size * (forward_operations(few, width) + head_operations(few)))
    return work, _seconds(lambda: function(adapter, base, tokens_BT, supervised_BT), clock)


def _decoding(plan: Plan, few: Model, adapter: Leaves, base: Leaves, clock: Clock) -> Done:
    """Steps, in a cache as long as the job's."""
    config, rows = plan.settings.evaluate, plan.rows.prompts
    layout = one_pass(rows, config.batch_tokens, plan.max_length)
    tokens_BT, _ = _batch(layout, 1.0, few.config.vocab_size)
    count, width = tokens_BT.shape
    room = width + config.new_tokens
    prefill, advance = decoding_functions(few, 0.0, 1.0, ())
    lengths_B, none_B = np.full(count, width, np.int32), np.zeros(count, bool)
    keys_B, steps = row_keys(0, jnp.arange(count, dtype=jnp.uint32)), min(STEPS, config.new_tokens)

    def states() -> Iterator:
        while True:  # a state is used up
            yield jax.block_until_ready(
                prefill(adapter, base, tokens_BT, lengths_B, keys_B, room=room)
            )

    fresh, taken = states(), []
    for _ in range(REPEATS[0] + 1):
        state = next(fresh)
        began = clock()
        jax.block_until_ready(advance(adapter, base, state, none_B, steps + 1, chunk=steps)[1])
        taken.append(clock() - began)
    work = decoding_work(few, count, room).times(count * steps)
    return work, statistics.median(taken[1:])


def _pass(plan: Plan, few: Model, adapter: Leaves, base: Leaves, clock: Clock) -> Done:
    """Gradients of a batch of the pool and their projection, for each kind that is asked for."""
    pool, projection = plan.rows.pool, plan.settings.projection
    layout = one_pass(pool, plan.config.grads.batch_tokens, plan.max_length)
    share = min(pool.supervised / layout.width, 1.0)
    tokens_BT, supervised_BT = _batch(layout, share, few.config.vocab_size)
    kinds = pool_kinds(plan)
    adam = plan.settings.warmup.optimizer
    directions = tuple(DirectionConfig(kind, adam.b1, adam.b2, adam.eps) for kind in kinds)
    moments = Moments(1, adapter, jax.tree.map(jnp.square, adapter))
    inputs = shared_inputs(few, adapter, base, moments, projection, 0)
    function = feature_function(few, directions, projection)
    count, width = tokens_BT.shape
    projected = projection_work(projection, size(few.adapter_shapes), count)
    gradient = Work(tokens_BT.size * gradient_operations(few, width, supervised_BT.mean()))
    work = gradient + projected.times(count * len(kinds))
    return work, _seconds(lambda: function(inputs, tokens_BT, supervised_BT), clock)


def _walk(plan: Plan, clock: Clock) -> Done:
    """Some rows of each walk, on random features."""
    choosing = plan.settings.selection
    width = features_width(plan.settings.projection, plan.model.adapter_shapes)
    count = min(plan.rows.pool.count, max(WALKED // width, MOST_NEIGHBOURS))
    picks = max(min(round(plan.chosen), PICKS), 1)
    shown = max(plan.rows.validation.count // plan.targets, 1)
    # In one direction mostly: with more of them walks go side by side, with none they end at once.
    pool_NP, shown_MP = _leaning(count, width, 0.5), _leaning(shown, width, 2.0)
    ones_N = np.ones(count, int)
    inputs = MethodInputs(
        choosing,
        limits(BudgetConfig(picks, "rows", 1.0), ones_N, 0 * ones_N),
        0,
        ones_N,
        pool=Rows(pool_NP),
        validation=Rows(shown_MP, norms_NK=np.linspace(0.5, 1.5, shown, dtype=np.float32)[:, None]),
        subtasks_M=np.zeros(shown, int),
    )
    walks = [name for name in choosing.methods if name in SECTIONS]
    chosen_by = [choose for name in walks if (choose := METHODS[name].choose)]
    work = Work(0.0)
    for name, choose in zip(walks, chosen_by, strict=True):
        of_row = walk_work(choosing.walks[name], count, width, pool_NP.itemsize)
        work += of_row.times(len(choose(inputs).picks))
    return work, _seconds(lambda: [choose(inputs) is None for choose in chosen_by], clock)


def _leaning(count: int, width: int, lean: float) -> np.ndarray:
    """Random unit rows that share a direction; lean: its length, over that of what each has of its
    own."""
    draws = np.random.default_rng(count)
    own_NP = draws.standard_normal((count, width), np.float32) / width**0.5
    own_NP[:, 0] += lean
    return own_NP / np.linalg.norm(own_NP, axis=1, keepdims=True)


def _overheads(plan: Plan, clock: Clock) -> dict[str, float]:
    """Seconds of a step of the optimiser, of a save, and of a stage that does nothing."""
    model, fit = plan.model, plan.settings.finetune
    adapter = model.init_adapter(0)
    state = adam_direction(fit.optimizer).init(adapter)
    update, rates = update_function(fit.optimizer), learning_rates(fit.optimizer, 100)
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as name:
        folder = epath.Path(name)
        log = MetricsLog(folder / "metrics.jsonl", start_step=0)

        def step():
            """What `fit` does around the gradient."""
            number, one = next(numbers), jnp.float32(1)
            jax.random.fold_in(jax.random.key(0), number)
            summed = jax.tree.map(jnp.add, adapter, adapter)
            new, _ = update(adapter, state, summed, one, float(rates(number)))
            loss = float(one / jnp.maximum(one, 1))
            log.write(number, loss=loss, tokens=int(one), learning_rate=float(all_finite(summed)))
            return new

        def begin():
            first = model.init_adapter(0)
            checkpoints = Checkpoints(folder / f"checkpoints-{next(numbers)}", keep=1)
            adam_direction(fit.optimizer).init(first)
            checkpoints.close()

        checkpoints = Checkpoints(folder / "checkpoints", keep=1)

        def save():
            write_adapter(folder / "adapter", adapter, model, "")
            checkpoints.save(next(numbers), adapter, state, {"step": 0})

        def load():
            return checkpoints.restore(max(checkpoints.steps()), adapter, state)

        def stage():
            run_stage(folder, "empty", {"number": next(numbers)}, {}, lambda part: {})

        calls = {"steps": step, "trainings": begin, "saves": save, "loads": load, "folders": stage}
        found = {what: _seconds(call, clock) for what, call in calls.items()}
        checkpoints.close()
    return found


def _resident() -> float:
    """Bytes that this process holds now, if the system tells."""
    file = epath.Path("/proc/self/statm")
    if not file.exists():
        return 0.0
    return float(int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
