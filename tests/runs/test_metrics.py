"""Progress says how far and how fast; a log resumed has the bytes of one never killed."""

import errno
import io
import json
import os

import numpy as np
import pytest

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.metrics import MetricsLog, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_now_and_then():
    stream, clock = io.StringIO(), Clock()
    with Progress("gradients", 1200, stream=stream, every_seconds=5, clock=clock) as progress:
        for _ in range(12):
            clock.now += 2
            progress.advance(100)
    assert stream.getvalue().splitlines() == [
        "gradients: 300/1,200 rows, 50 rows/s, 18s left",
        "gradients: 600/1,200 rows, 50 rows/s, 12s left",
        "gradients: 900/1,200 rows, 50 rows/s, 6s left",
        "gradients: 1,200/1,200 rows, 50 rows/s after 24s",
    ]


def test_resumed_work_does_not_count_towards_the_rate():
    stream, clock = io.StringIO(), Clock()
    with Progress("steps", 10_000, done=1000, unit="steps", stream=stream, clock=clock) as progress:
        clock.now += 10
        progress.advance(10)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "steps: 1,010/10,000 steps, 1 steps/s, 2h29m left"
    assert lines[-1] == "steps: 1,010/10,000 steps, 1 steps/s after 10s"


def test_an_error_still_says_how_far_it_got():
    stream, clock = io.StringIO(), Clock()
    progress = Progress("rows", 10, stream=stream, clock=clock)
    with pytest.raises(RuntimeError), progress:  # noqa: PT012  (the progress has to be left by an error after a step)
        progress.advance(4)
        raise RuntimeError
    assert stream.getvalue() == "rows: 4/10 rows, 0 rows/s after 0s\n"


def test_bar_on_a_terminal():
    stream = Terminal()
    with Progress("walk", 5, stream=stream, unit="picks") as progress:
        for _ in range(5):
            progress.advance()
    shown = stream.getvalue()
    assert "walk: 100%" in shown
    assert "5/5" in shown
    assert "picks/s" in shown


def write_steps(log, first, last):
    for step in range(first, last):
        log.write(step, loss=np.float32(1 / (step + 1)), tokens=np.int64(step), name="a")


def test_metrics_are_json_lines(tmp_path):
    write_steps(MetricsLog(tmp_path / "new" / "metrics.jsonl"), 0, 2)
    lines = (tmp_path / "new" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 0, "loss": 1.0, "tokens": 0, "name": "a"},
        {"step": 1, "loss": 0.5, "tokens": 1, "name": "a"},
    ]


@pytest.mark.parametrize("torn", ["", '{"step": 9, "lo', '{"step": 1'])
def test_killed_and_resumed_log_equals_an_uninterrupted_one(tmp_path, torn):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    write_steps(MetricsLog(whole), 0, 12)
    write_steps(MetricsLog(killed), 0, 9)
    with killed.open("a") as stream:
        stream.write(torn)
    write_steps(MetricsLog(killed, start_step=6), 6, 12)
    assert killed.read_bytes() == whole.read_bytes()


def test_new_start_drops_the_old_log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(MetricsLog(path), 0, 3)
    MetricsLog(path)
    assert path.read_text() == ""


@pytest.mark.parametrize("line", ["nonsense", "{}", "3", "[]"])
def test_damaged_log_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl:2: not a JSON line with a \"step\"; del"):
        MetricsLog(path, start_step=2)


def test_full_disk(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path / "metrics.jsonl")

    def no_space(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(log.path), "open", no_space)
    with pytest.raises(InputError, match=r"disk full while writing .*metrics\.jsonl: free space"):
        log.write(0, loss=1.0)
