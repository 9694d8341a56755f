"""A store is whole or refused; interrupted work resumes to the same bytes."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath

from g2is_jax.features import store_chunk
from g2is_jax.features.store import StoreConfig, StoreWriter, open_store, read_store
from g2is_jax.features.store_chunk import DTYPES
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import from_bytes

WIDTH = 300
ROWS = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29])  # the file has rows without a feature
CHUNKS = [np.array([4, 0, 9]), np.array([1, 8, 3, 6]), np.array([7, 2, 5])]  # by length, say
OTHER_CHUNKS = [np.array([4, 0, 9, 1, 8]), np.array([3, 6, 7, 2, 5])]


@pytest.fixture
def folder(tmp_path) -> epath.Path:
    return epath.Path(tmp_path) / "store"


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def features() -> np.ndarray:
    """Rows of very different lengths, one of them zero."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(len(ROWS), WIDTH)) * 10.0 ** rng.uniform(-7, 3, size=(len(ROWS), 1))
    rows[6] = 0
    return rows.astype(np.float32)


def write(folder, chunks=CHUNKS, dtype="float32", stop_after=None, features_NP=None) -> list[int]:
    """Write what is not there, at most `stop_after` chunks; tells which were written."""
    features_NP = features() if features_NP is None else features_NP
    with StoreWriter(folder, ROWS, StoreConfig(dtype, chunk_rows=3)) as writer:
        missing = [i for i, done in enumerate(writer.start(chunks)) if not done][:stop_after]
        for index in missing:
            rows = chunks[index]
            writer.write(index, features_NP[rows], 0.5 + rows.astype(np.float32), 100 + rows)
    return missing


def contents(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(params=list(DTYPES))
def dtype(request) -> str:
    return request.param


@pytest.mark.parametrize(
    ("dtype", "tolerance", "absolute"),
    [("float32", 1e-6, 1e-7), ("bfloat16", 2e-3, 1e-7), ("int8", 2e-3, 4 / WIDTH**0.5 / 254)],
)
def test_rows_come_back_in_the_order_of_the_file(folder, dtype, tolerance, absolute):
    assert write(folder, dtype=dtype) == [0, 1, 2]
    store, given = read_store(folder), features().astype(np.float64)
    norms = np.linalg.norm(given, axis=1)
    np.testing.assert_array_equal(store.rows_N, ROWS)
    np.testing.assert_allclose(store.norms_N, norms, rtol=1e-6)
    np.testing.assert_array_equal(store.gradient_norms_N, 0.5 + np.arange(10))
    np.testing.assert_array_equal(store.tokens_N, 100 + np.arange(10))
    lengths = np.linalg.norm(store.features_NP, axis=1)
    np.testing.assert_allclose(lengths, norms > 0, atol=tolerance)
    unit = given / np.maximum(norms, 1e-10)[:, None]
    np.testing.assert_allclose(store.features_NP, unit, rtol=4 * tolerance, atol=absolute)
    assert store.features_NP.dtype == np.float32
    assert store.finite_N.all()


def test_a_zero_row_stays_zero(folder, dtype):
    write(folder, dtype=dtype)
    store = read_store(folder)
    np.testing.assert_array_equal(store.features_NP[6], 0)
    assert store.norms_N[6] == 0
    assert store.finite_N[6]


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("int8", 1 + 4 / WIDTH)])
def test_room_on_disk(folder, dtype, size):
    for name in ("float32", dtype):
        write(folder / name, dtype=name)
    saved = sum(len(data) for data in contents(folder / "float32").values()) - sum(
        len(data) for data in contents(folder / dtype).values()
    )
    assert saved == pytest.approx((4 - size) * len(ROWS) * WIDTH, rel=0.03)


def test_cosines_of_int8_rows(folder):
    """Beside those of float32 rows, at the width of the full job."""
    rng = np.random.default_rng(1)
    rows_NP = rng.normal(size=(40, 8192)).astype(np.float32)
    for name in ("float32", "int8"):
        with StoreWriter(folder / name, range(40), StoreConfig(name, 40)) as writer:
            writer.start([np.arange(40)])
            writer.write(0, rows_NP, np.ones(40), np.ones(40))
    exact, rounded = (open_store(folder / name).matrix() for name in ("float32", "int8"))
    error = rounded @ rounded.T - exact @ exact.T
    assert np.sqrt(np.mean(error**2)) <= 3e-4


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
        read_store(folder / "killed")
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

root, told = sys.argv[1], []
for number, dtype in enumerate(("float32", "bfloat16", "int8")):
    run(f"{root}/{dtype}-0", dtype, 0)
    for last in range(1 + number, 13, 3):
        folder = f"{root}/{dtype}-{last}"
        told.append([dtype, last, *run(folder, dtype, last), *run(folder, dtype, 0)])
