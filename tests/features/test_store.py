"""A store is whole or refused; interrupted work resumes to the same bytes."""

import numpy as np
import pytest
from etils import epath

from g2is_jax.features.store import StoreConfig, StoreWriter, read_store
from g2is_jax.runs.errors import InputError

WIDTH = 300
ROWS = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29])  # the file has rows without a feature
CHUNKS = [np.array([4, 0, 9]), np.array([1, 8, 3, 6]), np.array([7, 2, 5])]  # by length, say
OTHER_CHUNKS = [np.array([4, 0, 9, 1, 8]), np.array([3, 6, 7, 2, 5])]


@pytest.fixture
def folder(tmp_path) -> epath.Path:
    return epath.Path(tmp_path) / "store"


def features() -> np.ndarray:
    """Rows of very different lengths, one of them zero."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(len(ROWS), WIDTH)) * 10.0 ** rng.uniform(-7, 3, size=(len(ROWS), 1))
    rows[6] = 0
    return rows.astype(np.float32)


def write(folder, chunks=CHUNKS, dtype="float32", stop_after=None, features_NP=None) -> list[int]:
    """Write what is not there, at most `stop_after` chunks; tells which were written."""
    features_NP = features() if features_NP is None else features_NP
    writer = StoreWriter(folder, ROWS, StoreConfig(dtype, chunk_rows=3))
    missing = [i for i, done in enumerate(writer.start(chunks)) if not done][:stop_after]
    for index in missing:
        rows = chunks[index]
        writer.write(index, features_NP[rows], 0.5 + rows.astype(np.float32), 100 + rows)
    return missing


def contents(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-3)])
def test_rows_come_back_in_the_order_of_the_file(folder, dtype, tolerance):
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
    np.testing.assert_allclose(store.features_NP, unit, rtol=4 * tolerance, atol=1e-7)
    assert store.features_NP.dtype == np.float32


def test_a_zero_row_stays_zero(folder):
    write(folder)
    store = read_store(folder)
    np.testing.assert_array_equal(store.features_NP[6], 0)
    assert store.norms_N[6] == 0


def test_bfloat16_takes_half_the_room(folder):
    write(folder / "32", dtype="float32")
    write(folder / "16", dtype="bfloat16")
    saved = sum(len(data) for data in contents(folder / "32").values()) - sum(
        len(data) for data in contents(folder / "16").values()
    )
    assert saved == pytest.approx(2 * len(ROWS) * WIDTH, rel=0.01)


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_resumes_to_the_same_bytes(folder, stop_after):
    write(folder / "whole")
    done = write(folder / "killed", stop_after=stop_after)
    assert write(folder / "killed") == [0, 1, 2][len(done) :]
    assert contents(folder / "killed") == contents(folder / "whole")
    assert write(folder / "killed") == []


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
        patch.setattr("g2is_jax.features.store.write_atomic", dying)
        with pytest.raises(KeyboardInterrupt):
            write(folder / "killed")
    assert writes[-2:] == ["chunk-00001.safetensors", "chunk-00001.done"]
    with pytest.raises(InputError, match=r"chunk-00001\.safetensors"):
        read_store(folder / "killed")
    assert write(folder / "killed") == [1, 2]
    assert contents(folder / "killed") == contents(folder / "whole")


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
    StoreWriter(folder, ROWS, StoreConfig("float32", 3)).start(OTHER_CHUNKS)
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
    for name in ("rows_N", "features_NP", "norms_N", "gradient_norms_N", "tokens_N"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_folder_without_a_store_is_refused(folder):
    with pytest.raises(InputError, match=r"store\.json: no such file"):
        read_store(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_not_finite_names_its_row(folder, value):
    broken = features()
    broken[8, 41] = value
    with pytest.raises(InputError, match=r"^row 23 \(counted from 0; 1 of 4 in its chunk\)"):
        write(folder, features_NP=broken)
    assert not (folder / "chunk-00001.safetensors").exists()
    assert write(folder) == [1, 2]  # the chunk before it is kept


def test_a_gradient_that_is_not_finite_names_its_row(folder):
    """The sign of an infinite gradient is finite: its norm tells."""
    writer = StoreWriter(folder, ROWS, StoreConfig("float32", 3))
    writer.start(CHUNKS)
    norms = np.array([1, np.inf, np.inf], np.float32)
    with pytest.raises(InputError, match=r"^row 2 \(counted from 0; 2 of 3 in its chunk\)"):
        writer.write(0, features()[CHUNKS[0]], norms, np.ones(3))


def test_unknown_dtype_is_named():
    with pytest.raises(InputError, match=r"grads\.dtype = 'int8' is unknown"):
        StoreConfig("int8", 1024)
