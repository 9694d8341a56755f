"""One run at a time in a work folder.

On a disk the lock is the system's own (flock): it goes with the process, however that ends. On an
object store it is a file that its owner renews; one that was not renewed for a while is taken over.
"""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import in_object_store, make_folder, write_atomic

LOCK = ".lock"
RENEW_SECONDS = 20.0
STALE_SECONDS = 90.0  # after which an owner that renewed nothing is taken for dead
SETTLE_SECONDS = 1.0  # in which a run that came at the same moment has written its own lease


@contextlib.contextmanager
def locked(workdir: epath.PathLike) -> Iterator[None]:
    """Holds the folder for the block; InputError if another run has it."""
    folder = epath.Path(workdir)
    try:
        make_folder(folder)
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
    try:
        _renew(file, token)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: there is no such bucket; make it, or choose another --workdir"
        ) from error
    time.sleep(SETTLE_SECONDS)
    if token not in (owner := _read(file)):
        raise _taken(folder, owner)
    done = threading.Event()
    thread = threading.Thread(target=_keep, args=(file, token, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(Exception):  # it will be stale
            if token in _read(file):
                file.unlink()


def _keep(file: epath.Path, token: str, done: threading.Event) -> None:
    """Renews the lease until the run is done.

    A run that was cut off from the store for so long that another one took the folder over stops
    as by SIGTERM.
    """
    while not done.wait(RENEW_SECONDS):
        with contextlib.suppress(Exception):  # the next one may get through
            if (owner := _read(file)) and token not in owner:
                print(f"{file.parent}: another run has taken over", flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            _renew(file, token)


def _wait_for(file: epath.Path, folder: epath.Path) -> None:
    """Returns once nobody holds the lease: a dead owner's is not renewed."""
    seen, since = _read(file), time.monotonic()
    if seen:
        print(f"{folder}: is another run alive here? waiting for a sign of it", flush=True)
    while seen and time.monotonic() - since < STALE_SECONDS:
        time.sleep(RENEW_SECONDS / 20)
        now = _read(file)
        if not now:
            return
        if now != seen:
            raise _taken(folder, now)


def _renew(file: epath.Path, token: str) -> None:
    write_atomic(file, _who(token=token, renewed=time.time()))


def _read(file: epath.Path) -> str:
    """Returns what the owner wrote; nothing if there is none."""
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def _who(**more: object) -> str:
    own = {"host": socket.gethostname(), "process": os.getpid(), "since": time.ctime()}
    return json.dumps(own | more) + "\n"


def _taken(folder: epath.Path, owner: str) -> InputError:
    who = " ".join(owner.split()) or "just started"
    return InputError(
        f"{folder}: another run is at work here ({who}); wait for it to end, or choose another "
        "--workdir"
    )
