"""The search for the largest batch: what it finds, and with how few compilations."""

import math

import pytest

from g2is_jax.planning.slices.largest import CLOSE, largest_rows

MEMORY = 16e9


def searched(needed, begin: int, most: int) -> tuple[int, int]:
    """The rows that are found, and how many batches were compiled for it."""
    asked: list[int] = []

    def compiled(rows: int) -> float:
        assert 1 <= rows <= most
        assert rows not in asked
        asked.append(rows)
        return needed(rows)

    return largest_rows(compiled, MEMORY, begin, most), len(asked)


@pytest.mark.parametrize("begin", [1, 4, 32])
@pytest.mark.parametrize(("fixed", "each"), [(5e9, 1e9), (5e9, 0.4e9), (15e9, 0.9e9), (1e9, 4e9)])
def test_finds_the_largest_of_few_rows(begin, fixed, each):
    found, compilations = searched(lambda rows: fixed + rows * each, begin, most=32)
    assert found == min(int((MEMORY - fixed) / each), 32)
    assert compilations <= 6


def test_is_close_where_rows_are_many():
    found, compilations = searched(lambda rows: 5e9 + rows * 7e6, 16, most=4096)
    assert 1571 - 1571 // CLOSE <= found <= 1571
    assert compilations <= 5


def test_the_compiler_that_refuses_is_as_good_as_a_number():
    def refused(rows: int) -> float:
        return math.inf if rows > 11 else 5e9

    assert searched(refused, 4, most=32)[0] == 11


def test_steps_of_the_bytes_do_not_lead_astray():
    found, _ = searched(lambda rows: 5e9 + (rows // 4) * 4e9, 1, most=32)
    assert found == 11


def test_not_even_one_row_fits():
    assert searched(lambda rows: 17e9, 8, most=32)[0] == 0


def test_all_that_is_useful_fits():
    assert searched(lambda rows: 1e9, 4, most=32)[0] == 32
