"""Programs for a TPU slice, compiled without one where `libtpu`, which holds the compiler, is."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.support.small import ROOT

COMMAND = "--topology=v5e:2x2 --layers=2 --rows=1 --tokens=128 --likelihood_rows=1 --rank=8"
LIBTPU = importlib.util.find_spec("libtpu") is not None


def run(output, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.bench.slice_programs", *COMMAND.split(), *flags]
    return subprocess.run(
        [*command, f"--output={output}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.skipif(not LIBTPU, reason="libtpu is not installed")
def test_every_program_of_a_slice(tmp_path):
    """One layer is compiled for both, and each weight is gathered once in each direction."""
    done = run(tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    programs = {
        p["program"]: p for p in json.loads((tmp_path / "found.json").read_text())["programs"]
    }
    assert list(programs) == ["features", "training", "likelihood", "prefill", "decode"]
    for program in programs.values():
        assert program["compile_seconds"] > 0
        assert program["argument_bytes"] > 10**8
    assert set(programs["features"]["collectives"]) == {"all-gather"}
    assert programs["training"]["collectives"]["all-reduce"] > 0  # of the adapter's gradient
    assert programs["decode"]["collectives"]["all-to-all"] > 0  # tokens are sent round


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--topology=v9z:1x1", "--topology=v9z:1x1"),
        ("--model=nobody/none", "--model=nobody/none is unknown; choose one of"),
        ("--programs=walk", "--programs: 'walk' is unknown; choose from features"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, flag, message):
    if not LIBTPU and "topology" not in flag:
        pytest.skip("libtpu is not installed")
    done = run(tmp_path / "found.json", flag)
    assert done.returncode == 2
    assert message in done.stderr
