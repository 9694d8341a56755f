"""The benchmark of decoding runs end to end; what it measures is not tested."""

import importlib.util
import json
import subprocess
import sys

import pytest

from experiments.bench import generate as bench
from g2is_jax.runs.errors import InputError
from tests.support.small import ROOT

SIZES = {"hidden": 16, "layers": 1, "heads": 2, "vocabulary": 64, "batch": 2, "prompt_tokens": 5,
         "new_tokens": 4, "threads": 1, "repeats": 2}  # fmt: skip


@pytest.mark.usefixtures("torch")
def test_runs_and_writes_its_result(tmp_path):
    flags = [f"--{name}={value}" for name, value in SIZES.items()]
    output = tmp_path / "bench.json"
    command = [
        sys.executable,
        "-m",
        "experiments.bench.generate",
        f"--output={output}",
        *flags,
    ]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    result = json.loads(output.read_text())
    assert result.keys() == {"settings", "machine", "versions", "models"}
    assert result["settings"] == {**SIZES, "checkpoint": ""}
    (model,) = result["models"]
    assert model["same_tokens"] == 1.0
    assert model["first_call_seconds"]["ours"].keys() == {"prefill", "whole"}
    parts = {"prefill", "generation", "whole"}
    assert model["ratio"].keys() == parts
    for side in ("ours", "theirs"):
        assert model["tokens_per_second"][side].keys() == parts
        assert all(rate > 0 for rate in model["tokens_per_second"][side].values())
    assert "random Llama" in told.stdout


def test_ratios_are_medians_of_pairs():
    """A pair of slow runs does not count; ours over theirs is how much less time it takes."""
    config = bench.BenchConfig(**SIZES, checkpoint="")
    pairs = [(1.0, 2.0, 2.0, 5.0), (1.0, 2.0, 2.0, 5.0), (50.0, 99.0, 3.0, 4.0)]
    calls = [(side, part) for side in ("ours", "theirs") for part in ("prefill", "whole")]
    found = bench.speeds(dict(zip(calls, zip(*pairs, strict=True), strict=True)), config)
    assert found["ratio"] == {"prefill": 2.0, "generation": 3.0, "whole": 2.5}
    assert found["tokens_per_second"]["ours"] == {"prefill": 10.0, "generation": 6.0, "whole": 4.0}


def test_needs_torch(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"torch is not installed: pip install -r requirements-p"):
        bench.run(bench.BenchConfig(**SIZES, checkpoint=""))


@pytest.mark.parametrize(
    ("field", "value"), [("new_tokens", 1), ("repeats", 0), ("hidden", 18), ("heads", 1)]
)
def test_wrong_sizes(field, value):
    with pytest.raises(InputError, match=f"--{field} "):
        bench.BenchConfig(**SIZES | {field: value}, checkpoint="")
