"""Whitening against its definition in float64, from either side and in blocks of any size."""

import numpy as np
import pytest

from g2is_jax.features.rows import unit_length
from g2is_jax.features.whitening import by_the_diagonal, whitening
from g2is_jax.runs.errors import InputError

SIZES = [(40, 12), (12, 40), (16, 16), (1, 5), (9, 1)]


def rows(count: int, width: int, seed: int) -> np.ndarray:
    """Rows of uneven directions, two of them equal and one of them zero where there are enough."""
    rng = np.random.default_rng(seed)
    rows_NP = rng.normal(size=(count, width)) * rng.uniform(0.1, 5, size=width)
    if count > 3:
        rows_NP[1], rows_NP[2] = rows_NP[0], 0
    return rows_NP


def in_blocks(rows_NP: np.ndarray, size: int):
    return lambda: iter(np.split(rows_NP, range(size, len(rows_NP), size)))


@pytest.mark.parametrize("size", [1, 5, 100])
@pytest.mark.parametrize("damping", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize(("count", "width"), SIZES)
def test_rows_times_the_inverse_root_of_the_second_moment(count, width, damping, size):
    units_NP = unit_length(rows(count, width, 0))
    moment_PP = units_NP.T @ units_NP / count
    added = damping * np.trace(moment_PP) / min(count, width)
    eigenvalues_P, vectors_PP = np.linalg.eigh(moment_PP + added * np.eye(width))
    root_PP = vectors_PP / np.sqrt(eigenvalues_P) @ vectors_PP.T
    found = whitening(in_blocks(units_NP, size), count, width, damping)
    assert found.of_values == (width <= count)
    np.testing.assert_allclose(found.damping, added, rtol=1e-12)
    for others_MP in (units_NP, rows(3, width, 1)):
        whitened_MP = found.rows(others_MP, in_blocks(units_NP, size))
        np.testing.assert_allclose(whitened_MP, others_MP @ root_PP, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("count", "width"), SIZES[:2])
def test_products_are_influences_under_the_damped_fisher_matrix(count, width):
    units_NP = unit_length(rows(count, width, 0))
    blocks, queries_MP = in_blocks(units_NP, 7), rows(4, width, 1)
    found = whitening(blocks, count, width, 0.5)
    hessian_PP = units_NP.T @ units_NP / count + found.damping * np.eye(width)
    influence_MN = queries_MP @ np.linalg.solve(hessian_PP, units_NP.T)
    products_MN = found.rows(queries_MP, blocks) @ found.rows(units_NP, blocks).T
    np.testing.assert_allclose(products_MN, influence_MN, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("count", "width"), SIZES)
def test_by_the_diagonal_each_value_by_its_own_mean_square(count, width):
    units_NP = unit_length(rows(count, width, 0))
    squares_P = (units_NP**2).mean(axis=0)
    found = by_the_diagonal(in_blocks(units_NP, 5), count, width, 0.3)
    expected = units_NP / np.sqrt(squares_P + 0.3 * squares_P.mean())
    np.testing.assert_allclose(found.rows(units_NP, in_blocks(units_NP, 5)), expected, rtol=1e-12)


@pytest.mark.parametrize("make", [whitening, by_the_diagonal])
def test_a_pool_of_zeros_has_no_whitening(make):
    with pytest.raises(InputError, match="every row of the pool is zero; set it to none"):
        make(in_blocks(np.zeros((4, 3)), 2), 4, 3, 1.0)
