"""The judgement of fault trials: wrong results are called so, and lost work is seen."""

import json
import random
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from g2is_jax.runs.errors import InputError
from tests.faults import fault_table as bench
from tests.faults import random_kills as kills
from tests.faults.fault_trials import Attempt, Trial, differences, finished_work
from tests.support.forked import written
from tests.support.small import ROOT


def attempt(status=0, out="", err="", work=()) -> Attempt:
    return Attempt([{"status": status, "stdout": out, "stderr": err, "seconds": 1.0}], set(work))


@pytest.fixture
def trial(tmp_path) -> Trial:
    folder = tmp_path / "work"
    (folder / "stages" / "world-0123456789ab").mkdir(parents=True)
    return Trial(SimpleNamespace(files={1: {}}), folder)


def of_trial(trial: Trial) -> str:
    """The verdict, once it was run."""
    trial.attempts.append(attempt())
    return bench.row(trial, "warmup", "SIGTERM")["verdict"]


def test_the_same_bytes_are_the_same_result(trial):
    (trial.folder / "stages/world-0123456789ab/pool.jsonl").write_text("1")
    (trial.folder / "stages/world-0123456789ab/manifest.json").write_text("of some second")
    expected = written(trial.folder)
    trial.compare(expected)
    assert of_trial(trial) == "same result"
    assert list(expected) == ["stages/world-0123456789ab/pool.jsonl"]


@pytest.mark.parametrize(
    ("found", "named"),
    [({"a": b"1", "b": b"3"}, "b"), ({"a": b"1"}, "b"), ({"a": b"1", "b": b"2", "c": b""}, "c")],
    ids=["altered", "gone", "more"],
)
def test_other_bytes_are_wrong(found, named, trial):
    trial.complaints += differences(found, {"a": b"1", "b": b"2"})
    assert of_trial(trial) == f"WRONG: other bytes: {named}"


def test_work_done_again_is_lost_if_it_was_finished(trial):
    first = attempt(-9, "warmup seed 0\n", work={"step warmup-0 2", "step warmup-0 3"})
    trial.note(first, set())
    trial.note(attempt(-9, "warmup seed 0\n", work={"step warmup-0 3"}), {"step warmup-0 2"})
    assert trial.complaints == []
    assert bench.redone(trial) == "1 step"
    trial.note(attempt(work={"step warmup-0 2"}), {"step warmup-0 2"})
    assert of_trial(trial) == "WRONG: finished work was done again: step warmup-0 2"


def test_a_stage_whose_end_was_printed_is_lost_if_it_starts_anew(trial):
    label = "selection g2is sorting_letters seed 0"
    first = attempt(-9, f"{label}\n{label}: done in 0.1 s, some of them (selection-abc)\n")
    assert first.started == {label}
    trial.note(first, set())
    assert trial.finished == {label: "selection-abc"}
    trial.note(attempt(0, f"{label}: reused (selection-abc)\n"), set())
    assert trial.complaints == []
    trial.note(attempt(0, f"{label}\n"), set())
    assert of_trial(trial) == f"WRONG: finished work was done again: {label}"
    assert bench.redone(trial) == "1 selection started anew"


def test_finished_work_is_up_to_the_newest_checkpoint(tmp_path):
    for name in ("checkpoints/3", "checkpoints/6.orbax-checkpoint-tmp", "stopped/4"):
        (tmp_path / "stages" / "warmup-0.part" / name).mkdir(parents=True)
    assert finished_work(tmp_path) == {f"step warmup-0 {step}" for step in range(4)}


def test_finished_chunks_are_those_of_all_kinds_of_a_pass(tmp_path):
    marks = {"features-a.part": (0, 1), "features-b.part": (0,), "features-c.part": (1,)}
    for name, done in (marks | {"features-d": (0, 2)}).items():
        (tmp_path / "stages" / name).mkdir(parents=True)
        rows = ["other rows"] if "c" in name.partition("-")[2] else ["rows"]
        (tmp_path / "stages" / name / "store.json").write_text(json.dumps({"chunks": rows}))
        for index in done:
            (tmp_path / "stages" / name / f"chunk-{index:05}.done").write_text("")
    expected = {"features-a 0", "features-b 0", "features-c 1", "features-d 0", "features-d 2"}
    assert finished_work(tmp_path) == {f"chunk {name}" for name in expected}


def test_the_way_out_is_taken(trial):
    stage = trial.folder / "stages/world-0123456789ab"
    trial.finished["world seed 0"] = stage.name
    trial.follow(f"{stage}/pool.jsonl: 1 bytes of 2; delete {stage} and run the same command again")
    assert (stage.exists(), trial.finished, trial.complaints) == (False, {}, [])
    trial.follow(f"disk full while writing {stage}: free space and run the same command again")
    trial.follow(f"{trial.folder}: another run is at work here; wait for it to end, or choose")
    assert trial.complaints == []


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        ("FOLDER/x: it is broken", "names no way out"),
        ("something: free space and run the same command again", "names no file"),
        ("FOLDER/x: bad; delete / and run the same command again", "asks to delete /"),
    ],
)
def test_an_error_without_place_or_way_out_is_wrong(trial, error, complaint):
    trial.follow(error.replace("FOLDER", str(trial.folder)))
    assert of_trial(trial).startswith(f"WRONG: {complaint}")


