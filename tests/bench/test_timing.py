"""The parts that all benchmarks share: the order of calls, ratios, flags, and a process's cores."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import pytest

from experiments.bench import timing
from experiments.bench.timing import alternate, build_program, machine, paired_ratio, slope, timed
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
    """The clock is one that only the calls move on: 2 seconds of one side, 5 of the other."""
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


def test_a_program_is_built_anew_each_time(monkeypatch):
    """The clock is one that only tracing moves on."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    @jax.jit
    def double(x):
        clock[0] += 3
        return 2 * x

    shape = jax.ShapeDtypeStruct((2,), "float32")
    for _ in range(2):
        seconds, program = build_program(double, shape)
        assert seconds == {"trace": 3, "compile": 0}
    assert program(jax.numpy.ones(2)).tolist() == [2, 2]


# A benchmark whose libraries were imported, with threads, before it knows its cores.
PROBE = '''
import os
from dataclasses import dataclass
import jax, numpy
from experiments.bench.timing import launch, machine

@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    threads: cores to use
    wrong: whether something is wrong
    """
    threads: int = 1
    wrong: bool = False

def run(config):
    jax.block_until_ready(jax.numpy.ones(9) + 1)
    tasks = [int(task) for task in os.listdir("/proc/self/task")]
    cores = sorted({tuple(sorted(os.sched_getaffinity(task))) for task in tasks})
    return {"machine": machine(), "tasks": len(tasks), "cores": cores, "wrong": config.wrong}

launch(run, BenchConfig(), lambda result: "the table")
'''


@needs_affinity
def test_all_threads_are_on_the_asked_cores(tmp_path):
    """The result's file has the flags' result; the status says that something is wrong."""
    (tmp_path / "probe.py").write_text(PROBE)
    file = tmp_path / "new" / "bench.json"
    done = subprocess.run(
        [sys.executable, tmp_path / "probe.py", "--threads=1", "--wrong", f"--output={file}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "the table\n"), done.stderr
    result, first = json.loads(file.read_text()), min(os.sched_getaffinity(0))
    assert result["machine"]["cores"] == [first]
    assert result["cores"] == [[first]]
    assert result["tasks"] > 1


@needs_affinity
def test_a_process_starts_anew_only_for_fewer_cores(monkeypatch):
    before = os.sched_getaffinity(0)
    calls: list = []
    monkeypatch.setattr(os, "execv", lambda *command: calls.append(command))
    timing.restart_on(len(before))
    with pytest.raises(InputError, match=rf"--threads={len(before) + 1}, but there are .* lower"):
        timing.restart_on(len(before) + 1)
    assert os.sched_getaffinity(0) == before
    assert calls == []


def test_a_flag_is_explained_by_its_line():
    @dataclasses.dataclass
    class Settings:
        """The settings.

        rows, width: N and P
        folder: where it lies: a temporary one
            if empty
        """

    assert timing.explanations(Settings) == {
        "rows": "N and P",
        "width": "N and P",
        "folder": "where it lies: a temporary one if empty",
    }


def test_slope_of_a_power_law():
    sizes = [1, 2, 4, 8]
    assert slope(sizes, [5 * size**2.5 for size in sizes]) == pytest.approx(2.5)


def test_the_machine_has_its_accelerator():
    assert ("accelerator" in machine()) == (jax.default_backend() != "cpu")
    assert machine()["memory_gb"] > 0
