"""Interrupted work resumes to the same bytes; chunks are written in the background."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from g2is_jax.features import store_chunk
from g2is_jax.features.store import StoreConfig, StoreWriter, open_store
from g2is_jax.runs.errors import InputError
from tests.support.small_store import CHUNKS, ROWS, contents, features, write

pytestmark = pytest.mark.usefixtures("_no_thread_is_left")


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_resumes_to_the_same_bytes(folder, dtype, stop_after):
    write(folder / "whole", dtype=dtype)
    done = write(folder / "killed", dtype=dtype, stop_after=stop_after)
    assert write(folder / "killed", dtype=dtype) == [0, 1, 2][len(done) :]
    assert contents(folder / "killed") == contents(folder / "whole")
    assert write(folder / "killed", dtype=dtype) == []


def test_killed_before_the_done_mark(folder, monkeypatch):
    """The chunk is on disk, its mark is not: it is written again."""
    write(folder / "whole")
    writes = []

    def dying(path, data):
        writes.append(path.name)
        if path.name == "chunk-00001.done":
            raise KeyboardInterrupt
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    with monkeypatch.context() as patch:
        patch.setattr(store_chunk, "write_atomic", dying)
        with pytest.raises(KeyboardInterrupt):
            write(folder / "killed")
    assert writes[-2:] == ["chunk-00001.safetensors", "chunk-00001.done"]
    with pytest.raises(InputError, match=r"chunk-00001\.safetensors"):
        open_store(folder / "killed")
    assert write(folder / "killed") == [1, 2]
    assert contents(folder / "killed") == contents(folder / "whole")


JOB_KILLED_AT_EVERY_WRITE = """
import json, os, signal, sys
import numpy as np
from etils import epath
from g2is_jax.features.store import StoreConfig, StoreWriter

def job(folder, dtype, log):
    with StoreWriter(epath.Path(folder), range(10), StoreConfig(dtype, 2)) as writer:
        done = writer.start(np.split(np.arange(10), 5))
        for index in [i for i in range(5) if not done[i]]:
            os.write(log, b"%d " % index)
            rows = np.random.default_rng(index).normal(size=(2, 50))
            writer.write(index, rows, np.ones(2), np.ones(2))

def kill_at(last, written=0, real=os.fsync):
    def fsync(descriptor):
        nonlocal written
        written += 1
        if written == last:  # half a file
            os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)
    os.fsync = fsync

def run(folder, dtype, last):
    read, log = os.pipe()
    child = os.fork()
    if not child:
        kill_at(last)
        job(folder, dtype, log)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(log)
    with os.fdopen(read) as stream:
        return status, [int(index) for index in stream.read().split()]

root, outcomes = sys.argv[1], []
for number, dtype in enumerate(("float32", "bfloat16", "int8")):
    run(f"{root}/{dtype}-0", dtype, 0)
    for last in range(1 + number, 13, 3):
        folder = f"{root}/{dtype}-{last}"
        outcomes.append([dtype, last, *run(folder, dtype, last), *run(folder, dtype, 0)])
