"""One run of several processes: the same result as one process, also after one of them died."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.bench.devices import differences
from g2is_jax.runs.errors import FAILED
from g2is_jax.runs.processes import GOES_ON, HEARTBEAT_SECONDS
from g2is_jax.runs.stopping import STOPPED
from tests.support.compilation import many_devices
from tests.support.small import ROOT
from tests.support.small_job import changed, small_config, write_config

PROGRAM = """
import json, sys
from tests.support.forked import fault_at
from tests.support.without_torch import hide_torch
hide_torch()
from experiments.launch import launch
from g2is_jax.pipeline.whole_run import run
kill = json.loads(sys.argv.pop(1))
if kill:
    fault_at(**kill)
launch(run)
"""
SLOWEST_SECONDS = 60  # a busy machine's, beyond the silence after which a process counts as dead


def start(argv: list[str], devices: int, cache: Path, kill: dict | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(kill), *argv],
        cwd=ROOT,
        env=os.environ
        | many_devices(devices)
        | {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "PYTHONPATH": str(ROOT),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def together(argv: list[str], cache: Path, kills: dict[int, dict]) -> list[tuple[int, str]]:
    """Two processes of four devices each, some of them with a kill; how they ended."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = []
    for index in range(2):
        flags = [f"--coordinator=localhost:{port}", "--processes=2", f"--process={index}"]
        own = [*argv, "--distributed", *flags]
        both.append(start(own, 4, cache, kills.get(index)))
    try:
        printed = [process.communicate(timeout=200)[0] for process in both]
    finally:
        for process in both:
            process.kill()
            process.communicate()
    return [(process.returncode, text) for process, text in zip(both, printed, strict=True)]


@pytest.fixture(scope="module")
def argv(base, tmp_path_factory) -> list[str]:
    settings = changed(
        small_config(base),
        run__methods="less,g2is",
        grads__chunk_rows=8,
        grads__batch_tokens=64,  # several chunks
        grads__dtype="float32",
        warmup__keep_checkpoints=0,
        warmup__batch_size=4,  # six steps an epoch, so that some are read within it
        evaluate__batch_tokens=16,  # several batches, which the processes share
    )
    return [f"--config={write_config(tmp_path_factory.mktemp('config') / 'c.py', settings)}"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def alone(argv, cache, tmp_path_factory) -> Path:
    """Work folder of one process with one device."""
    folder = tmp_path_factory.mktemp("alone")
    process = start([*argv, f"--workdir={folder}"], 1, cache)
    text = process.communicate(timeout=280)[0]
    assert process.returncode == 0, text
    return folder


def assert_same_results(folder: Path, expected: Path) -> None:
    """The same stages, selections and replies; features, adapters and losses up to rounding."""
    found = differences(folder, expected)
    assert found["features"] <= 1e-6
    assert found["adapters"] <= 1e-4
    assert found["losses"] <= 1e-4
    assert found["selections"] == [0, 2]
    assert found["replies"] == [0, 10]
    for file in ("report/report.html", "report/results.json", "config.json"):
        assert (folder / file).exists()


def test_two_processes_do_what_one_does_through_sigterm_and_death(argv, cache, alone, tmp_path):
    """One is asked to stop within an epoch: both do. One dies at its chunk: the other ends soon."""
    argv = [*argv, f"--workdir={tmp_path}"]
    term = {"event": "open", "path": r"warmup-.*/metrics\.jsonl$", "times": 2}
    outcomes = together(argv, cache, {0: term | {"by": signal.SIGTERM}})
    (first, _), (second, _) = outcomes
    assert first == STOPPED, outcomes
    assert second in (STOPPED, -signal.SIGABRT), outcomes  # the first one may be gone too soon
    # Asked when the second step is read, after the fourth; both have heard of it after the fifth.
    assert list(tmp_path.glob("stages/warmup-*.part/stopped/5"))

    began = time.monotonic()
    death = {"event": "open", "path": r"features-.*\.chunk-00001\.safetensors", "times": 1}
    (first, text), (second, _) = together(argv, cache, {1: death | {"by": signal.SIGKILL}})
    assert (first not in (0, FAILED), second) == (True, -signal.SIGKILL), text
    assert text.splitlines()[-1] == GOES_ON
    assert time.monotonic() - began < HEARTBEAT_SECONDS + SLOWEST_SECONDS

    (first, text), (second, silent) = together(argv, cache, {})
    assert (first, second) == (0, 0), text + silent
    assert re.findall("warmup seed 0: (.*) \\(", text) == ["reused"]
    assert "selection g2is" in text
    assert "selection" not in silent
    assert_same_results(tmp_path, alone)
