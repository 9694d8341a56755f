"""Stages, leases and logs on gs://, against a fake of it that fails when it is asked to."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from etils import epath

from g2is_jax.runs import lock, manifest
from g2is_jax.runs.errors import InputError, StoreLost
from g2is_jax.runs.hashing import file_hash
from g2is_jax.runs.lock import LOCK, locked
from g2is_jax.runs.manifest import read_manifest
from g2is_jax.runs.metrics import MetricsLog
from g2is_jax.runs.stages import is_finished, run_stage
from g2is_jax.runs.stopping import STOPPED, Stopped, sigterm_heeded
from g2is_jax.runs.storage import make_folder, naming_failures, write_atomic
from g2is_jax.runs.tensors import read_tensors, write_tensors
from tests.support.object_store import CUT, MUTE, object_store, without_waits

WORK = """
import sys
from g2is_jax.runs import lock
from g2is_jax.runs.lock import locked
from g2is_jax.runs.stages import run_stage
from g2is_jax.runs.stopping import sigterm_heeded
from g2is_jax.runs.storage import write_atomic

lock.SETTLE_SECONDS, lock.STALE_SECONDS, lock.RENEW_SECONDS = 0.05, 0.3, 1.0

def build(folder):
    for number in range(3):
        if not (folder / str(number)).exists():
            print("writes", number, flush=True)
            write_atomic(folder / str(number), f"{number}")
    return {}

with sigterm_heeded(), locked(sys.argv[1]):
    run_stage(sys.argv[1], "work", {}, {}, build)
"""


@pytest.fixture(scope="module")
def served():
    with object_store() as store:
        yield store


@pytest.fixture
def store(served, monkeypatch):
    """The store, which serves all; clients try again without a wait."""
    without_waits(monkeypatch)
    served.requests.clear()
    yield served
    served.rule = lambda method, name: None


@pytest.fixture
def folder(store, request):
    return epath.Path("gs://bucket") / request.node.name.partition("[")[0]


def fails_with(answer):
    return lambda method, name: answer


def test_a_stage_is_finished_once_its_manifest_is_there(store, folder):
    def build(stage):
        assert not is_finished(stage)
        write_atomic(stage / "rows.txt", "rows")
        assert not is_finished(stage)
        return {"rows": 4}

    done = run_stage(folder, "features", {"a": 1}, {}, build)
    assert is_finished(done)
    assert read_manifest(done)["counts"] == {"rows": 4}
    assert run_stage(folder, "features", {"a": 1}, {}, None) == done
    assert set(store.files(f"{folder.name}/stages/{done.name}/")) == {"manifest.json", "rows.txt"}
    assert file_hash(done / "rows.txt") == file_hash(done / "rows.txt")


def test_a_finished_manifest_is_asked_for_once(store, folder):
    done = run_stage(folder, "features", {}, {}, lambda stage: {})
    read_manifest(done)
    store.requests.clear()
    for _ in range(3):
        read_manifest(done)
        run_stage(folder, "features", {}, {}, None)
    assert store.requests == []


def work(folder) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WORK, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_run_that_was_stopped_goes_on(store, folder):
    """After `kill -9` its lease is taken over, and what it wrote is kept."""
    attempts = []
    for by, file in ((signal.SIGKILL, "/1"), (signal.SIGTERM, "/2"), (None, "none")):
        store.rule = stopping(store, folder, by, file)
        attempts.append(work(folder))
        assert (LOCK in store.files(f"{folder.name}/")) == (by == signal.SIGKILL)
    codes = [attempt.returncode for attempt in attempts]
    assert codes == [-signal.SIGKILL, STOPPED, 0], attempts[-1].stderr
    assert [re.findall(r"writes (\d)", attempt.stdout) for attempt in attempts] == [
        ["0", "1"],
        ["1", "2"],
        ["2"],
    ]
    files = store.files(f"{folder.name}/stages/")
    kept = {file.split("/")[1]: data for file, data in files.items()}
    assert {n: kept[n] for n in "012"} == {"0": b"0", "1": b"1", "2": b"2"}
    assert sorted(kept) == ["0", "1", "2", "manifest.json"]


def stopping(store, folder, by, ending):
    """A rule that sends the folder's owner a signal as it writes a file."""

    def rule(method, name):
        if method != "POST" or not name.endswith(ending):
            return None
        store.rule = fails_with(None)
        os.kill(json.loads(store.read(f"{folder.name}/{LOCK}"))["process"], by)
        time.sleep(0.1)
        return CUT

    return rule


@pytest.fixture
def quick(store, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lock, "STALE_SECONDS", 60.0)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.05)


