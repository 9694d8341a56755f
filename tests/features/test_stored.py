"""Rows of a store as they lie on disk, and matrices of other programs in memory."""

import numpy as np
import pytest
from etils import epath
from g2is_jax.features.given import read_given

from g2is_jax.features.exchange import export_features
from g2is_jax.features.rows import Rows
from g2is_jax.features.store import StoreConfig, StoreWriter, open_store
from g2is_jax.features.store_chunk import DTYPES

ROWS, WIDTH = np.array([2, 3, 5, 7, 11, 13]), 37
CHUNKS = [np.array([4, 0]), np.array([1, 5, 3]), np.array([2])]


def written(folder: epath.Path, dtype: str) -> np.ndarray:
    """A store of rows of very different lengths, whose fourth is not finite; returns the rows."""
    rows = np.random.default_rng(0).normal(size=(len(ROWS), WIDTH)) * 10.0 ** ROWS[:, None]
    rows[3] = np.nan
    with StoreWriter(folder, ROWS, StoreConfig(dtype, 2)) as writer:
        writer.start(CHUNKS)
        for index, chunk in enumerate(CHUNKS):
            writer.write(index, rows[chunk].astype(np.float32), np.ones(len(chunk)), 1 + chunk)
    return rows


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_stored_rows_keep_their_dtype_and_are_what_a_reader_sees(tmp_path, dtype):
    written(epath.Path(tmp_path), dtype)
    store = open_store(epath.Path(tmp_path))
    values_NP, scales_N = store.stored()
    assert values_NP.dtype == DTYPES[dtype]
    assert (scales_N is not None) == (dtype == "int8")
    np.testing.assert_array_equal(Rows(values_NP, scales_N)[:], store.read()[:])


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_a_store_and_its_exported_files_are_given_alike(tmp_path, dtype):
    rows = written(epath.Path(tmp_path / "store"), dtype)
    export_features(epath.Path(tmp_path / "store"), epath.Path(tmp_path / "file.safetensors"))
    both = [read_given(epath.Path(tmp_path / name)) for name in ("store", "file.safetensors")]
    assert both[0].values_NP.dtype == DTYPES[dtype]
    for given in both:
        assert given.finite_N.tolist() == [True, True, True, False, True, True]
        assert given.rows_N.tolist() == ROWS.tolist()
        assert given.tokens_N.tolist() == [1, 2, 3, 4, 5, 6]
        assert not given.read()[:][3].any()
        lengths = np.linalg.norm(given.unnormalised_NP[given.finite_N], axis=1)
        expected = np.linalg.norm(rows[given.finite_N], axis=1)
        np.testing.assert_allclose(lengths, expected, rtol=1e-2)
    np.testing.assert_array_equal(both[0].features_NP, both[1].features_NP)


def test_a_bare_matrix_is_given_as_it_is(tmp_path):
    rows = np.random.default_rng(1).normal(size=(2100, 3))  # more than are checked at a time
    np.save(tmp_path / "F.npy", rows)
    given = read_given(epath.Path(tmp_path / "F.npy"))
    np.testing.assert_array_equal(given.read()[:], rows.astype(np.float32))
    assert given.unnormalised_NP is given.read()[:]
    assert given.rows_N is given.tokens_N is given.factors_N is None
    assert given.finite_N.all()