print(json.dumps(outcomes))
"""


def test_a_killed_process_resumes_to_the_same_bytes(folder):
    """Killed in the middle of each file that it writes, and run again."""
    command = [sys.executable, "-c", JOB_KILLED_AT_EVERY_WRITE, str(folder)]
    place = Path(__file__).parents[2]
    folder.mkdir()
    outcomes = json.loads(
        subprocess.run(command, cwd=place, stdout=subprocess.PIPE, check=True).stdout
    )
    assert len(outcomes) == 12
    for dtype, last, status, computed, status_of_rerun, redone in outcomes:
        assert (status, status_of_rerun) == (signal.SIGKILL, 0)
        assert set(computed) | set(redone) == {0, 1, 2, 3, 4}
        assert len(set(computed) & set(redone)) <= 2  # the chunk in hand, the one being written
        for leftover in (folder / f"{dtype}-{last}").glob(".*.tmp"):  # `run_stage` removes them
            leftover.unlink()
        assert contents(folder / f"{dtype}-{last}") == contents(folder / f"{dtype}-0")


class Gate:
    """Stands in for write_atomic: writes of the named file wait until the gate is opened."""

    def __init__(self, monkeypatch, name: str, error: BaseException | None = None):
        self.opened, self._name, self._error = threading.Event(), name, error
        self._real = store_chunk.write_atomic
        monkeypatch.setattr(store_chunk, "write_atomic", self)

    def __call__(self, path, data):
        if path.name == self._name:
            assert self.opened.wait(20)
            if self._error is not None:
                raise self._error
        self._real(path, data)


def hand_over(writer, index):
    rows = CHUNKS[index]
    writer.write(index, features()[rows], np.ones(len(rows)), np.ones(len(rows)))


def test_write_returns_at_once_and_the_next_one_waits(folder, monkeypatch):
    gate = Gate(monkeypatch, "chunk-00000.safetensors")
    with StoreWriter(folder, ROWS, StoreConfig("float32", 3)) as writer:
        writer.start(CHUNKS)
        hand_over(writer, 0)
        assert not (folder / "chunk-00000.done").exists()
        assert writer.waited < 0.1  # seconds
        timer = threading.Timer(0.4, gate.opened.set)
        timer.start()
        hand_over(writer, 1)
        assert (folder / "chunk-00000.done").exists()
        hand_over(writer, 2)
    assert 0.1 < writer.waited < writer.seconds + 1
    timer.join()
    assert len(open_store(folder).rows_N) == len(ROWS)


@pytest.mark.parametrize("last", [False, True])
def test_an_error_in_the_background_reaches_the_caller(folder, monkeypatch, last):
    """At the next chunk, or when the block is left."""

    real, reached = store_chunk.write_atomic, []

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_atomic(path, data):
        monkeypatch.setattr(os, "fsync", full if path.name == "chunk-00001.safetensors" else fsync)
        real(path, data)

    def work():
        with StoreWriter(folder, ROWS, StoreConfig("float32", 3)) as writer:
            writer.start(CHUNKS)
            for index in [0, 2, 1] if last else [0, 1, 2]:
                hand_over(writer, index)
            reached.append("end of the block")

    fsync = os.fsync
    monkeypatch.setattr(store_chunk, "write_atomic", write_atomic)
    with pytest.raises(InputError, match=r"disk full while writing .*chunk-00001\.safetensors"):
        work()
    assert reached == ["end of the block"] * last
    assert not list(folder.glob(".*.tmp"))
    monkeypatch.undo()
    assert write(folder) == ([1] if last else [1, 2])


def interrupted(folder, index):
    with StoreWriter(folder, ROWS, StoreConfig("float32", 3)) as writer:
        writer.start(CHUNKS)
        hand_over(writer, index)
        raise KeyboardInterrupt


def test_an_error_of_the_caller_is_not_hidden(folder, monkeypatch):
    """An error in the background does not hide it either."""
    gate = Gate(monkeypatch, "chunk-00000.safetensors", error=OSError("later"))
    gate.opened.set()
    with pytest.raises(KeyboardInterrupt):
        interrupted(folder, 0)
    monkeypatch.undo()
    assert write(folder) == [0, 1, 2]


def test_the_chunk_in_hand_is_finished_when_the_caller_fails(folder):
    with pytest.raises(KeyboardInterrupt):
        interrupted(folder, 2)
    assert write(folder) == [0, 1]


def test_a_writer_outside_its_block_is_refused(folder):
    writer = StoreWriter(folder, ROWS, StoreConfig("float32", 3))
    with pytest.raises(RuntimeError, match="inside its `with` block"):
        writer.start(CHUNKS)
    with writer:
        writer.start(CHUNKS)
    with pytest.raises(RuntimeError, match="inside its `with` block"):
        hand_over(writer, 0)


def test_rows_of_two_widths_are_refused(folder):
    write(folder, stop_after=1)
    with pytest.raises(ValueError, match="rows of 7 values among rows of 300"):
        write(folder, features_NP=features()[:, :7])
