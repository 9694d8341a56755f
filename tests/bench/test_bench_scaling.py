"""The benchmark of weak scaling: what it reckons, and that it runs on two devices."""

import json
import subprocess
import sys

import pytest

from experiments.bench import scaling as bench
from g2is_jax.runs.errors import InputError
from tests.support.small import ROOT

SETTINGS = {
    "batch": 1,
    "tokens": 16,
    "rows": 16,
    "width": 32,
    "chosen": 3,
    "devices": 2,
    "threads": 1,
    "repeats": 1,
}

OTHERS = {"parts": "walk", "model": "skills", "rank": 8}


def test_twice_the_time_for_twice_the_rows_is_no_loss(monkeypatch):
    seconds = {1: [1.0, 2.0], 2: [2.0, 4.0], 4: [8.0, 16.0], 8: [4.0, 8.0]}
    monkeypatch.setattr(bench, "alternate", lambda calls, repeats: seconds)
    config = bench.BenchConfig(**OTHERS | SETTINGS | {"devices": 11})
    found = bench.efficiency(lambda count: lambda: None, config)["efficiency"]
    assert {count: ratio["median"] for count, ratio in found.items()} == {2: 1, 4: 0.5, 8: 2}


def test_measured_on_two_devices(tmp_path):
    file = tmp_path / "bench.json"
    flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench.scaling", *flags, f"--output={file}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    for part in bench.PARTS:
        assert list(result[part]["seconds"]) == ["1", "2"]
    assert "2 devices: " in done.stdout


@pytest.mark.parametrize(("field", "value"), [("parts", "x"), ("chosen", 0)])
def test_wrong_settings(field, value):
    with pytest.raises(InputError, match=f"--{field}"):
        bench.BenchConfig(**OTHERS | SETTINGS | {field: value})
