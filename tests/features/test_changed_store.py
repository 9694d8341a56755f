"""A store made of another one: values, marks, and what a kill leaves."""

import numpy as np
import pytest
from etils import epath

from g2is_jax.features.changed_store import write_changed
from g2is_jax.features.store import StoreConfig, open_store
from tests.support.small_store import contents, features, write

CONFIG = StoreConfig("float32", 3)


def doubled(rows_BP: np.ndarray) -> np.ndarray:
    return 2 * rows_BP[:, ::2]


@pytest.fixture
def source(tmp_path):
    """Ten rows, one of them not finite."""
    folder, features_NP = epath.Path(tmp_path / "source"), features()
    features_NP[3] = np.nan
    write(folder, features_NP=features_NP)
    return open_store(folder)


def test_rows_are_changed_at_their_former_length(source, tmp_path):
    folder = epath.Path(tmp_path / "changed")
    write_changed(folder, source, CONFIG, doubled)
    expected_NP, found = 2 * features()[:, ::2].astype(np.float64), open_store(folder)
    expected_NP[3] = 0
    rows_NP = found.read()[:] * found.norms_N[:, None]
    largest_N = np.abs(expected_NP).max(axis=1, keepdims=True)
    np.testing.assert_allclose(
        rows_NP / (largest_N + (largest_N == 0)),
        expected_NP / (largest_N + (largest_N == 0)),
        atol=1e-6,
    )
    for name in ("rows_N", "tokens_N", "gradient_norms_N", "finite_N"):
        np.testing.assert_array_equal(getattr(found, name), getattr(source, name))


def test_a_killed_write_goes_on(source, tmp_path):
    whole, killed = (epath.Path(tmp_path / name) for name in ("whole", "killed"))
    write_changed(whole, source, CONFIG, doubled)
    calls = []

    def at_most_one(rows_BP: np.ndarray) -> np.ndarray:
        if calls:
            raise KeyboardInterrupt
        calls.append(len(rows_BP))
        return doubled(rows_BP)

    with pytest.raises(KeyboardInterrupt):
        write_changed(killed, source, CONFIG, at_most_one)
    again = []
    write_changed(
        killed, source, CONFIG, lambda rows_BP: again.append(len(rows_BP)) or doubled(rows_BP)
    )
    assert len(again) == len(source.positions) - 1
    assert contents(killed) == contents(whole)
