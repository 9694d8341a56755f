"""Widths pad with the fewest tokens of all grids of so many, and batches fill the devices."""

import itertools

import numpy as np
import pytest

from g2is_jax.data.widths import COMPILE_COST, compile_cost, rows_at, widths_grid
from tests.support.rows_of_lengths import less_like_lengths


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_widths_grid_is_the_best_of_all_grids(most):
    for seed in range(8):
        lengths = np.random.default_rng(seed).integers(1, 75, size=30)
        longest = -(-lengths.max() // 8) * 8
        choices = [
            (*inner, longest)
            for count in range(most)
            for inner in itertools.combinations(range(8, longest, 8), count)
        ]

        def cells(grid, lengths=lengths):
            return np.asarray(grid)[np.searchsorted(grid, lengths)].sum()

        grid = widths_grid(lengths, most)
        assert len(grid) <= most
        assert grid in choices
        assert cells(grid) == min(cells(choice) for choice in choices)


def test_few_rows_are_not_worth_many_widths():
    few, many = less_like_lengths(100), less_like_lengths(20_000)
    assert len(widths_grid(few, 12, COMPILE_COST)) <= 3
    assert len(widths_grid(many, 12, COMPILE_COST)) > 6


@pytest.mark.parametrize("lengths", [[1], [8], [9], [0], [5000, 3], [7] * 100, [40_000, 1, 17]])
def test_widths_grid_at_the_edges(lengths):
    grid = widths_grid(lengths)
    assert list(grid) == sorted(set(grid))
    assert all(width % 8 == 0 and width > 0 for width in grid)
    assert max(lengths) <= grid[-1] <= max(lengths) * 1.02 + 8


def test_the_larger_a_model_the_more_shapes_are_worth_compiling_on_a_cpu():
    assert compile_cost(135_000_000, "cpu") == 1000
    assert compile_cost(8_000_000_000, "cpu") < 20
    assert compile_cost(800_000, "cpu") == COMPILE_COST
    assert compile_cost(135_000_000, "tpu") == compile_cost(8_000_000_000, "gpu") == COMPILE_COST


def test_rows_at():
    assert [rows_at(width, 4096) for width in (8, 96, 344, 512, 600, 1024, 2048, 4096, 9000)] == [
        *(512, 40, 8, 8, 4, 4, 2, 1, 1)
    ]
    assert [rows_at(width, 4096, multiple=4) for width in (96, 512, 9000)] == [32, 8, 4]
