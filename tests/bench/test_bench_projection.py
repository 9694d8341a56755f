"""The benchmark of projections: how a distortion is told, and that it adds up every sign."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench import projection as bench
from g2is_jax.features.projection import sign_rows, words
from g2is_jax.runs.errors import InputError

SETTINGS = {"parts": "time", "width": 64, "batch": 4, "values": 100, "sketch_values": 130,
            "sign_blocks": 1, "rows": 5, "rank": 2, "quality_width": 32, "seeds": 2, "threads": 1,
            "repeats": 2}  # fmt: skip


def test_distortion():
    """Off by 0.1 everywhere but at one pair of 780, which is off by 0.5 and no longer nearest."""
    truth_NN = np.eye(40) + np.arange(1600).reshape(40, 40) / 1e5
    truth_NN = np.triu(truth_NN) + np.triu(truth_NN, 1).T
    found_NN = truth_NN + 0.1
    found_NN[0, 39] -= 0.6
    found_NN[39, 0] -= 0.6
    found = bench.distortion(truth_NN, [found_NN, found_NN])
    assert found["rms"] == pytest.approx(np.sqrt((779 * 0.01 + 0.25) / 780))
    assert found["percentile"] == pytest.approx(np.percentile([0.1] * 1558 + [0.5] * 2, 99.9))
    assert found["overlap"] == pytest.approx(1 - 1 / 80)  # one of two, in one row of 40
    assert bench.distortion(truth_NN, [truth_NN])["overlap"] == 1


def test_nearest_leave_the_row_itself_out():
    chosen = bench.top(np.eye(20) + np.arange(20)[None, :] / 100)
    np.testing.assert_array_equal(chosen.sum(axis=1), 1)
    np.testing.assert_array_equal(chosen.argmax(axis=1), [19] * 19 + [18])


def test_against_dense():
    dense = {"rms": 0.2, "percentile": 0.4, "overlap": 0.9}
    found = bench.against({"rms": 0.1, "percentile": 0.5, "overlap": 0.8}, dense)
    assert found == pytest.approx({"rms": 0.5, "percentile": 1.25, "overlap": -0.1})


def test_all_signs_are_added_up():
    key, width = jnp.asarray([1, 2], jnp.uint32), 64
    total = bench.added_up(bench.our_signs, width, blocks=2)(key)
    table = sign_rows(words(key, 0, 2 * bench.HASHED_ROWS, width), width)
    np.testing.assert_array_equal(
        total.reshape(bench.SIGN_ROWS, width), table.reshape(-1, bench.SIGN_ROWS, width).sum(axis=0)
    )
    other = bench.added_up(bench.their_signs, width, blocks=1)(jax.random.key(0))
    assert set(np.unique(other % 2)) == {0}  # of 32 signs each
    assert np.abs(other).max() <= 32


def test_times(monkeypatch):
    monkeypatch.setattr(bench, "BATCHES", (4,))
    monkeypatch.setattr(bench, "REPETITIONS", (2,))
    found = bench.projecting(bench.BenchConfig(**SETTINGS))
    assert found["sketch_ms_a_million"].keys() == {"4 rows x2"}
    seconds = np.median(found["sketch_seconds"]["4 rows x2"])
    assert found["sketch_ms_a_million"]["4 rows x2"] == pytest.approx(seconds * 1e9 / (4 * 130))
    assert found["dense_over_product"]["median"] > 0


@pytest.mark.parametrize(
    ("field", "value"), [("parts", "speed"), ("seeds", 0), ("width", 100), ("threads", -1)]
)
def test_wrong_settings(field, value):
    with pytest.raises(InputError, match=f"--{field}"):
        bench.BenchConfig(**SETTINGS | {field: value})
