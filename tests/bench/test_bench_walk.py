"""The benchmark of the walk: what it compares with what, and the plain walk it compares with."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from experiments.bench import walk as bench
from experiments.bench.plain_walk import plain_walk
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.walk import select

SETTINGS = {"parts": "graph,memory,growth", "case": "benign", "dtype": "float32", "rows": 120,
            "width": 16, "components": 3, "neighbours": 2, "budget": 0.2, "slots": 2,
            "threads": 1, "repeats": 2}  # fmt: skip


@pytest.mark.parametrize("case", bench.CASES)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_plain_walk_chooses_the_same_rows(case, dtype):
    """Of every case and of rows in low precision; the measurement says what was chosen and how."""
    config = bench.BenchConfig(**SETTINGS | {"case": case, "dtype": dtype})
    found = bench.against_graph(config)
    assert found["rows"] == sum(found["reasons"].values()) > 3
    assert found["budget"] == 24
    pairs = zip(found["seconds"]["plain"], found["seconds"]["ours"], strict=True)
    assert found["faster"]["median"] == pytest.approx(sum(p / o for p, o in pairs) / 2)
    falls_back = found["reasons"].get("fallback", 0)
    assert falls_back >= found["rows"] / 3 if case == "fallback" else falls_back == 0


def test_few_fallbacks_are_no_measurement_of_them():
    """With lists of the whole pool no row is chosen from beyond a list."""
    settings = SETTINGS | {"case": "fallback", "neighbours": 119}
    with pytest.raises(InputError, match="only 0 of"):
        bench.against_graph(bench.BenchConfig(**settings))
    with pytest.raises(InputError, match="--neighbours is 120"):
        bench.BenchConfig(**settings | {"neighbours": 120})


def test_other_rows_are_no_measurement(monkeypatch):
    monkeypatch.setattr(bench, "plain_walk", lambda *arguments: [0, 1])
    with pytest.raises(RuntimeError, match="closest decision"):
        bench.against_graph(bench.BenchConfig(**SETTINGS))


def test_the_front_is_measured_on_the_same_rows(monkeypatch):
    monkeypatch.setattr(select, "FRONT", 20)
    config = bench.BenchConfig(**SETTINGS | {"parts": "front"})
    found = bench.front(config)
    assert found["rows"] == 24
    assert found["passes"]["front"] < found["passes"]["whole"]
    assert "times as long" in bench.table(
        {
            "settings": dataclasses.asdict(config),
            "machine": {"cpu": "", "cores": [0]},
            "versions": {},
            "front": found,
        }
    )


def test_plain_walk_by_hand():
    """Degrees from the direction: 5 first, then the nearest each time; -70 conflicts with 40."""
    radians = np.radians([40, 5, 15, -70, 15])
    rows_NP = np.stack([np.cos(radians), np.sin(radians)], axis=1)
    assert plain_walk(rows_NP, [[1.0, 0.0]], [5], 0.0) == [1, 2, 4, 0]
    assert plain_walk(rows_NP, [[1.0, 0.0], [0.0, -1.0]], [2, 2], 0.0) == [1, 2, 3, 4]
    # The sum of 5 and 15 is 10 degrees off, 20 with 40: cos 20 / cos 10 is 0.954.
    assert plain_walk(rows_NP[:3], [[1.0, 0.0]], [3], 0.95) == [1, 2, 0]
    assert plain_walk(rows_NP[:3], [[1.0, 0.0]], [3], 0.96) == [1, 2]


def test_plain_walk_on_stored_neighbours_by_hand():
    """From 5 to 40, its only neighbour; from there, as 5 is used, to 15, nearest to 0 of all and
    not to 40; to -25, the one of its two that is unused; and at last to 20."""
    radians = np.radians([40, 5, 15, 20, -25])
    rows_NP = np.stack([np.cos(radians), np.sin(radians)], axis=1)
    near_NE = np.array([[1, 1], [0, 0], [1, 4], [0, 1], [0, 1]])
    assert plain_walk(rows_NP, [[1.0, 0.0]], [5], 0.0, near_NE) == [1, 0, 2, 4, 3]
    assert plain_walk(rows_NP, [[1.0, 0.0]], [5], 0.0) == [1, 2, 3, 0, 4]


def test_plain_walk_holds_one_matrix_of_cosines():
    """Beside it and the copy of the features, less than a tenth of them."""
    rows_NP = np.random.default_rng(0).standard_normal((2000, 200), dtype=np.float32)
    tracemalloc.start()
    plain_walk(rows_NP, rows_NP[:1], [2], 0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    both = 4 * 2000**2 + rows_NP.nbytes
    assert both <= peak < 1.1 * both


def test_the_table_tells_each_sides_seconds(monkeypatch):
    monkeypatch.setattr("experiments.bench.timing.pin", lambda threads: [0])
    result = bench.run(bench.BenchConfig(**SETTINGS | {"parts": "graph", "case": "fallback"}))
    result["graph"]["seconds"] = {"ours": [0.25, 0.5, 1], "plain": [3, 2, 1]}
    table = bench.table(result)
    assert "lists of 2 neighbours" in table
    assert "we took 0.500 s, the stored graph in NumPy 2.000 s" in table


def test_growth_and_its_table(monkeypatch):
    """With the whole budget spent at every size."""
    monkeypatch.setattr("experiments.bench.timing.pin", lambda threads: [0])
    monkeypatch.setattr(bench, "STEPS", (0.5, 1.0))
    result = bench.run(bench.BenchConfig(**SETTINGS | {"parts": "growth"}))
    found = result["growth"]
    assert {name: of["sizes"] for name, of in found.items()} == {
        "rows": [60, 120],
        "width": [8, 16],
        "budget": [12, 24],
    }
    half, whole = found["budget"]["passes"]
    assert 24 / 3 <= whole > half  # at least a read for each row of a component
    assert "growth with budget: exponent" in bench.table(result)


def test_memory_counts_a_copy(monkeypatch):
    """A walk that copies its features twice has at least three times their size as its peak."""
    settings = SETTINGS | {"parts": "memory", "rows": 20000, "width": 512, "budget": 1e-4}
    config = bench.BenchConfig(**settings)
    assert bench.memory(config)["peak_over_features"] < 1.3
    gradient_walk = bench.Problem.walk

    def copying(self, slots):
        values = self.rows.values_NP
        copies = [values + 1, values + 2]
        return gradient_walk(dataclasses.replace(self, budget=len(copies)), slots)

    monkeypatch.setattr(bench.Problem, "walk", copying)
    assert bench.memory(config)["peak_over_features"] > 2.8


@pytest.mark.parametrize(
    ("field", "value"),
    [("parts", "speed"), ("case", "easy"), ("budget", 0.0), ("components", 17), ("rows", 0)],
)
def test_wrong_settings(field, value):
    with pytest.raises(InputError, match=f"--{field}"):
        bench.BenchConfig(**SETTINGS | {field: value})
