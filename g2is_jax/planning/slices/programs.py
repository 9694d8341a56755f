"""The programs of a run, as its stages make them, traced for chips that need not be there.

Rows are as long as they may be, `model.max_length`, and a batch has as many as the config's tokens
a chip leave room for. Batches of shorter rows have as many tokens in more rows.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from g2is_jax.data.batches import MOST_ROWS
from g2is_jax.evaluation.likelihood import likelihood_function
from g2is_jax.features.gradients import (
    DirectionConfig,
    PassInputs,
    feature_function,
    stacked_bits,
)
from g2is_jax.features.hidden_states import hidden_function
from g2is_jax.features.probes import probes
from g2is_jax.model.build import Model, with_adapter
from g2is_jax.model.generate import CHUNK, decoding_functions
from g2is_jax.model.sampling import row_keys
from g2is_jax.pipeline.settings import Settings
from g2is_jax.planning.slices.shapes import Chips, bytes_on_a_chip, scalar
from g2is_jax.planning.slices.topology import Slice
from g2is_jax.selection.methods import EMBEDDINGS, HIDDEN, LOSSES, needing, pool_kinds
from g2is_jax.training.fit import FitConfig
from g2is_jax.training.optimizer import adam_direction
from g2is_jax.training.steps import gradient_function, update_function

# The gradient of a row's largest matrix lies on a chip in about so many copies, however short the
# row is: 6 MB a row of Llama-3.1-8B at rank 128, where the largest have 2 MB.
COPIES = 3


@dataclass(frozen=True)
class Program:
    """A program for batches of any number of rows a chip.

    lower: rows a chip -> the traced program. rows, width: of a batch of the config, and the tokens
    of a row, with room for the reply. chips: that it is for. held: bytes on each chip beside what
    the program takes and makes. fields: of the config, that hold the tokens of a batch on each
    chip.
    """

    name: str
    rows: int
    width: int
    lower: Callable[[int], Any]
    chips: Chips
    held: int = 0
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunOnSlice:
    """A config and its model, for a slice."""

    settings: Settings
    model: Model
    slice: Slice

    @property
    def gradient_model(self) -> Model:
        """The model whose gradients are taken."""
        return with_adapter(self.model, self.settings.features.layers)

    @property
    def local(self) -> Chips:
        """The chips of a process, which work without those of the others."""
        return Chips(self.slice.local)

    @property
    def training(self) -> Chips:
        """The chips of all processes."""
        return Chips(self.slice.training)


def model_programs(run: RunOnSlice) -> Iterator[Program]:
    """The programs with the model, in the order of the stages that need them."""
    selection = run.settings.selection
    kinds = tuple(sorted(pool_kinds(selection.methods, selection.kinds)))
    if kinds and run.settings.features.layers:
        yield _features(run, "features of layers", ("sgd",), run.settings.data.max_length)
    elif kinds:
        longest = run.settings.data.max_length
        yield _features(run, "features", kinds, longest)
        of_validation = (run.settings.features.validation_kind,)
        if of_validation != kinds:
            validation = _features(run, "validation features", of_validation, longest)
            yield dataclasses.replace(validation, fields=())  # the pool's need more
    embeds = needing(selection.methods, EMBEDDINGS) and not selection.encoder
    if run.settings.features.hidden_states or needing(selection.methods, HIDDEN) or embeds:
        yield _hidden_states(run)
    yield from _trainings(run, bool(kinds or needing(selection.methods, LOSSES)))
    yield _likelihood(run)
    evaluation = run.settings.evaluation
    if evaluation.evaluate.new_tokens and not all(task.letters for task in evaluation.tasks):
        yield from _decoding(run)


def _rows(tokens: int, width: int) -> int:
    """The rows of a batch of so many tokens; at least one."""
    return max(tokens // width, 1)


def _features(run: RunOnSlice, name: str, kinds: tuple[str, ...], width: int) -> Program:
    model, chips, settings = run.gradient_model, run.local, run.settings.features
    adam = run.settings.warmup.fit.optimizer
    directions = tuple(DirectionConfig(kind, adam.b1, adam.b2, adam.eps) for kind in kinds)
    projection = settings.projection
    bits = chips.everywhere(jax.eval_shape(lambda: stacked_bits(model, projection, 0)))
    adapter, step = chips.adapter(model), chips.everywhere(scalar(np.int32))
    if settings.layers:
        adapter = chips.everywhere(jax.eval_shape(lambda: probes(model, 0)))
    inputs = PassInputs(adapter, chips.base(model), adapter, adapter, step, bits)
    function = feature_function(model, directions, projection, chips.mesh)

    def lower(rows: int):
        tokens_BT = chips.of_rows((rows, width), np.int32)
        return function.lower(inputs, tokens_BT, chips.of_rows((rows, width), np.bool_))

    rows = _rows(settings.batch_tokens or width, width)
    largest = max(math.prod(shape) for shape in model.gradient_shapes.values())
    of_short_rows = MOST_ROWS * COPIES * np.dtype(np.float32).itemsize * largest
    fields = ("grads.batch_tokens",)
    return Program(name, rows, width, lower, chips, of_short_rows, fields)


def _hidden_states(run: RunOnSlice) -> Program:
    chips, width = run.local, run.settings.data.max_length
    base, function = chips.base(run.model), hidden_function(run.model, chips.mesh)

    def lower(rows: int):
        tokens_BT = chips.of_rows((rows, width), np.int32)
        return function.lower(base, tokens_BT, chips.of_rows((rows,), np.int32))

    rows = _rows(run.settings.features.batch_tokens or width, width)
    return Program("hidden states", rows, width, lower, chips, fields=("grads.batch_tokens",))


def _trainings(run: RunOnSlice, has_warmup: bool) -> Iterator[Program]:
    """The gradient of a microbatch, and the update; warm-up and fine-tune apart where they differ
    in the size or the kind of their batches."""
    fits = {"finetune": run.settings.finetune.fit}
    if has_warmup:
        fits = {"warmup": run.settings.warmup.fit, **fits}
    sections: dict[tuple[int, bool], list[str]] = {}
    for section, fit in fits.items():
        sections.setdefault((fit.microbatch_tokens, fit.packing), []).append(section)
    for names in sections.values():
        name = "training" if len(sections) == 1 else f"training of {names[0]}"
        yield _training(run, name, fits[names[0]], tuple(names))
    yield _update(run)


def _training(run: RunOnSlice, name: str, fit: FitConfig, sections: tuple[str, ...]) -> Program:
    model, chips, width = run.model, run.training, run.settings.data.max_length
    key = chips.everywhere(jax.eval_shape(lambda: jax.random.key(0)))
    adapter, base = chips.adapter(model), chips.base(model)
    function = gradient_function(model, chips.mesh)

    def lower(rows: int):
        batch = {
            "rows_B": chips.of_rows((rows,), np.int32),
            "tokens_BT": chips.of_rows((rows, width), np.int32),
            "supervised_BT": chips.of_rows((rows, width), np.bool_),
            "segments_BT": chips.of_rows((rows, width), np.int32) if fit.packing else None,
        }
        return function.lower(adapter, base, batch, key)

    return Program(
        name,
        _rows(fit.microbatch_tokens, width),
        width,
        lower,
        chips,
        held=3 * bytes_on_a_chip(adapter),  # Adam's moments, and the sum of microbatches
        fields=tuple(f"{section}.microbatch_tokens" for section in sections),
    )


def _update(run: RunOnSlice) -> Program:
    """AdamW's step, which no batch goes through."""
    model, chips = run.model, run.training
    optimizer = run.settings.finetune.fit.optimizer
    adapter = chips.adapter(model)
    state = chips.everywhere(jax.eval_shape(adam_direction(optimizer).init, adapter))
    loss, tokens, rate = (chips.everywhere(scalar(t)) for t in (np.float32, np.int32, np.float32))

    def lower(rows: int):
        return update_function(optimizer).lower(adapter, state, adapter, loss, tokens, rate)

    return Program("update", 0, 0, lower, chips, held=bytes_on_a_chip(chips.base(model)))


