"""Work is started some pieces before the first is handed on, and never more of it."""

import pytest

from g2is_jax.runs.ahead import ahead


def numbers(events: list, count: int, fails_at: int | None = None):
    for number in range(count):
        if number == fails_at:
            raise ValueError("no more")
        events.append(f"start {number}")
        yield number


@pytest.mark.parametrize(
    ("in_flight", "expected"),
    [
        (1, "start 0, end 0, start 1, end 1, start 2, end 2, start 3, end 3"),
        (2, "start 0, start 1, end 0, start 2, end 1, start 3, end 2, end 3"),
        (3, "start 0, start 1, start 2, end 0, start 3, end 1, end 2, end 3"),
        (9, "start 0, start 1, start 2, start 3, end 0, end 1, end 2, end 3"),
    ],
)
def test_order_of_starts_and_ends(in_flight, expected):
    events: list[str] = []
    for number in ahead(numbers(events, 4), in_flight):
        events.append(f"end {number}")
    assert ", ".join(events) == expected


def test_nothing_to_do():
    assert list(ahead([], 2)) == []


def test_an_error_comes_through():
    handed = ahead(numbers([], 4, fails_at=3), 2)
    assert [next(handed), next(handed)] == [0, 1]
    with pytest.raises(ValueError, match="no more"):
        next(handed)
