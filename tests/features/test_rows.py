"""Rows in memory: in the dtype of a store, of several checkpoints, and of another program."""

import numpy as np
import pytest
from etils import epath

from g2is_jax.features.exchange import export_features
from g2is_jax.features.own_matrix import read_own
from g2is_jax.features.rows import DTYPES, Rows, quantised, side_by_side, unit_length
from g2is_jax.features.store import StoreConfig, StoreWriter, open_store

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
def test_rows_keep_the_dtype_of_the_store_and_slices_are_what_it_holds(tmp_path, dtype):
    written(epath.Path(tmp_path), dtype)
    store = open_store(epath.Path(tmp_path))
    rows, expected_NP = store.read(), np.empty((len(ROWS), WIDTH), np.float32)
    store.read_into(expected_NP)
    assert rows.values_NP.dtype == DTYPES[dtype]
    assert (rows.scales_N is not None) == (dtype == "int8")
    assert rows[:].dtype == np.float32
    np.testing.assert_array_equal(rows[:], expected_NP)
    np.testing.assert_array_equal(rows[np.array([4, 1])], expected_NP[[4, 1]])
    np.testing.assert_array_equal(rows.finite_N, store.finite_N)
    np.testing.assert_array_equal(
        rows.at_former_length(), expected_NP * store.norms_N.astype(np.float32)[:, None]
    )


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_taken_rows_are_those_of_the_mask(tmp_path, dtype):
    written(epath.Path(tmp_path), dtype)
    rows = open_store(epath.Path(tmp_path)).read()
    taken = rows.take(rows.finite_N)
    kept = [0, 1, 2, 4, 5]
    assert len(taken) == 5
    assert taken.finite_N.all()
    np.testing.assert_array_equal(taken[:], rows[kept])
    np.testing.assert_array_equal(taken.at_former_length(), rows.at_former_length()[kept])


def test_checkpoints_side_by_side_weigh_the_cosines():
    """Lengths follow each checkpoint's own norms; a row is finite where all checkpoints are."""
    rng = np.random.default_rng(0)
    parts, weights = [], (0.7, 0.3)
    for dtype in ("bfloat16", "int8"):
        units_NP = unit_length(rng.normal(size=(9, 8)).astype(np.float32))
        norms_N1 = rng.uniform(0.1, 50, (9, 1)).astype(np.float32)
        parts.append(Rows(*quantised(units_NP, dtype), norms_N1, rng.random(9) < 0.7))
    rows = side_by_side(parts, weights)
    expected = sum(w * part[:] @ part[:].T for w, part in zip(weights, parts, strict=True))
    np.testing.assert_allclose(rows[:] @ rows[:].T, expected, atol=1e-6)
    own = [w**0.5 * part.at_former_length() for w, part in zip(weights, parts, strict=True)]
    np.testing.assert_allclose(rows.at_former_length(), np.concatenate(own, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(rows.finite_N, parts[0].finite_N & parts[1].finite_N)
    assert 0 < rows.finite_N.sum() < 9
    taken = rows.take(np.array([3, 1]))
    np.testing.assert_array_equal(taken.at_former_length(), rows.at_former_length()[[3, 1]])


def test_checkpoints_that_do_not_all_know_their_lengths_are_refused():
    ones = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="1 of 2 checkpoints know"):
        side_by_side([Rows(ones), Rows(ones, norms_NK=ones[:, :1])], (0.5, 0.5))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unit_rows_keep_their_dtype_and_zero_rows(dtype):
    rows_NP = np.array([[3, 4], [0, 0], [1e-15, 0]], dtype)
    found = unit_length(rows_NP)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "others", "message"),
    [
        (np.ones((2, 3)), {}, r"rows must be \[N, P\] of float32, bfloat16, int8, not float64"),
        (np.ones((2, 3), np.int8), {}, "int8 rows have scales"),
        (np.ones((2, 3), np.float32), {"scales_N": np.ones(2)}, "int8 rows have scales"),
        (np.ones((2, 3), np.int8), {"scales_N": np.ones(3)}, "2 rows, scales of shape"),
        (np.ones((2, 3), np.float32), {"norms_NK": np.ones(2)}, "2 rows, norms of shape"),
    ],
)
def test_parts_that_do_not_fit_are_refused(values, others, message):
    with pytest.raises(ValueError, match=message):
        Rows(values, **others)


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_a_store_and_its_exported_files_are_read_alike(tmp_path, dtype):
    rows = written(epath.Path(tmp_path / "store"), dtype)
    export_features(epath.Path(tmp_path / "store"), epath.Path(tmp_path / "file.safetensors"))
    both = [read_own(epath.Path(tmp_path / name)) for name in ("store", "file.safetensors")]
    assert both[0].rows.values_NP.dtype == DTYPES[dtype]
    for own in both:
        finite_N = own.rows.finite_N
        assert finite_N.tolist() == [True, True, True, False, True, True]
        assert own.numbers_N.tolist() == ROWS.tolist()
        assert own.tokens_N.tolist() == [1, 2, 3, 4, 5, 6]
        assert not own.rows[3].any()
        lengths = np.linalg.norm(own.rows.at_former_length()[finite_N], axis=1)
        expected = np.linalg.norm(rows[finite_N], axis=1)
        np.testing.assert_allclose(lengths, expected, rtol=1e-2)
    np.testing.assert_array_equal(both[0].rows[:], both[1].rows[:])


def test_a_bare_matrix_is_read_as_it_is(tmp_path):
    rows = np.random.default_rng(1).normal(size=(2100, 3))  # more than are checked at a time
    np.save(tmp_path / "F.npy", rows)
    own = read_own(epath.Path(tmp_path / "F.npy"))
    np.testing.assert_array_equal(own.rows[:], rows.astype(np.float32))
    np.testing.assert_array_equal(own.rows.at_former_length(), own.rows[:])
    assert own.numbers_N is own.tokens_N is own.rows.norms_NK is None
    assert own.rows.finite_N.all()
