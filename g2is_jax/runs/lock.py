"""One run at a time in a work folder.

On a disk the lock is the system's own (flock): it goes with the process, however that ends. On an
object store it is a file that its owner renews; one that was not renewed for a while is taken over.
"""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import in_object_store

LOCK = ".lock"
RENEW_SECONDS = 20.0
STALE_SECONDS = 90.0  # after which an owner that renewed nothing is taken for dead
SETTLE_SECONDS = 1.0  # in which a run that came at the same moment has written its own lease


@contextlib.contextmanager
def locked(workdir: epath.PathLike) -> Iterator[None]:
    """Hold the folder; InputError if another run has it."""
    folder = epath.Path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be used as a work folder ({error.strerror or error}); "
            "choose another --workdir"
        ) from error
    hold = _leased if in_object_store(folder) else _flocked
    with hold(folder):
        yield


@contextlib.contextmanager
def _flocked(folder: epath.Path) -> Iterator[None]:
    with (Path(folder) / LOCK).open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise _taken(folder, stream.read()) from error
        stream.truncate(0)
        stream.write(_who())
        stream.flush()
        yield


@contextlib.contextmanager
def _leased(folder: epath.Path) -> Iterator[None]:
    file, token = folder / LOCK, secrets.token_hex(8)
    _wait_for(file, folder)
    _renew(file, token)
    time.sleep(SETTLE_SECONDS)
    if _read(file).get("token") != token:
        raise _taken(folder, file.read_text())
    done = threading.Event()

    def keep() -> None:
        while not done.wait(RENEW_SECONDS):
            with contextlib.suppress(OSError):  # the next one may get through
                _renew(file, token)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(OSError):
            file.unlink()


def _wait_for(file: epath.Path, folder: epath.Path) -> None:
    """Return once nobody holds the lease: a dead owner's is not renewed."""
    seen, since = _read(file), time.monotonic()
    if seen:
        print(f"{folder}: is another run alive here? waiting for a sign of it", flush=True)
    while seen and time.monotonic() - since < STALE_SECONDS:
        time.sleep(RENEW_SECONDS / 20)
        now = _read(file)
        if not now:
            return
        if now != seen:
            raise _taken(folder, file.read_text())


def _renew(file: epath.Path, token: str) -> None:
    file.write_text(_who(token=token, renewed=time.time()))


def _read(file: epath.Path) -> dict:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}


def _who(**more: object) -> str:
    own = {"host": socket.gethostname(), "process": os.getpid(), "since": time.ctime()}
    return json.dumps(own | more) + "\n"


def _taken(folder: epath.Path, owner: str) -> InputError:
    return InputError(
        f"{folder}: another run is at work here ({' '.join(owner.split()) or 'just begun'}); wait "
        "for it to end, or choose another --workdir"
    )
