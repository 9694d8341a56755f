"""Files on a disk or in an object store: whole or not there, and failures named in one line."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from etils import epath

from g2is_jax.runs.errors import InputError, StoreLost

# Several processes write, so that a listing that is kept is soon wrong.
for protocol in ("gs", "gcs", "s3", "az"):
    fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)

AGAIN = "run the same command again; finished parts are kept"
REASON_LETTERS = 160  # of what a store says, which may be a page
CLIENTS = ("aiohttp.", "gcsfs.", "google.auth.", "google.api_core.")  # modules with their errors
PASSING = (None, 408, 429, *range(500, 600))  # HTTP statuses that a later try may not meet


def in_object_store(path: epath.PathLike) -> bool:
    """Tells whether a path is of a store such as gs://, which knows whole files and no folders."""
    return "://" in os.fspath(path)


def path_of(written: Any) -> epath.Path:
    """Returns the path that a user wrote, with `~` as the home folder."""
    return epath.Path(os.path.expanduser(written))


def make_folder(folder: epath.PathLike) -> None:
    """Makes a folder and those above it; in an object store there is nothing to make."""
    if not in_object_store(folder):
        epath.Path(folder).mkdir(parents=True, exist_ok=True)


def write_atomic(path: epath.PathLike, data: bytes | str) -> None:
    """Writes a file so that whoever looks sees the old content or all of the new."""
    data = data.encode() if isinstance(data, str) else data
    if not in_object_store(path):
        with atomic_stream(path) as stream:
            stream.write(data)
        return
    with naming_failures(path):  # not by `open`, which leaves half a file when it is interrupted
        files, name = fsspec.url_to_fs(os.fspath(path))
        files.pipe_file(name, data)


@contextlib.contextmanager
def atomic_stream(path: epath.PathLike) -> Iterator[BinaryIO]:
    """Opens a file for writing that takes its name only once the block has ended without an error.

    Until then whoever looks sees the old content, and after an error no trace of the new is left.
    """
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    with naming_failures(path):
        try:
            with temporary.open("wb") as stream:
                yield stream
                stream.flush()
                if not in_object_store(path):
                    os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def upload(file: Path, path: epath.PathLike) -> None:
    """Copies a file from the disk into an object store, where it is seen once it is complete."""
    with naming_failures(path):
        files, name = fsspec.url_to_fs(os.fspath(path))
        files.put_file(str(file), name)


@contextlib.contextmanager
def naming_failures(place: epath.PathLike) -> Iterator[None]:
    """Turns what the system or a store refused into an error of one line that names the place.

    InputError: a full disk, a missing right. StoreLost: a store that cannot be reached, also where
    somebody took that for a mistake in a file. All else passes.
    """
    try:
        yield
    except StoreLost:
        raise
    except InputError as error:
        cause = error.__cause__
        if isinstance(cause, Exception) and _is_lost(cause, place):
            raise _lost(cause, place) from error
        raise
    except Exception as error:
        named = _named(error, place)
        if named is None:
            raise
        raise named from error


def _named(error: Exception, place: epath.PathLike) -> Exception | None:
    """Returns the error of one line in place of another; None if that has to be shown as it is."""
    name, number = os.fspath(place), error.errno if isinstance(error, OSError) else None
    # tensorstore and orbax wrap the system's error and keep only its words.
    if number in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
        return InputError(f"disk full while writing {name}: free space and {AGAIN}")
    if isinstance(error, OSError) and number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InputError(
            f"{error.filename or name}: {os.strerror(number)}; allow it or choose another place, "
            f"and {AGAIN}"
        )
    if _is_refused(error):
        return InputError(
            f"{name}: the store refuses ({_line(error)}); log in, or ask for the right to read and "
            f"write there, and {AGAIN}"
        )
    if _is_lost(error, place):
        return _lost(error, place)
    if isinstance(error, ImportError) and in_object_store(place):
        return InputError(f'{name}: no client of this store; pip install -e ".[gcs]"')
    return None


def _is_refused(error: Exception) -> bool:
    forbidden = isinstance(error, OSError) and str(error).startswith("Forbidden: ")  # of gcsfs
    return forbidden or (_of_client(error) and getattr(error, "code", None) in (401, 403))


def _is_lost(error: Exception, place: epath.PathLike) -> bool:
    if in_object_store(place) and isinstance(error, OSError):
        of_requests = type(error).__module__.startswith("requests.")  # gcsfs has them of status 502
        if of_requests or isinstance(error, ConnectionError | TimeoutError):
            return not isinstance(error, BrokenPipeError)  # that of the terminal
    return _of_client(error) and getattr(error, "code", None) in PASSING


def _of_client(error: Exception) -> bool:
    return f"{type(error).__module__}.".startswith(CLIENTS)


def _lost(error: Exception, place: epath.PathLike) -> StoreLost:
    return StoreLost(f"{os.fspath(place)}: the store cannot be reached ({_line(error)}); {AGAIN}")


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:REASON_LETTERS]
