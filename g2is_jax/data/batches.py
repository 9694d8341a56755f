"""Plans batches: the rows that share one, their order, and the shape they are padded to.

All of it is arithmetic on lengths and a seed: nothing is consumed, so work resumes anywhere.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from g2is_jax.data.chat import Encoded
from g2is_jax.data.packing import joined, pack, segments
from g2is_jax.data.widths import COMPILE_COST, rows_at, widths_grid

BATCH_OVERHEAD = 512  # what a batch costs besides its tokens, in tokens; only steers their number


@dataclass(frozen=True)
class Batch:
    """Rows laid out as the model takes them."""

    rows_B: np.ndarray  # int32, place in the list of rows, of packed rows the first; -1: padding
    tokens_BT: np.ndarray  # int32
    supervised_BT: np.ndarray  # bool
    segments_BT: np.ndarray | None = None  # int32, which of its packed rows a token is of; -1: none


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
    return np.array([len(example.tokens_T) for example in encoded], np.int64)


def length_batches(
    encoded: Sequence[Encoded], token_budget: int, most_widths: int = 12, multiple: int = 1
) -> list[Plan]:
    """Plans every row once, shortest first, at no more than about `token_budget` tokens a batch.

    One (size_B, width_T) per width, so at most `most_widths` compiled shapes, fewer for few rows.
    Only the first batch may hold empty rows.
    """
    return length_plans(row_lengths(encoded), token_budget, most_widths, multiple)


def length_plans(
    lengths: Sequence[int] | np.ndarray,
    token_budget: int,
    most_widths: int = 12,
    multiple: int = 1,
) -> list[Plan]:
    """Plans as `length_batches` does, from the lengths of the rows alone."""
    lengths_N = np.asarray(lengths)
    if not len(lengths_N):
        return []
    grid = widths_grid(lengths_N, most_widths, COMPILE_COST)
    rows = np.arange(len(lengths_N))
    token_budget = _cheapest_budget([rows], lengths_N, grid, token_budget, multiple)
    return _split(rows, lengths_N, grid, token_budget, multiple)


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


def _cheapest_budget(
    groups: Sequence[np.ndarray],
    lengths_N: np.ndarray,
    grid: tuple[int, ...],
    token_budget: int,
    multiple: int,
) -> int:
    """Returns the budget, or a half, a quarter, ... of it, that costs least for these rows.

    A few rows, or one long row among short ones, would leave most of a large batch empty.
    """
    costs: dict[int, int] = {}
    while not costs or token_budget >= grid[-1]:
        plans = [_split(rows, lengths_N, grid, token_budget, multiple) for rows in groups]
        costs[token_budget] = sum(
            plan.size_B * plan.width_T + BATCH_OVERHEAD for group in plans for plan in group
        )
        token_budget //= 2
    return min(costs, key=lambda budget: (costs[budget], -budget))


def _split(
    rows: np.ndarray,
    lengths_N: np.ndarray,
    grid: tuple[int, ...],
    token_budget: int,
    multiple: int,
) -> list[Plan]:
    """Cuts rows, sorted by (length, row), into plans from the longest down.

    Each plan is as wide as its longest row asks and takes as many shorter ones as it has room for:
    for these shapes no other cut is cheaper, as covering more rows never costs more later.
    """
    ordered = rows[np.lexsort((rows, lengths_N[rows]))].astype(np.int32)
    plans, end = [], len(ordered)
    while end > 0:
        longest = lengths_N[ordered[end - 1]]
        width_T = grid[int(np.searchsorted(grid, longest))]
        size_B = rows_at(width_T, token_budget, multiple)
        start = max(end - size_B, 0)
        plans.append(Plan(ordered[start:end], size_B, width_T))
        end = start
    return plans[::-1]


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
    """The widths of microbatches, of which the last fits the longest row, and their most tokens.

    packed: rows of a step share sequences of at most the last width.
    """

    widths: tuple[int, ...]
    tokens: int
    packed: bool = False


def training_shapes(
    lengths: Sequence[int] | np.ndarray,
    batch_size: int,
    microbatch_tokens: int,
    most_widths: int = 4,
    multiple: int = 1,
    packed: bool = False,
) -> TrainingShapes:
    """Returns the cheapest shapes for optimiser batches drawn from rows of these lengths.

    Made once for a pool, so that training on any part of it compiles the same few programs.
    """
    lengths_N = np.asarray(lengths)
    batches = _steps_of(len(lengths_N), batch_size, seed=0, epoch=0)
    if packed:
        (width_T,) = widths_grid(lengths_N, most=1)
        steps = [_totals(pack(rows, lengths_N, width_T), lengths_N) for rows in batches]
        lengths_N = np.concatenate(steps)
        ends = np.cumsum([len(totals) for totals in steps])
        batches = np.split(np.arange(len(lengths_N)), ends[:-1])
        # Sequences of other steps may be fuller than any of these.
        widths = widths_grid([*lengths_N, width_T], most_widths, COMPILE_COST)
    else:
        widths = widths_grid(lengths_N, most_widths, COMPILE_COST)
    tokens = _cheapest_budget(batches, lengths_N, widths, microbatch_tokens, multiple)
    return TrainingShapes(widths, tokens, packed)


def training_batches(
    encoded: Sequence[Encoded],
    batch_size: int,
    seed: int,
    epochs: int,
    start_step: int,
    shapes: TrainingShapes,
    multiple: int = 1,
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
            plans = _step_plans(rows, lengths_N, shapes, multiple)
            yield step, [lay_out(encoded, plan, pad) for plan in plans]
            step += 1
        place = 0


def _steps_of(n: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Returns the rows of each optimiser step of an epoch."""
    order_N = epoch_order(n, seed, epoch)
    return [order_N[first : first + batch_size] for first in range(0, n, batch_size)]


def _step_plans(
    rows: np.ndarray, lengths_N: np.ndarray, shapes: TrainingShapes, multiple: int
) -> list[Plan]:
    """Plans the microbatches of one optimiser step."""
    if not shapes.packed:
        return _split(rows, lengths_N, shapes.widths, shapes.tokens, multiple)
    sequences = pack(rows, lengths_N, shapes.widths[-1])
    totals, places = _totals(sequences, lengths_N), np.arange(len(sequences))
    plans = []
    for plan in _split(places, totals, shapes.widths, shapes.tokens, multiple):
        chosen = tuple(sequences[place] for place in plan.rows)
        plans.append(Plan(np.concatenate(chosen), plan.size_B, plan.width_T, chosen))
    return plans


def _totals(sequences: Sequence[np.ndarray], lengths_N: np.ndarray) -> np.ndarray:
    """Returns the tokens of each sequence."""
    return np.array([lengths_N[rows].sum() for rows in sequences])


def training_padding(
    lengths: Sequence[int] | np.ndarray,
    batch_size: int,
    seed: int,
    epochs: int,
    shapes: TrainingShapes,
    multiple: int = 1,
) -> float:
    """Returns padding tokens as a share of all that go through the model in training."""
    lengths_N = np.asarray(lengths)
    cells = sum(
        plan.size_B * plan.width_T
        for epoch in range(epochs)
        for rows in _steps_of(len(lengths_N), batch_size, seed, epoch)
        for plan in _step_plans(rows, lengths_N, shapes, multiple)
    )
    return 1 - epochs * float(lengths_N.sum()) / cells


def rows_of_step(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Returns the rows that an optimiser step (0-based, over all epochs) learns from."""
    epoch, place = divmod(step, steps_per_epoch(n, batch_size))
    return _steps_of(n, batch_size, seed, epoch)[place]
