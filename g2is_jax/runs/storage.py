"""Files on a disk or in an object store: whole or not there, and failures told in one line."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from g2is_jax.runs.errors import InputError


def in_object_store(path: epath.PathLike) -> bool:
    """Whether a path is of a store such as gs://, which knows whole files alone."""
    return "://" in os.fspath(path)


def write_atomic(path: epath.PathLike, data: bytes | str) -> None:
    """Writes a file so that whoever looks sees the old content or all of the new."""
    data = data.encode() if isinstance(data, str) else data
    path = epath.Path(path)
    with naming_failures(path):
        if in_object_store(path):  # object stores show a file only once it is complete
            path.write_bytes(data)
            return
        temporary = Path(path.parent) / f".{path.name}.{os.getpid()}.tmp"
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextlib.contextmanager
def naming_failures(place: epath.PathLike) -> Iterator[None]:
    """Turns "no space left" into an InputError that names the place; lets all else pass."""
    try:
        yield
    except Exception as error:
        # tensorstore and orbax wrap the system's error and keep only its words.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if isinstance(error, InputError) or not (full or os.strerror(errno.ENOSPC) in str(error)):
            raise
        raise InputError(
            f"disk full while writing {os.fspath(place)}: free space and run the same command "
            "again; finished parts are kept"
        ) from error
