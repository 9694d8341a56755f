"""Texts that wait on this machine's disk, so that not all of them have to be in memory."""

import os
import tempfile
import weakref
from array import array
from collections.abc import Sequence
from typing import overload

import numpy as np

from g2is_jax.runs.storage import naming_failures

PLACE = f"{tempfile.gettempdir()} (TMPDIR names another folder)"


class LineFile:
    """A temporary file that texts are written to, one after another.

    It has no name, so that it is gone with the process, in the folder that TMPDIR names.
    """

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this object)
        self._lengths = array("q")
        weakref.finalize(self, self.file.close)

    def add(self, data: bytes) -> None:
        """Writes a text."""
        try:
            self.file.write(data)
        except OSError:
            with naming_failures(PLACE):
                raise
        self._lengths.append(len(data))

    def lines(self) -> "Lines":
        """Returns the texts that were written."""
        with naming_failures(PLACE):
            self.file.flush()
        lengths_N = np.array(self._lengths, np.int64)
        ends_N = lengths_N.cumsum()
        return Lines(self, ends_N - lengths_N, ends_N)


class Lines(Sequence[bytes]):
    """Texts of such a file, each read where it is asked for."""

    def __init__(self, written: LineFile, starts_N: np.ndarray, ends_N: np.ndarray):
        self._written, self._starts_N, self._ends_N = written, starts_N, ends_N

    def __len__(self) -> int:
        return len(self._ends_N)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> "Lines": ...

    def __getitem__(self, index: int | slice) -> "bytes | Lines":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        start, end = int(self._starts_N[index]), int(self._ends_N[index])
        return os.pread(self._written.file.fileno(), end - start, start)

    def take(self, rows_K: np.ndarray) -> "Lines":
        """Returns some of the texts."""
        return Lines(self._written, self._starts_N[rows_K], self._ends_N[rows_K])
