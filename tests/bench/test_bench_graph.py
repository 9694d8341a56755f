"""The benchmark of the graph: that both sides find the same, and that it notices if they do not."""

import numpy as np
import pytest

from experiments.bench import graph as bench
from g2is_jax.runs.errors import InputError
from g2is_jax.selection import neighbours

SETTINGS = {"parts": "numpy,growth", "dtype": "float32", "rows": 40, "width": 12, "neighbours": 5,
            "threads": 1, "repeats": 2}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_measured_and_told(dtype, monkeypatch):
    monkeypatch.setattr("experiments.bench.timing.pin", lambda threads: [0])
    monkeypatch.setattr(neighbours, "BLOCK", 16)
    result = bench.run(bench.BenchConfig(**SETTINGS | {"dtype": dtype}))
    found = result["numpy"]
    assert found["largest_difference"] < 1e-6
    assert found["same_places"] == 1
    assert result["growth"]["rows"]["sizes"] == [10, 20, 40, 80]
    assert result["growth"]["neighbours"]["sizes"] == [1, 2, 5, 10]
    text = bench.table(result)
    assert "times as long" in text
    assert "growth with width: exponent" in text


def test_numpy_sorts_and_breaks_ties_by_index():
    features_NP = np.eye(4)[[0, 1, 0, 1, 0]]
    assert bench.plain(features_NP, 2)[0].tolist()[0] == [2, 4]
    assert bench.plain(features_NP, 4)[0].tolist()[1] == [3, 0, 2, 4]


def test_other_neighbours_are_no_measurement(monkeypatch):
    right = bench.plain
    monkeypatch.setattr(bench, "plain", lambda rows, E: right(rows[::-1], E))
    with pytest.raises(RuntimeError, match="another set"):
        bench.against_numpy(bench.BenchConfig(**SETTINGS))


@pytest.mark.parametrize(("field", "value"), [("parts", "x"), ("neighbours", 40), ("rows", 0)])
def test_wrong_settings(field, value):
    with pytest.raises(InputError, match=f"--{field}"):
        bench.BenchConfig(**SETTINGS | {field: value})
