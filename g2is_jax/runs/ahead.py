"""Keeps a few pieces of work on their way, so that the device has the next when one is finished."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

Started = TypeVar("Started")


def ahead(work: Iterable[Started], in_flight: int) -> Iterator[Started]:
    """Yields what `work` does, in order, each piece when `in_flight` of them are started.

    Drawing a piece from `work` starts it, and who is handed it waits for it. The last pieces are
    handed on when `work` ends; an error of `work` loses those on their way.
    """
    started: deque[Started] = deque()
    for piece in work:
        started.append(piece)
        if len(started) == in_flight:
            yield started.popleft()
    while started:
        yield started.popleft()
