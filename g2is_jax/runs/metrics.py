"""Shows how far a run is while it works, and keeps the numbers that it leaves behind."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Self, TextIO

from etils import epath
from tqdm import tqdm

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.processes import is_first
from g2is_jax.runs.storage import in_object_store, make_folder, naming_failures, write_atomic

Observer = Callable[[epath.Path, int, dict[str, Any]], None]  # of a log: its path, step and values
_observers: list[Observer] = []
EVERY_SECONDS = 60.0  # between two rewrites of a log in an object store


@contextlib.contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Lets the function see every line that any log gets within the block."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


class Progress:
    """Shows done/total, rate and time left: a bar on a terminal, elsewhere a line now and then.

    done: what an earlier attempt already did; it counts as done but not towards the rate.
    """

    def __init__(
        self,
        label: str,
        total: int,
        done: int = 0,
        unit: str = "rows",
        stream: TextIO | None = None,
        every_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.label, self.total, self.done, self.unit = label, total, done, unit
        self._stream = stream or sys.stderr
        self._every, self._clock = every_seconds, clock
        self._first_done = done
        self._started = self._last_line = clock()
        self._bar: tqdm | None = None
        if is_first() and self._stream.isatty():
            self._bar = tqdm(
                total=total, initial=done, desc=label, unit=f" {unit}", file=self._stream
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._print(f" after {_duration(self._clock() - self._started)}")

    def advance(self, count: int = 1) -> None:
        """Counts so many more as done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._clock() - self._last_line >= self._every and self.done < self.total:
            rate = self._rate()
            left = _duration((self.total - self.done) / rate) if rate else "unknown time"
            self._print(f", {left} left")

    def _rate(self) -> float:
        elapsed = self._clock() - self._started
        return (self.done - self._first_done) / elapsed if elapsed > 0 else 0.0

    def _print(self, ending: str) -> None:
        self._last_line = self._clock()
        if not is_first():
            return
        counts = f"{self.done:,}/{self.total:,} {self.unit}"
        print(
            f"{self.label}: {counts}, {self._rate():.4g} {self.unit}/s{ending}",
            file=self._stream,
            flush=True,
        )


class MetricsLog:
    """Appends JSON lines to a file, one `{"step": ..., ...}` per write.

    start_step: the step at which the work resumes. Lines from it on are dropped, so that a killed
    and resumed run leaves the same bytes as one that was never killed; for the same reason lines
    hold no times unless the caller writes some. On an object store, where a file is written
    as a whole, lines wait for the next `flush`, or for EVERY_SECONDS.
    """

    def __init__(self, path: epath.PathLike, start_step: int = 0):
        self.path = epath.Path(path)
        make_folder(self.path.parent)
        self._text = "".join(
            f"{line}\n" for line in self._kept_lines() if json.loads(line)["step"] < start_step
        )
        write_atomic(self.path, self._text)
        self._written = time.monotonic()

    def write(self, step: int, **values: Any) -> None:
        """Adds a line; NumPy and JAX scalars become plain numbers."""
        plain = {key: _plain(value) for key, value in values.items()}
        for observer in _observers:
            observer(self.path, int(step), plain)
        line = json.dumps({"step": int(step), **plain}) + "\n"
        if in_object_store(self.path):
            self._text += line
            if time.monotonic() - self._written >= EVERY_SECONDS:
                self.flush()
            return
        with naming_failures(self.path), self.path.open("a") as stream:
            stream.write(line)

    def flush(self) -> None:
        """Makes sure that all lines are kept; must come before the checkpoint of the same step."""
        if in_object_store(self.path):
            write_atomic(self.path, self._text)
            self._written = time.monotonic()

    def _kept_lines(self) -> list[str]:
        """Returns the lines so far, without a last one that a kill cut short."""
        lines = self.path.read_text().split("\n") if self.path.exists() else [""]
        for number, line in enumerate(lines[:-1], start=1):
            try:
                json.loads(line)["step"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f'{self.path}:{number}: not a JSON line with a "step"; delete the file and '
                    "resume (it is written anew from the resumed step)"
                ) from error
        return lines[:-1]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _duration(seconds: float) -> str:
    """Writes seconds out: 75.2 -> 1m15s."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
