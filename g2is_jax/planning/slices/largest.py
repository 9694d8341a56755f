"""The largest batch of a program that a chip has room for, found with few compilations."""

import math
from collections.abc import Callable

CLOSE = 16  # a batch that is within this part of itself of the largest will do


def largest_rows(needed: Callable[[int], float], memory: float, rows: int, most: int) -> int:
    """The most rows whose bytes are within `memory`; 0 if not even one is.

    needed: rows -> bytes, inf where the compiler refuses; each call is a compilation. rows: where
    to begin. Bytes grow about linearly with rows, so two batches foretell the third.
    """
    sizes: dict[int, float] = {}
    at = min(rows, most)
    while True:
        sizes[at] = needed(at)
        good = max((n for n, size in sizes.items() if size <= memory), default=0)
        bad = min((n for n, size in sizes.items() if size > memory), default=most + 1)
        if bad - good <= max(1, good // CLOSE):
            return good
        at = min(max(_next(sizes, good, bad, memory), good + 1), bad - 1)


def _next(sizes: dict[int, float], good: int, bad: int, memory: float) -> int:
    """The rows to try: by the line through the two that come nearest to `memory`, else about twice
    or half as many."""
    known = [rows for rows, size in sizes.items() if math.isfinite(size)]
    near = sorted(known, key=lambda rows: abs(sizes[rows] - memory))[:2]
    if len(near) == 2:
        first, second = sorted(near)
        of_row = (sizes[second] - sizes[first]) / (second - first)
        if of_row > 0:
            return first + math.floor((memory - sizes[first]) / of_row)
    return min(2 * good, (good + bad) // 2) if good else bad // 2