def _likelihood(run: RunOnSlice) -> Program:
    model, chips, width = run.model, run.local, run.settings.data.max_length
    adapter, base = chips.adapter(model), chips.base(model)
    function = likelihood_function(model, chips.mesh)

    def lower(rows: int):
        shape = (rows, width)
        batch = chips.of_rows(shape, np.int32), chips.of_rows(shape, np.bool_)
        return function.lower(adapter, base, *batch)

    rows = _rows(run.settings.evaluation.evaluate.batch_tokens, width)
    fields = ("evaluate.batch_tokens",)
    return Program("likelihood", rows, width, lower, chips, fields=fields)


def _decoding(run: RunOnSlice) -> Iterator[Program]:
    """The prompts' pass, and the loop over the tokens of a reply."""
    model, chips, evaluate = run.model, run.local, run.settings.evaluation.evaluate
    room = run.settings.data.max_length
    width = room - evaluate.new_tokens
    prefill, advance = decoding_functions(model, 0.0, 1.0, (0,), chips.mesh)
    adapter, base, step = (
        chips.adapter(model),
        chips.base(model),
        chips.everywhere(scalar(np.int32)),
    )

    def prompts(rows: int) -> tuple[Any, ...]:
        keys = jax.eval_shape(lambda: row_keys(0, jnp.arange(rows, dtype=jnp.uint32)))
        return (
            chips.of_rows((rows, width), np.int32),
            chips.of_rows((rows,), np.int32),
            chips.of_rows(keys.shape, keys.dtype),
        )

    def lower_prefill(rows: int):
        return prefill.lower(adapter, base, *prompts(rows), room=room)

    def lower_decode(rows: int):
        start = functools.partial(prefill, room=room)
        state = jax.tree.map(
            lambda x: chips.of_rows((rows, *x.shape[1:]), x.dtype),
            jax.eval_shape(start, adapter, base, *prompts(rows)),
        )
        ended_B, chunk = chips.of_rows((rows,), np.bool_), min(CHUNK, evaluate.new_tokens)
        return advance.lower(adapter, base, state, ended_B, step, step, chunk=chunk)

    rows = _rows(evaluate.batch_tokens, room)
    for name, lower in (("prefill", lower_prefill), ("decode", lower_decode)):
        yield Program(name, rows, room, lower, chips, fields=("evaluate.batch_tokens",))
