"""The tokens that go through the model for some rows, padding included, and their batches.

They are estimated by the rules that the run itself lays its batches out with, where the rows'
lengths are known from a sample.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from g2is_jax.data.batches import Plan, length_plans, training_plans, training_shapes
from g2is_jax.training.fit import FitConfig

MOST_LAID_OUT = 20_000  # rows; more are a multiple of these


@dataclass(frozen=True)
class RowCounts:
    """The number of rows of a kind, and a row's mean tokens, in all and supervised ones.

    lengths_S: tokens of each row of a sample; None where no row was read: then all are of the mean
    length, without padding.
    """

    count: int
    tokens: float
    supervised: float
    lengths_S: np.ndarray | None = None

    @property
    def share(self) -> float:
        """The share of the tokens that is supervised."""
        return self.supervised / self.tokens

    def longer(self, tokens: int) -> "RowCounts":
        """The rows, each of so many tokens more, which are not supervised."""
        lengths_S = None if self.lengths_S is None else self.lengths_S + tokens
        return RowCounts(self.count, self.tokens + tokens, self.supervised, lengths_S)

    def drawn(self, count: float) -> np.ndarray:
        """The lengths of so many rows, drawn from the sample."""
        assert self.lengths_S is not None
        size = max(round(count), 1)
        draws = np.random.default_rng(0)
        return draws.choice(self.lengths_S, size, replace=size > len(self.lengths_S))


@dataclass(frozen=True)
class Layout:
    """The batches that some rows are laid out in.

    cells: tokens, padding included. places: rows, empty ones included. largest: cells of the
    largest batch on a device.
    """

    cells: float
    places: float
    batches: float
    largest: int

    @property
    def width(self) -> float:
        """The mean tokens of a row, padding included."""
        return self.cells / self.places


def one_pass(rows: RowCounts, batch_tokens: int, max_length: int, devices: int = 1) -> Layout:
    """The layout of every row once, as feature passes and evaluation go over them."""
    if rows.lengths_S is None:
        return _unpadded(rows, rows.count, batch_tokens, max_length)
    lengths = rows.drawn(min(rows.count, MOST_LAID_OUT))
    plans = length_plans(lengths, batch_tokens * devices, devices)
    return _laid_out(plans, rows.count / len(lengths), devices)


def training(
    pool: RowCounts, count: float, fit: FitConfig, max_length: int, devices: int
) -> Layout:
    """The layout of all epochs of a training on so many rows of the pool."""
    tokens = fit.microbatch_tokens * devices
    if pool.lengths_S is None:
        return _unpadded(pool, fit.epochs * count, fit.microbatch_tokens, max_length)
    shapes = training_shapes(
        pool.drawn(min(pool.count, MOST_LAID_OUT)),
        max(1, min(fit.batch_size, round(count))),
        tokens,
        multiple=devices,
        packed=fit.packing,
    )
    lengths = pool.drawn(min(count, MOST_LAID_OUT))
    plans = training_plans(lengths, fit.batch_size, 0, 1, shapes)
    return _laid_out(plans, fit.epochs * max(count, 1) / len(lengths), devices)


def _laid_out(plans: Sequence[Plan], times: float, devices: int) -> Layout:
    """The layout of so many times these batches."""
    largest = max(plans, key=lambda plan: plan.size_B * plan.width_T)
    return Layout(
        times * sum(plan.size_B * plan.width_T for plan in plans),
        times * sum(plan.size_B for plan in plans),
        times * len(plans),
        largest.size_B * largest.width_T // devices,
    )


def _unpadded(rows: RowCounts, count: float, batch_tokens: int, max_length: int) -> Layout:
    cells = count * rows.tokens
    largest = max(batch_tokens, max_length)
    return Layout(cells, count, math.ceil(cells / batch_tokens), largest)
