"""Rows of a store in the order of the pool, left on disk: the same as in memory."""

import numpy as np
import pytest
from etils import epath

from g2is_jax.features import ordered
from g2is_jax.features.ordered import open_ordered, stays_on_disk, write_ordered
from g2is_jax.features.rows import STORED, side_by_side
from g2is_jax.features.store import StoreConfig, StoreWriter, open_store
from g2is_jax.runs import host_memory

CHUNKS = [np.array([4, 0]), np.array([1, 5, 3]), np.array([2])]


def store_of(folder, dtype: str, seed: int = 0):
    rows = np.random.default_rng(seed).normal(size=(6, 64)).astype(np.float32)
    rows[3] = np.nan
    with StoreWriter(epath.Path(folder), np.arange(6), StoreConfig(dtype, 2)) as writer:
        writer.start(CHUNKS)
        for index, chunk in enumerate(CHUNKS):
            writer.write(index, rows[chunk], np.ones(len(chunk)), 1 + chunk)
    return open_store(epath.Path(folder))


@pytest.mark.parametrize("dtype", STORED)
def test_rows_of_a_store(dtype, tmp_path):
    store, folder = store_of(tmp_path / "store", dtype), epath.Path(tmp_path / "ordered")
    folder.mkdir()
    assert write_ordered(folder, [store], [1.0])["rows"] == 6
    found, expected = open_ordered(folder, [store]), store.read()
    assert found.on_disk
    assert not expected.on_disk
    assert found.values_NP.dtype == expected.values_NP.dtype
    np.testing.assert_array_equal(found[:], expected[:])
    np.testing.assert_array_equal(found.at_former_length(), expected.at_former_length())
    np.testing.assert_array_equal(found.finite_N, expected.finite_N)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_checkpoints_side_by_side(dtype, tmp_path):
    stores = [store_of(tmp_path / str(seed), dtype, seed) for seed in (0, 1)]
    folder, weights = epath.Path(tmp_path / "ordered"), (0.7, 0.3)
    folder.mkdir()
    write_ordered(folder, stores, weights)
    found = open_ordered(folder, stores)
    expected = side_by_side([store.read() for store in stores], weights)
    np.testing.assert_allclose(found[:], expected[:], rtol=1e-6)
    np.testing.assert_array_equal(found.norms_NK, expected.norms_NK)


def test_what_stays_on_disk(tmp_path, monkeypatch):
    store = store_of(tmp_path / "store", "float32")
    size = 6 * 64 * 4
    assert ordered.bytes_in_memory([store]) == size
    assert ordered.bytes_in_memory([store, store]) == 2 * size
    for available, expected in ((3 * size, False), (size, True)):
        monkeypatch.setattr(ordered, "available_bytes", lambda given=available: given)
        assert stays_on_disk("auto", [store]) == expected
    assert stays_on_disk("disk", [store])
    assert not stays_on_disk("memory", [store])


def test_the_memory_of_this_process(tmp_path, monkeypatch):
    """The least of what the machine has, its own limits, and its group's."""
    free = host_memory.available_bytes()
    assert 2**20 < free < 2**50
    monkeypatch.setattr(host_memory, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    5000000 kB\n")
    monkeypatch.setattr(host_memory, "CGROUP", tmp_path)

    def unlimited(kind):
        return host_memory.resource.RLIM_INFINITY, 0

    monkeypatch.setattr(host_memory.resource, "getrlimit", unlimited)
    assert host_memory.available_bytes() == 5_120_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory.available_bytes() == 5_120_000_000
    (tmp_path / "memory.max").write_text("1073741824\n")
    assert host_memory.available_bytes() == 2**30
    monkeypatch.setattr(host_memory.resource, "getrlimit", lambda kind: (2**20, 2**20))
    assert host_memory.available_bytes() == 2**20
