"""The largest batch of a program that a chip has room for, found with few compilations."""

from collections.abc import Callable

MOST_TOKENS = 65_536  # of a batch on each chip; more makes nothing faster
CLOSE = 16  # a batch that is within this part of itself of the largest will do


def largest_rows(needed: Callable[[int], float], memory: float, rows: int, most: int) -> int:
    """The most rows whose bytes are within `memory`; 0 if not even one is.

    needed: rows -> bytes, inf where the compiler refuses them; each call is a compilation. rows:
    where to begin. Bytes grow about linearly with rows, so two batches foretell the third.
    """
    fitting: dict[int, float] = {}
    lowest_bad, at = most + 1, min(rows, most)
    while True:
        size = needed(at)
        if size <= memory:
            fitting[at] = size
        else:
            lowest_bad = at
        good = max(fitting, default=0)
        if lowest_bad - good <= max(1, good // CLOSE):
            return good
        at = min(max(_next(fitting, good, lowest_bad, memory), good + 1), lowest_bad - 1)


def _next(fitting: dict[int, float], good: int, bad: int, memory: float) -> int:
    """The rows to try: by the line through the two largest that fit, else about twice or half."""
    if not fitting:
        return bad // 2
    if len(fitting) == 1:
        return min(2 * good, (good + bad) // 2)
    before = sorted(fitting)[-2]
    of_row = (fitting[good] - fitting[before]) / (good - before)
    if of_row <= 0:
        return (good + bad) // 2
    return good + int((memory - fitting[good]) / of_row)