def test_a_live_run_is_not_disturbed(quick, store, folder):
    """Also while some of its requests are lost."""
    with locked(folder):
        calls = []
        store.rule = lambda *request: calls.append(request) or {0: CUT, 2: 503}.get(len(calls) % 5)
        with pytest.raises(InputError, match=f"{folder}: another run is at work here"):
            locked(folder).__enter__()
    assert LOCK not in store.files(f"{folder.name}/")


def test_a_store_that_is_cut_off_looks_like_no_free_folder(quick, store, folder):
    with locked(folder):
        store.rule = fails_with(503)
        with pytest.raises(StoreLost), naming_failures(folder):
            locked(folder).__enter__()


def test_a_run_whose_folder_was_taken_over_stops(quick, store, folder):
    def taken_over():
        lock._renew(folder / LOCK, "of another")
        time.sleep(60)

    with pytest.raises(Stopped), sigterm_heeded(), locked(folder):
        taken_over()
    assert b"of another" in store.read(f"{folder.name}/{LOCK}")


def test_a_bucket_that_is_not_there(quick, store):
    with pytest.raises(InputError, match="gs://bukket/run: there is no such bucket; make it"):
        locked("gs://bukket/run").__enter__()
    assert not [name for method, name in store.requests if method == "POST" and not name]


@pytest.mark.parametrize("answer", [CUT, MUTE, 503, 429])
def test_a_request_that_fails_is_tried_again(store, folder, answer):
    calls = []
    store.rule = lambda *request: calls.append(request) or (answer if len(calls) < 3 else None)
    write_atomic(folder / "file", "text")
    assert (folder / "file").read_text() == "text"


@pytest.mark.parametrize("answer", [CUT, 503])
def test_a_lost_store(store, folder, answer):
    done = run_stage(folder, "features", {}, {}, lambda stage: {})
    manifest.stored_manifest.cache_clear()
    store.rule = fails_with(answer)
    way_out = r"the store cannot be reached \(.*\); run the same command again; finished parts are"
    for action in (lambda: write_atomic(folder / "a", ""), lambda: read_manifest(done)):
        with pytest.raises(StoreLost, match=way_out) as lost, naming_failures(folder):
            action()
        assert "\n" not in str(lost.value)
        assert len(str(lost.value)) < 400


@pytest.mark.parametrize("answer", [401, 403])
def test_a_store_that_refuses(store, folder, answer):
    store.rule = fails_with(answer)
    with pytest.raises(
        InputError, match=r"file: the store refuses \(.*\); log in, or ask"
    ) as error:
        write_atomic(folder / "file", "")
    assert "\n" not in str(error.value)


def test_a_missing_client_is_named(folder):
    with pytest.raises(InputError, match=r'pip install -e "\.\[gcs\]"'), naming_failures(folder):
        raise ImportError("Please install gcsfs")


def test_no_folder_is_made(store):
    make_folder("gs://bukket/run/stages")
    assert store.requests == []


def test_a_log_is_uploaded_seldom_and_resumes_as_on_a_disk(store, folder, tmp_path):
    def write(log, first, last):
        for step in range(first, last):
            log.write(step, loss=1 / (step + 1))

    on_disk = MetricsLog(tmp_path / "metrics.jsonl")
    write(on_disk, 0, 12)
    killed = MetricsLog(folder / "metrics.jsonl")
    write(killed, 0, 6)
    killed.flush()
    write(killed, 6, 9)  # of no checkpoint: lost
    again = MetricsLog(folder / "metrics.jsonl", start_step=6)
    write(again, 6, 12)
    again.flush()
    found = store.read(f"{folder.name}/metrics.jsonl")
    assert found == (tmp_path / "metrics.jsonl").read_bytes()
    assert len([1 for method, _ in store.requests if method == "POST"]) == 4


def test_a_long_epoch_shows_its_log(store, folder, monkeypatch):
    monkeypatch.setattr("g2is_jax.runs.metrics.EVERY_SECONDS", 0.0)
    MetricsLog(folder / "metrics.jsonl").write(0, loss=1.0)
    assert store.read(f"{folder.name}/metrics.jsonl") == b'{"step": 0, "loss": 1.0}\n'


def test_tensors_are_whole_or_absent(store, folder):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_tensors(folder / "a.safetensors", {"x": ((2, 3), np.float32)}, {"x": array}.__getitem__)
    np.testing.assert_array_equal(read_tensors(folder / "a.safetensors")["x"], array)
    with pytest.raises(KeyError):
        write_tensors(folder / "b.safetensors", {"x": ((2, 3), np.float32)}, {}.__getitem__)
    assert set(store.files(f"{folder.name}/")) == {"a.safetensors"}
