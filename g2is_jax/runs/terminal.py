"""What is shown on a terminal, which may know fewer letters than the data and obey some signs."""

import io
import sys
from types import TracebackType


def prepare_output() -> None:
    """Lets output escape the letters that the terminal lacks, and errors of late writes unseen."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = _show_unless_late


def _show_unless_late(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Shows an error's trace; not those of writes that were under way when a save had failed."""
    if str(error) != "Event loop is closed":  # in threads of tensorstore
        sys.__excepthook__(kind, error, trace)


def printable(text: str) -> str:
    """Puts text on one line: a user's may hold line breaks, and signs that steer a terminal."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
