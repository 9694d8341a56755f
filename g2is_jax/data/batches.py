"""Plans batches: the rows that share one, their order, and the shape they are padded to.

All of it is arithmetic on lengths and a seed: nothing is consumed, so work resumes anywhere.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from g2is_jax.data.chat import Encoded
from g2is_jax.data.encoded_rows import EncodedRows
from g2is_jax.data.packing import (
    BATCH_OVERHEAD,
    Shape,
    joined,
    microbatches,
    packed_shapes,
    segments,
)
from g2is_jax.data.widths import COMPILE_COST, rows_at, widths_grid

MOST_WIDTHS, MOST_PACKED = 20, 12  # compiled shapes of a pass over rows, and of training
MOST_ROWS = 128  # of a batch on each device: what a row takes however short it is stays bounded
STEPS = 256  # optimiser steps that the shapes of packed rows are chosen by


@dataclass(frozen=True)
class Batch:
    """Rows laid out as the model takes them."""

    rows_B: np.ndarray  # int32, place in the list of rows, of packed rows the first; -1: padding
    tokens_BT: np.ndarray  # int32
    supervised_BT: np.ndarray  # bool
    segments_BT: np.ndarray | None = None  # int32, the packed row that a token is of; -1: none


@dataclass(frozen=True)
class Plan:
    """A batch before its tokens are laid out: up to `size_B` rows, padded to (size_B, width_T).

    sequences: the rows that share a sequence, for each of up to `size_B`; None: each has its own.
    """

    rows: np.ndarray  # int32
    size_B: int
    width_T: int
    sequences: tuple[np.ndarray, ...] | None = None


def pad_batch(
    encoded: Sequence[Encoded],
    rows: Sequence[int] | np.ndarray,
    size_B: int,
    width_T: int,
    pad: int = 0,
) -> Batch:
    """Lays rows out as (size_B, width_T), with unsupervised `pad` tokens in what is left over."""
    rows_B = np.full(size_B, -1, np.int32)
    tokens_BT = np.full((size_B, width_T), pad, np.int32)
    supervised_BT = np.zeros((size_B, width_T), bool)
    for place, row in enumerate(rows):
        length = len(encoded[row].tokens_T)
        rows_B[place] = row
        tokens_BT[place, :length] = encoded[row].tokens_T
        supervised_BT[place, :length] = encoded[row].supervised_T
    return Batch(rows_B, tokens_BT, supervised_BT)


def lay_out(encoded: Sequence[Encoded], plan: Plan, pad: int = 0) -> Batch:
    """Lays out the batch that a plan describes."""
    if plan.sequences is None:
        return pad_batch(encoded, plan.rows, plan.size_B, plan.width_T, pad)
    sequences = [joined(encoded, rows) for rows in plan.sequences]
    batch = pad_batch(sequences, range(len(sequences)), plan.size_B, plan.width_T, pad)
    segments_BT = np.full(batch.tokens_BT.shape, -1, np.int32)
    for place, rows in enumerate(plan.sequences):
        batch.rows_B[place] = rows[0]
        numbers_T = segments(encoded, rows)
        segments_BT[place, : len(numbers_T)] = numbers_T
    return dataclasses.replace(batch, segments_BT=segments_BT)


def row_lengths(encoded: Sequence[Encoded]) -> np.ndarray:
    """Returns the tokens of each row: int64 (N,)."""
    if isinstance(encoded, EncodedRows):
        return encoded.lengths_N
    return np.array([len(example.tokens_T) for example in encoded], np.int64)


def length_batches(
    encoded: Sequence[Encoded],
    token_budget: int,
    multiple: int = 1,
    compile_cost: int = COMPILE_COST,
) -> list[Plan]:
    """Plans every row once, shortest first, at no more than about `token_budget` tokens a batch.

    One (size_B, width_T) per width, so at most MOST_WIDTHS compiled shapes, fewer for few rows; the
    rows of a width are shared out evenly, at most MOST_ROWS to a device. `multiple`: the number of
    devices, which share each batch. `compile_cost`: of one more shape, in tokens.
    """
    return length_plans(row_lengths(encoded), token_budget, multiple, compile_cost)


def length_plans(
    lengths: Sequence[int] | np.ndarray,
    token_budget: int,
    multiple: int = 1,
    compile_cost: int = COMPILE_COST,
    most_widths: int = MOST_WIDTHS,
) -> list[Plan]:
    """Plans as `length_batches` does, from the lengths of the rows alone."""
    lengths_N = np.asarray(lengths)
    if not len(lengths_N):
        return []
    grid = widths_grid(lengths_N, most_widths, compile_cost)
    ordered = np.lexsort((np.arange(len(lengths_N)), lengths_N)).astype(np.int32)
    of_width = np.split(ordered, np.searchsorted(lengths_N[ordered], grid[:-1], side="right"))
    plans = []
    for width_T, rows in zip(grid, of_width, strict=True):
        if len(rows):
            size_B = _even_size(len(rows), width_T, token_budget, multiple)
            cuts = range(len(rows) % size_B or size_B, len(rows), size_B)
            plans += [Plan(part, size_B, width_T) for part in np.split(rows, cuts)]
    return plans


def _even_size(count: int, width_T: int, token_budget: int, multiple: int) -> int:
    """Returns the rows of a batch that cost least where batches of one size hold so many rows."""
    most = min(max(token_budget // (width_T * multiple), 1), MOST_ROWS)

    def cost(size: int) -> int:
        batches = -(-count // (size * multiple))
        return batches * (size * multiple * width_T + BATCH_OVERHEAD)

    return multiple * min(range(most, 0, -1), key=cost)


def chunked(plans: Sequence[Plan], chunk_rows: int) -> list[list[Plan]]:
    """Cuts consecutive batches into chunks of at least `chunk_rows` rows; the last may be less."""
    chunks: list[list[Plan]] = []
    rows = chunk_rows
    for plan in plans:
        if rows >= chunk_rows:
            chunks.append([])
            rows = 0
        chunks[-1].append(plan)
        rows += len(plan.rows)
    return chunks


def padding_share(plans: Sequence[Plan], encoded: Sequence[Encoded]) -> float:
    """Returns padding tokens as a share of all tokens that go through the model."""
    total = sum(plan.size_B * plan.width_T for plan in plans)
    return 1 - float(row_lengths(encoded).sum()) / total if total else 0.0


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Returns the optimiser steps of an epoch; the last step holds the rows left over."""
    return -(-n // batch_size)


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of rows in an epoch: a permutation by (n, seed, epoch) alone.

    Sorted raw bits rather than Generator.permutation, whose result NumPy may change.
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(n)
    return np.argsort(bits, kind="stable")


@dataclass(frozen=True)
class TrainingShapes:
    """The shapes (size_B, width_T) of microbatches; the longest row fits at least one of them.

    packed: rows of a step share sequences.
    """

    shapes: tuple[Shape, ...]
    packed: bool = False

    @property
    def longest(self) -> int:
        """The tokens of the longest row that fits."""
        return max(width_T for _, width_T in self.shapes)


def training_shapes(
    lengths: Sequence[int] | np.ndarray,
    batch_size: int,
    microbatch_tokens: int,
    most_widths: int = 4,
    multiple: int = 1,
    packed: bool = False,
) -> TrainingShapes:
    """Returns the cheapest shapes for optimiser batches drawn from rows of these lengths.

    Made once for a pool, so that training on any part of it compiles the same few programs:
    `most_widths`, or MOST_PACKED where rows are packed.
    """
    lengths_N = np.asarray(lengths)
    steps = _steps_of(len(lengths_N), batch_size, seed=0, epoch=0)
    if packed:
        steps = _some_cut_short(steps[:STEPS])
        shapes = packed_shapes(steps, lengths_N, microbatch_tokens, multiple, MOST_PACKED)
        return TrainingShapes(shapes, packed=True)
    widths = widths_grid(lengths_N, most_widths, COMPILE_COST)
    return TrainingShapes(_cheapest_shapes(steps, lengths_N, widths, microbatch_tokens, multiple))


def _some_cut_short(steps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Leaves each eighth step a part of its rows, as the last step of an epoch has."""
    return [
        rows if place % 8 != 7 else rows[: -(-len(rows) * (place // 8 % 7 + 1) // 8)]
        for place, rows in enumerate(steps)
    ]


def _cheapest_shapes(
    steps: Sequence[np.ndarray],
    lengths_N: np.ndarray,
    widths: tuple[int, ...],
    token_budget: int,
    multiple: int,
) -> tuple[Shape, ...]:
    """Returns a shape for each width, at the budget, or a half, a quarter, ... of it, that costs
    least for these steps.

    A few rows, or one long row among short ones, would leave most of a large batch empty.
    """
    costs: dict[tuple[Shape, ...], int] = {}
    while not costs or token_budget >= widths[-1]:
        shapes = tuple((rows_at(width, token_budget, multiple), width) for width in widths)
        plans = [_split(rows, lengths_N, shapes) for rows in steps]
        costs[shapes] = sum(
            plan.size_B * plan.width_T + BATCH_OVERHEAD for step in plans for plan in step
        )
        token_budget //= 2
    return min(costs, key=lambda shapes: costs[shapes])


def _split(rows: np.ndarray, lengths_N: np.ndarray, shapes: Sequence[Shape]) -> list[Plan]:
    """Cuts rows, sorted by (length, row), into plans from the longest down.

    shapes: by width. Each plan is as wide as its longest row asks and takes as many shorter ones as
    it has room for: for these shapes no other cut is cheaper, as covering more rows never costs
    more later.
    """
    widths = [width_T for _, width_T in shapes]
    ordered = rows[np.lexsort((rows, lengths_N[rows]))].astype(np.int32)
    plans, end = [], len(ordered)
    while end > 0:
        longest = lengths_N[ordered[end - 1]]
        size_B, width_T = shapes[int(np.searchsorted(widths, longest))]
        start = max(end - size_B, 0)
        plans.append(Plan(ordered[start:end], size_B, width_T))
        end = start
    return plans[::-1]


def training_batches(
    encoded: Sequence[Encoded],
    batch_size: int,
    seed: int,
    epochs: int,
    start_step: int,
    shapes: TrainingShapes,
    pad: int = 0,
) -> Iterator[tuple[int, list[Batch]]]:
    """Yields (step, microbatches) of each optimiser step from `start_step` (0-based) to the last.

    A step's rows are the next `batch_size` of the epoch's order; the last step of an epoch is
    smaller. Microbatches come in these `shapes`, and hold empty rows where needed.
    """
    if not encoded:
        return
    lengths_N = row_lengths(encoded)
    per_epoch = steps_per_epoch(len(encoded), batch_size)
    first, place = divmod(start_step, per_epoch)
    step = start_step
    for epoch in range(first, epochs):
        for rows in _steps_of(len(encoded), batch_size, seed, epoch)[place:]:
            plans = _step_plans(rows, lengths_N, shapes)
            yield step, [lay_out(encoded, plan, pad) for plan in plans]
            step += 1
        place = 0


def _steps_of(n: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Returns the rows of each optimiser step of an epoch."""
    order_N = epoch_order(n, seed, epoch)
    return [order_N[first : first + batch_size] for first in range(0, n, batch_size)]


def _step_plans(rows: np.ndarray, lengths_N: np.ndarray, shapes: TrainingShapes) -> list[Plan]:
    """Plans the microbatches of one optimiser step."""
    if not shapes.packed:
        return _split(rows, lengths_N, shapes.shapes)
    return [
        Plan(np.concatenate(sequences), size_B, width_T, tuple(sequences))
        for (size_B, width_T), sequences in microbatches(rows, lengths_N, shapes.shapes)
    ]


def training_plans(
    lengths: Sequence[int] | np.ndarray,
    batch_size: int,
    seed: int,
    epochs: int,
    shapes: TrainingShapes,
) -> list[Plan]:
    """Returns all microbatches of a training, from the lengths of its rows alone."""
    lengths_N = np.asarray(lengths)
    return [
        plan
        for epoch in range(epochs)
        for rows in _steps_of(len(lengths_N), batch_size, seed, epoch)
        for plan in _step_plans(rows, lengths_N, shapes)
    ]


def training_padding(
    lengths: Sequence[int] | np.ndarray,
    batch_size: int,
    seed: int,
    epochs: int,
    shapes: TrainingShapes,
) -> float:
    """Returns padding tokens as a share of all that go through the model in training."""
    plans = training_plans(lengths, batch_size, seed, epochs, shapes)
    cells = sum(plan.size_B * plan.width_T for plan in plans)
    return 1 - epochs * float(np.sum(lengths)) / cells


def rows_of_step(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Returns the rows that an optimiser step (0-based, over all epochs) learns from."""
    epoch, place = divmod(step, steps_per_epoch(n, batch_size))
    return _steps_of(n, batch_size, seed, epoch)[place]
