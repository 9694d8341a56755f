"""Rows of a store come back as they were written, in blocks or all together."""

import json
import tracemalloc

import numpy as np
import pytest

from g2is_jax.features import store_chunk
from g2is_jax.features.store import StoreConfig, StoreWriter, open_store
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import from_bytes
from tests.support.small_store import CHUNKS, OTHER_CHUNKS, ROWS, WIDTH, contents, features, write

pytestmark = pytest.mark.usefixtures("_no_thread_is_left")


@pytest.mark.parametrize(
    ("dtype", "tolerance", "absolute"),
    [("float32", 1e-6, 1e-7), ("bfloat16", 2e-3, 1e-7), ("int8", 2e-3, 4 / WIDTH**0.5 / 254)],
)
def test_rows_come_back_in_the_order_of_the_file(folder, dtype, tolerance, absolute):
    assert write(folder, dtype=dtype) == [0, 1, 2]
    store, given = open_store(folder), features().astype(np.float64)
    norms = np.linalg.norm(given, axis=1)
    np.testing.assert_array_equal(store.rows_N, ROWS)
    np.testing.assert_allclose(store.norms_N, norms, rtol=1e-6)
    np.testing.assert_array_equal(store.gradient_norms_N, 0.5 + np.arange(10))
    np.testing.assert_array_equal(store.tokens_N, 100 + np.arange(10))
    lengths = np.linalg.norm(store.read()[:], axis=1)
    np.testing.assert_allclose(lengths, norms > 0, atol=tolerance)
    unit = given / np.maximum(norms, 1e-10)[:, None]
    np.testing.assert_allclose(store.read()[:], unit, rtol=4 * tolerance, atol=absolute)
    assert store.read()[:].dtype == np.float32
    assert store.finite_N.all()


def test_a_zero_row_stays_zero(folder, dtype):
    write(folder, dtype=dtype)
    store = open_store(folder)
    np.testing.assert_array_equal(store.read()[6], 0)
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
    """They are close to those of float32 rows, at the width of the full job."""
    rng = np.random.default_rng(1)
    rows_NP = rng.normal(size=(40, 8192)).astype(np.float32)
    for name in ("float32", "int8"):
        with StoreWriter(folder / name, range(40), StoreConfig(name, 40)) as writer:
            writer.start([np.arange(40)])
            writer.write(0, rows_NP, np.ones(40), np.ones(40))
    exact, rounded = (open_store(folder / name).read()[:] for name in ("float32", "int8"))
    error = rounded @ rounded.T - exact @ exact.T
    assert np.sqrt(np.mean(error**2)) <= 3e-4


def test_blocks_agree_with_the_matrix(folder, dtype):
    write(folder, dtype=dtype)
    store = open_store(folder)
    assert (store.dtype, store.width) == (dtype, WIDTH)
    matrix_NP, places = store.read()[:], []
    for (positions_B, features_BP), chunk in zip(store.blocks(), CHUNKS, strict=True):
        np.testing.assert_array_equal(positions_B, chunk)
        np.testing.assert_array_equal(features_BP, matrix_NP[positions_B])
        assert features_BP.dtype == np.float32
        places.extend(positions_B)
    assert sorted(places) == list(range(len(ROWS)))
    filled_NP = np.empty_like(matrix_NP)
    store.read_into(filled_NP)
    np.testing.assert_array_equal(filled_NP, matrix_NP)


def test_one_chunk_is_in_memory_at_a_time(folder, dtype, monkeypatch):
    """There are eight: less than one where they are checked, one where they are read."""
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
        store.read()
        assert tracemalloc.get_traced_memory()[1] < 9 * block + rest
    finally:
        tracemalloc.stop()


def test_a_place_that_is_no_local_path_is_read_without_a_map(folder, dtype, monkeypatch):
    write(folder, dtype=dtype)
    expected = open_store(folder).read()[:]
    monkeypatch.setattr(np, "memmap", None)
    monkeypatch.setattr(store_chunk, "in_object_store", lambda path: True)
    np.testing.assert_array_equal(open_store(folder).read()[:], expected)


def test_layout_does_not_change_what_is_read(folder):
    write(folder / "a", CHUNKS)
    write(folder / "b", OTHER_CHUNKS)
    a, b = open_store(folder / "a"), open_store(folder / "b")
    for name in ("rows_N", "norms_N", "gradient_norms_N", "tokens_N", "finite_N"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(a.read()[:], b.read()[:])


def test_width_is_noted_with_the_first_chunk(folder):
    write(folder, stop_after=0)
    assert json.loads((folder / "store.json").read_text())["width"] is None
    write(folder)
    assert json.loads((folder / "store.json").read_text())["width"] == WIDTH


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_a_feature_that_is_not_finite_is_marked(folder, dtype, value):
    """It leaves the other rows of its chunk alone. 1e38 throughout has no float32 norm."""
    write(folder / "sound", dtype=dtype)
    broken = features()
    broken[8, 41:] = value
    write(folder / "broken", dtype=dtype, features_NP=broken)
    sound, store = open_store(folder / "sound"), open_store(folder / "broken")
    np.testing.assert_array_equal(store.finite_N, np.arange(10) != 8)
    others = store.finite_N
    found, expected = (
        {"features": of.read()[:], "norms": of.norms_N, "gradient norms": of.gradient_norms_N}
        for of in (store, sound)
    )
    for name, values in found.items():
        np.testing.assert_array_equal(values[8], 0)
        np.testing.assert_array_equal(values[others], expected[name][others])
    np.testing.assert_array_equal(store.tokens_N, sound.tokens_N)
    for file in (folder / "broken").glob("*.safetensors"):
        for array in from_bytes(file.read_bytes()).values():
            assert np.isfinite(array.astype(np.float32)).all()


def test_a_gradient_that_is_not_finite_is_marked(folder, dtype):
    """The sign of an infinite gradient is finite: its norm tells."""
    with StoreWriter(folder, range(3), StoreConfig(dtype, 3)) as writer:
        writer.start([np.arange(3)])
        writer.write(0, np.ones((3, 4)), np.array([1, np.inf, np.nan]), np.ones(3))
    store = open_store(folder)
    np.testing.assert_array_equal(store.finite_N, [True, False, False])
    np.testing.assert_array_equal(store.read()[1:], 0)
    np.testing.assert_array_equal(store.gradient_norms_N, [1, 0, 0])


def test_unknown_dtype_is_named():
    with pytest.raises(InputError, match=r"grads\.dtype = 'int4' is unknown; .*bfloat16, int8"):
        StoreConfig("int4", 1024)