print(json.dumps(told))
"""


def test_a_killed_process_resumes_to_the_same_bytes(folder):
    """Killed in the middle of each file that it writes, and run again."""
    command = [sys.executable, "-c", JOB_KILLED_AT_EVERY_WRITE, str(folder)]
    place = Path(__file__).parents[2]
    folder.mkdir()
    told = json.loads(subprocess.run(command, cwd=place, stdout=subprocess.PIPE, check=True).stdout)
    assert len(told) == 12
    for dtype, last, status, computed, status_of_rerun, redone in told:
        assert (status, status_of_rerun) == (signal.SIGKILL, 0)
        assert set(computed) | set(redone) == {0, 1, 2, 3, 4}
        assert len(set(computed) & set(redone)) <= 2  # the chunk in hand, the one being written
        for leftover in (folder / f"{dtype}-{last}").glob(".*.tmp"):  # `run_stage` removes them
            leftover.unlink()
        assert contents(folder / f"{dtype}-{last}") == contents(folder / f"{dtype}-0")


def test_an_unfinished_store_is_refused(folder):
    write(folder, stop_after=2)
    with pytest.raises(InputError, match=r"chunk-00002.*delete .* and run the same command"):
        open_store(folder)


# Writing in the background.


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
    """Not even by an error in the background."""
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


# Reading block by block.


def test_blocks_agree_with_the_matrix(folder, dtype):
    write(folder, dtype=dtype)
    store = open_store(folder)
    assert (store.dtype, store.width) == (dtype, WIDTH)
    matrix_NP, places = store.matrix(), []
    for (positions_B, features_BP), chunk in zip(store.blocks(), CHUNKS, strict=True):
        np.testing.assert_array_equal(positions_B, chunk)
        np.testing.assert_array_equal(features_BP, matrix_NP[positions_B])
        assert features_BP.dtype == np.float32
        places.extend(positions_B)
    assert sorted(places) == list(range(len(ROWS)))
    np.testing.assert_array_equal(matrix_NP, read_store(folder).features_NP)


def test_one_chunk_is_in_memory_at_a_time(folder, dtype, monkeypatch):
    """Of eight: less than one where they are checked, one where they are read."""
    rows, width = 32, 8192
    chunks = np.split(np.arange(8 * rows), 8)
    with StoreWriter(folder, np.arange(8 * rows), StoreConfig(dtype, rows)) as writer:
        writer.start(chunks)
        for index, _ in enumerate(chunks):
            rng = np.random.default_rng(index)
            writer.write(index, rng.random((rows, width)), np.ones(rows), np.ones(rows))
    monkeypatch.setattr(store_chunk, "HASH_BYTES", 2**14)
    block, rest = rows * width * 4, 200_000  # bytes
    tracemalloc.start()
    try:
        store = open_store(folder)
        assert tracemalloc.get_traced_memory()[1] < rest
        tracemalloc.reset_peak()
        for _, features_BP in store.blocks():
            assert features_BP.nbytes == block
            del features_BP
        assert tracemalloc.get_traced_memory()[1] < block + rest
        tracemalloc.reset_peak()
        store.matrix()
        assert tracemalloc.get_traced_memory()[1] < 9 * block + rest
    finally:
        tracemalloc.stop()


def test_a_place_that_is_no_local_path_is_read_without_a_map(folder, dtype, monkeypatch):
    write(folder, dtype=dtype)
    expected = open_store(folder).matrix()
    monkeypatch.setattr(np, "memmap", None)
    monkeypatch.setattr(store_chunk, "os", SimpleNamespace(fspath=lambda path: f"gs:/{path}"))
    np.testing.assert_array_equal(open_store(folder).matrix(), expected)


# Damage.


def truncate(folder):
    file = folder / "chunk-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def alter(folder):
    file = folder / "chunk-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))


def empty(folder):
    (folder / "chunk-00001.safetensors").write_bytes(b"")


def remove(folder):
    (folder / "chunk-00001.safetensors").unlink()


def unmark(folder):
    (folder / "chunk-00001.done").unlink()


def garble_the_mark(folder):
    (folder / "chunk-00001.done").write_bytes(b"\xff\xfe\x00")


def take_from_the_first_edition(folder):
    """Whole and marked, but from before it was noted which rows are finite."""
    tensors = from_bytes((folder / "chunk-00001.safetensors").read_bytes())
    del tensors["finite"]
    store_chunk.write_chunk(folder, 1, tensors)


def swap_in_another_chunk(folder):
    """Whole and marked, but the rows of chunk 2: they would come back twice."""
    for kind in ("safetensors", "done"):
        (folder / f"chunk-00002.{kind}").copy(folder / f"chunk-00001.{kind}", overwrite=True)


def swap_in_another_dtype(folder):
    write(folder / "16", dtype="bfloat16")
    for kind in ("safetensors", "done"):
        (folder / f"16/chunk-00001.{kind}").copy(folder / f"chunk-00001.{kind}", overwrite=True)
    (folder / "16").rmtree()


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        alter,
        empty,
        remove,
        unmark,
        garble_the_mark,
        take_from_the_first_edition,
        swap_in_another_chunk,
        swap_in_another_dtype,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_chunk_is_refused_and_redone(folder, damage):
    write(folder)
    whole = contents(folder)
    damage(folder)
    with pytest.raises(InputError, match=r"chunk-00001\.safetensors: the chunk is missing, dam"):
        read_store(folder)
    assert write(folder) == [1]
    assert contents(folder) == whole


def test_chunks_of_another_layout_are_refused_and_redone(folder):
    """Other batches, as after a change of batch_tokens between a kill and the rerun."""
    write(folder, CHUNKS)
    write(folder, OTHER_CHUNKS, stop_after=0)
    with pytest.raises(InputError, match=r"chunk-00000\.safetensors"):
        read_store(folder)
    assert write(folder, OTHER_CHUNKS) == [0, 1]
    write(folder / "fresh", OTHER_CHUNKS)
    fresh = contents(folder / "fresh")
    (folder / "fresh").rmtree()
    assert contents(folder) == fresh  # the third chunk is gone
    np.testing.assert_array_equal(read_store(folder).rows_N, ROWS)


def test_the_same_rows_in_another_order_are_redone(folder):
    write(folder, CHUNKS)
    assert write(folder, [CHUNKS[0], CHUNKS[1][::-1], CHUNKS[2]]) == [1]


def test_layout_does_not_change_what_is_read(folder):
    write(folder / "a", CHUNKS)
    write(folder / "b", OTHER_CHUNKS)
    a, b = read_store(folder / "a"), read_store(folder / "b")
    for name in ("rows_N", "features_NP", "norms_N", "gradient_norms_N", "tokens_N", "finite_N"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_chunk_of_another_width_is_refused(folder):
    write(folder)
    write(folder / "narrow", features_NP=features()[:, :7])
    for kind in ("safetensors", "done"):
        (folder / f"narrow/chunk-00001.{kind}").copy(folder / f"chunk-00001.{kind}", overwrite=True)
    with pytest.raises(InputError, match=r"chunk-00001\.safetensors: the chunk is missing, dam"):
        open_store(folder)


def test_a_folder_without_a_store_is_refused(folder):
    with pytest.raises(InputError, match=r"store\.json: no such file"):
        read_store(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"dtype": "int8", "rows": 9, "chunks": ["0"]}', "KeyError: 'width'"),
        ('{"dtype": "int8", "rows": 9, "chunks": [], "width": 3}', "9 rows of int8 in 0 chunks"),
        ('{"dtype": "int4", "rows": 9, "chunks": ["0"], "width": 3}', "9 rows of int4 in 1"),
    ],
)
def test_a_damaged_store_json_is_named(folder, content, told):
    write(folder)
    whole = contents(folder)
    (folder / "store.json").write_text(content)
    with pytest.raises(InputError, match=rf"store\.json: not that of a .*{told}.*; delete .*store"):
        open_store(folder)
    assert write(folder) == []
    assert contents(folder) == whole


def test_width_is_noted_with_the_first_chunk(folder):
    write(folder, stop_after=0)
    assert json.loads((folder / "store.json").read_text())["width"] is None
    write(folder)
    assert json.loads((folder / "store.json").read_text())["width"] == WIDTH


# Rows that are not finite.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_a_feature_that_is_not_finite_is_marked(folder, dtype, value):
    """And leaves the other rows of its chunk alone. 1e38 throughout has no float32 norm."""
    write(folder / "sound", dtype=dtype)
    broken = features()
    broken[8, 41:] = value
    write(folder / "broken", dtype=dtype, features_NP=broken)
    sound, store = read_store(folder / "sound"), read_store(folder / "broken")
    np.testing.assert_array_equal(store.finite_N, np.arange(10) != 8)
    others = store.finite_N
    for name in ("features_NP", "norms_N", "gradient_norms_N"):
        np.testing.assert_array_equal(getattr(store, name)[8], 0)
        np.testing.assert_array_equal(getattr(store, name)[others], getattr(sound, name)[others])
    np.testing.assert_array_equal(store.tokens_N, sound.tokens_N)
    for file in (folder / "broken").glob("*.safetensors"):
        for array in from_bytes(file.read_bytes()).values():
            assert np.isfinite(array.astype(np.float32)).all()


def test_a_gradient_that_is_not_finite_is_marked(folder, dtype):
    """The sign of an infinite gradient is finite: its norm tells."""
    with StoreWriter(folder, range(3), StoreConfig(dtype, 3)) as writer:
        writer.start([np.arange(3)])
        writer.write(0, np.ones((3, 4)), np.array([1, np.inf, np.nan]), np.ones(3))
    store = read_store(folder)
    np.testing.assert_array_equal(store.finite_N, [True, False, False])
    np.testing.assert_array_equal(store.features_NP[1:], 0)
    np.testing.assert_array_equal(store.gradient_norms_N, [1, 0, 0])


def test_unknown_dtype_is_named():
    with pytest.raises(InputError, match=r"grads\.dtype = 'int4' is unknown; .*bfloat16, int8"):
        StoreConfig("int4", 1024)
