"""SIGTERM, with which a machine is taken away: what is at hand is finished and written.

Outside `finishing` the program stops where it is: an unfinished stage goes on from what it wrote.
"""

import contextlib
import signal
from collections.abc import Iterator

STOPPED = 75  # exit status: nothing is wrong, run the same command again (sysexits' EX_TEMPFAIL)


class Stopped(SystemExit):
    """Raised where the program stops."""

    def __init__(self) -> None:
        super().__init__(STOPPED)


class _Request:
    asked = False
    held = 0  # how many `finishing` blocks are around


@contextlib.contextmanager
def sigterm_heeded() -> Iterator[None]:
    """Makes a SIGTERM within the block stop the program in order, instead of killing it."""
    before = signal.signal(signal.SIGTERM, _ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _Request.asked = False


def _ask(signum: int, frame: object) -> None:
    _Request.asked = True
    print("SIGTERM: stopping after the step at hand", flush=True)
    if not _Request.held:
        raise Stopped


def asked_to_stop() -> bool:
    """Tells whether a SIGTERM has come."""
    return _Request.asked


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """Makes a SIGTERM wait for the block to look at `asked_to_stop`."""
    _Request.held += 1
    try:
        yield
    finally:
        _Request.held -= 1