def test_an_error_has_one_line(trial):
    trial.expect(attempt(2, err="train: 2/4 steps\nerror: x\n"), [2])
    assert trial.complaints == []
    trial.expect(attempt(2, err="error: x\nerror: y\n"), [2])
    trial.expect(attempt(1, err="Traceback\nKeyError: 3\n"), [2])
    assert trial.complaints == ["says more than one line", "ended with [1]: ['KeyError: 3']"]


@pytest.mark.parametrize(
    ("file", "complaints"),
    [
        ("g2is_jax/runs/manifest.py", ["says more than one line"]),
        ("lib/asyncio/base_events.py", []),  # of a thread of tensorstore's
    ],
)
def test_a_traceback_beside_the_error_is_too_much(trial, file, complaints):
    printed = f'Traceback (most recent call last):\n  File "/x/{file}", line 3, in y\nerror: x\n'
    trial.expect(attempt(2, err=printed), [2])
    assert trial.complaints == complaints


def test_the_table_names_what_is_wrong():
    row = {"fault": "SIGTERM", "statuses": [75], "error": "", "redone": "nothing"}
    rows = [
        row | {"stage": "world", "verdict": "same result"},
        row | {"stage": "warmup", "verdict": "WRONG: other bytes: a|b"},
        row | {"stage": "features", "verdict": "one-line error, then same result"},
    ]
    short = [line.split(" | ")[:2] for line in bench.in_short(rows)[2:5]]
    assert short == [["| world", "same"], ["| warmup", "WRONG"], ["| features", "named, same"]]
    assert bench.in_full(rows)[3].endswith(r"| nothing | WRONG: other bytes: a\|b |")


def test_random_kills_are_counted_and_judged(monkeypatch, tmp_path):
    """Two folders: the second one does a kept step again, and ends in other bytes."""
    job = SimpleNamespace(files={1: {}}, whole={1: tmp_path / "whole"})
    made: list = []

    def new_folder():
        made.append(tmp_path / f"work-{len(made)}")
        (made[-1] / "stages").mkdir(parents=True)
        return made[-1]

    job.new_folder = new_folder
    ends = [(signal.SIGKILL, -9), (signal.SIGTERM, 75), (None, 0), (signal.SIGKILL, -9), (None, 0)]

    def one_try(trial, draws):
        sent, status = ends.pop(0)
        kept = {"step warmup-0 1"} if len(ends) == 0 else set()
        trial.note(attempt(status, work={"step warmup-0 1"}), kept)
        if not ends:
            (trial.folder / "stages" / "more").write_text("")
        return sent, "warmup"

    monkeypatch.setattr(kills, "one_try", one_try)
    found = kills.random_kills(job, 3, 0)
    assert (found["kills"], found["folders"], found["tries"]) == (3, 2, 5)
    assert found["hit"] == {"warmup": 3}
    assert found["signals"] == {"SIGKILL": 2, "SIGTERM": 1}
    assert found["twice"] == {"step": 2, "chunk": 0}
    assert found["wrong"] == [
        "work-1: finished work was done again: step warmup-0 1",
        "work-1: other bytes: stages/more",
    ]
    assert "WRONG: work-1" in "\n".join(bench.kill_lines(found))


def test_a_kill_is_aimed_at_what_is_not_finished(tmp_path):
    seconds = {"stages/world-0": 1.0, "stages/warmup-0": 2.0, "report": 3.0}
    trial = Trial(SimpleNamespace(seconds=seconds), tmp_path)
    (tmp_path / "stages" / "world-0").mkdir(parents=True)
    assert kills.at_work(trial) == "between stages"
    moments = [kills._moment(trial, random.Random(seed)) for seed in range(40)]
    assert {moment is None for moment in moments} == {True, False}
    (tmp_path / "stages" / "warmup-0.part").mkdir()
    assert kills.at_work(trial) == "warmup"
    due = [moment[0]() for moment in moments if moment]
    assert {True, False} == set(due)  # the report has not started
    (tmp_path / "stages" / "warmup-0.part").rename(tmp_path / "stages" / "warmup-0")
    assert kills.at_work(trial) == "report"


def test_a_full_disk_fails_every_later_write(tmp_path):
    program = f"""
import os
from tests.support.forked import DISK_FULL, fault_at
fault_at("open", r"second$", 1, DISK_FULL)
open("{tmp_path}/first", "w").close()
for call in (
    lambda: open("{tmp_path}/second", "w"),
    lambda: open("{tmp_path}/first", "a"),
    lambda: os.mkdir("{tmp_path}/folder"),
):
    try:
        call()
    except OSError as error:
        print(error.errno)
print(open("{tmp_path}/first").read() == "")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["28", "28", "28", "True"]


@pytest.mark.parametrize(("field", "value"), [("parts", "x"), ("kills", 0), ("threads", 0)])
def test_wrong_settings(field, value):
    settings = {"parts": "table", "kills": 1, "seed": 0, "threads": 1}
    with pytest.raises(InputError, match=f"--{field}"):
        bench.BenchConfig(**settings | {field: value})
