"""What the bench scripts share: order of calls, ratios, and a process kept to its cores."""

import json
import os
import subprocess
import sys

import jax
import pytest

from experiments.bench.timing import (
    alternate,
    machine,
    paired_ratio,
    pin,
    slope,
    timed,
    versions,
    write_json,
)
from g2is_jax.runs.errors import InputError
from tests.support.small import ROOT

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not pin processes"
)


def test_sides_alternate_in_turning_order():
    calls: list[str] = []
    sides = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = alternate(sides, 3)
    assert "".join(calls) == "abc" + "cba" + "abc"
    assert list(seconds) == ["a", "b", "c"]
    assert all(len(times) == 3 and min(times) >= 0 for times in seconds.values())


def test_each_call_is_timed_alone(monkeypatch):
    """By a clock that only the calls move on: 2 seconds of one side, 5 of the other."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def taking(seconds):
        clock[0] += seconds
        return "result"

    sides = {"short": lambda: taking(2), "long": lambda: taking(5)}
    assert alternate(sides, 2) == {"short": [2, 2], "long": [5, 5]}
    assert timed(sides["long"]) == (5, "result")


def test_ratio_is_of_pairs():
    """A slow round counts as much as any other: its ratio, not its seconds."""
    found = paired_ratio([2.0, 300.0, 8.0], [1.0, 100.0, 2.0])
    assert found == {"median": 3.0, "low": 2.0, "high": 4.0}
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([1.0], [1.0, 2.0])


# Ends with the threads that XLA has made: each may run on the first core alone.
PINNED = """
import os, sys
from experiments.bench import machine, pin
first = sorted(os.sched_getaffinity(0))[:1]
assert "jax" not in sys.modules and "numpy" not in sys.modules
import numpy  # its threads are there before they are pinned
assert pin(1) == first
found = machine(first)
assert found["cores"] == first and found["memory_gb"] > 0 and found["cpu"]
tasks = [int(task) for task in os.listdir("/proc/self/task")]
assert len(tasks) > 1
assert {tuple(os.sched_getaffinity(task)) for task in tasks} == {tuple(first)}
"""


@needs_affinity
def test_pinned_before_jax():
    done = subprocess.run(
        [sys.executable, "-c", PINNED], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@needs_affinity
def test_more_threads_than_cores():
    before = os.sched_getaffinity(0)
    with pytest.raises(InputError, match=rf"--threads={len(before) + 1}, but there are .* lower"):
        pin(len(before) + 1)
    assert os.sched_getaffinity(0) == before


def test_slope_of_a_power_law():
    sizes = [1, 2, 4, 8]
    assert slope(sizes, [5 * size**2.5 for size in sizes]) == pytest.approx(2.5)


def test_result_file(tmp_path):
    result = {"machine": machine([3]), "versions": versions(json, pytest)}
    assert result["machine"]["cores"] == [3]
    assert ("accelerator" in result["machine"]) == (jax.default_backend() != "cpu")
    assert result["versions"].keys() == {"json", "pytest", "python"}
    write_json(tmp_path / "new" / "bench.json", result)
    assert json.loads((tmp_path / "new" / "bench.json").read_text()) == result
