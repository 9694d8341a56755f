"""Opens files of rows, unpacked as they are read."""

import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from etils import epath

from g2is_jax.data.optional import import_optional
from g2is_jax.runs.errors import InputError

# What a packed file may unpack to: so many times its size, or so many bytes if that is more. Text
# unpacks to a few times its size, a file made to fill the memory to 1,000 times.
MOST_TIMES, FREE_BYTES = 100, 2**30
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
BUFFER = 2**20


@contextlib.contextmanager
def unpacked(path: epath.PathLike) -> Iterator[BinaryIO]:
    """Opens a file for reading, plain or packed by gzip or zstd; InputError if it cannot be."""
    name = os.fspath(path)
    try:
        with epath.Path(path).open("rb") as file:
            yield _unpacked(file, name, epath.Path(path).stat().length)
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file; check the path") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error}; check the path") from error


def _unpacked(file: Any, name: str, size: int) -> BinaryIO:
    beginning = file.read(len(ZSTD))
    file.seek(0)
    if beginning.startswith(GZIP):
        return _limited(gzip.GzipFile(fileobj=file), "gzip", name, size)
    if beginning == ZSTD:
        pyarrow = import_optional("pyarrow", f"{name}: packed by zstd")
        return _limited(pyarrow.CompressedInputStream(file, "zstd"), "zstd", name, size)
    return file


def _limited(stream: Any, packing: str, name: str, size: int) -> BinaryIO:
    return io.BufferedReader(_Limited(stream, packing, name, size), BUFFER)


class _Limited(io.RawIOBase):
    """A stream that is unpacked, with its damage named and its size limited."""

    def __init__(self, stream: Any, packing: str, name: str, size: int):
        self._stream, self._packing, self._name = stream, packing, name
        self._left = max(MOST_TIMES * size, FREE_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._stream.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"{self._name}: the {self._packing} data is damaged or cut short ({error}); copy "
                "the file again"
            ) from error
        self._left -= len(piece)
        if self._left < 0:
            raise InputError(
                f"{self._name}: unpacks to over {MOST_TIMES} times its size; if it is to be so, "
                "unpack it yourself and give the plain file"
            )
        buffer[: len(piece)] = piece
        return len(piece)
