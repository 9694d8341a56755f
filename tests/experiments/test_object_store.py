"""The whole job in a work folder on gs://, killed and cut off again and again: the same bytes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from object_store import CUT, MUTE, object_store
from small import ROOT, changed, small_config, write_config

from g2is_jax.runs.stopping import STOPPED

KILL, TERM, LOST = signal.SIGKILL, signal.SIGTERM, "lost"
# (file that is being written, how often before the fault, fault)
FAULTS = [
    (r"warmup-.*/metrics\.jsonl", 2, TERM),  # the end of the first epoch
    (r"warmup-.*/adapter_config\.json", 1, KILL),
    (r"features-.*/chunk-00001\.done", 1, KILL),
    (r"finetune-.*/checkpoints/.*\.tar", 1, LOST),
    (r"evaluate-.*/manifest\.json", 1, KILL),
]
TIMES = re.compile(r"manifest\.json$|/checkpoints/|attempt\.json$|^(report|config|\.lock)")


class Faults:
    """A rule of the store: the faults one after the other, each in a run of its own."""

    def __init__(self, store, faults, workdir):
        self.store, self.faults, self.workdir = store, list(faults), workdir
        self.met: list = []
        self.seen = self.served = 0
        self.lost_by = None

    def __call__(self, method: str, name: str) -> int | None:
        if self.lost_by is not None and alive(self.lost_by):
            return 503
        if method == "POST" and self.faults and re.search(self.faults[0][0], name):
            self.seen += 1
            if self.seen == self.faults[0][1]:
                return self._fault(self._owner())
        self.served += 1
        return {0: CUT, 10: MUTE, 20: 503}.get(self.served % 30)  # passing ones, all the time

    def _owner(self) -> int:
        return json.loads(self.store.read(f"{self.workdir}/.lock"))["process"]

    def _fault(self, owner: int) -> int | None:
        kind, self.seen = self.faults.pop(0)[2], 0
        self.met.append(kind)
        if kind == LOST:
            self.lost_by = owner
            return 503
        os.kill(owner, kind)
        return CUT if kind == KILL else None


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def tries(argvs: list[list[str]], folder: Path) -> list[dict]:
    """Runs, one after the other; how each ended, and what it printed."""
    given, told = folder / "tasks.json", folder / "told.json"
    given.write_text(json.dumps([{"argv": argv} for argv in argvs]))
    program = Path(__file__).parent / "store_tries.py"
    done = subprocess.run(
        [sys.executable, str(program), str(given), str(told)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(told.read_text())


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """Files of a run on a disk; of one on gs://; how the tries of the latter ended; the faults."""
    folder = tmp_path_factory.mktemp("on_gs")
    settings = changed(small_config(base), run__methods="g2is")
    config = f"--config={write_config(folder / 'config.py', settings)}"
    whole = folder / "whole"
    with object_store() as store:
        store.rule = Faults(store, FAULTS, "run")
        on_store = [config, "--workdir=gs://bucket/run"]
        told = tries([[config, f"--workdir={whole}"], *[on_store] * (len(FAULTS) + 1)], folder)
        found = store.files("run/")
        uploads = [name for method, name in store.requests if method == "POST"]
    expected = {str(f.relative_to(whole)): f.read_bytes() for f in whole.rglob("*") if f.is_file()}
    print([one["seconds"] for one in told], len(uploads), store.rule.served)
    assert told[0]["status"] == 0, told[0]["stderr"]
    return expected, found, told[1:], store.rule, uploads


def test_every_try_met_its_fault(runs):
    _, _, told, rule, _ = runs
    status = {KILL: -KILL, TERM: STOPPED, LOST: STOPPED}
    expected = [*(status[fault] for *_, fault in FAULTS), 0]
    assert [one["status"] for one in told] == expected, told[-1]["stderr"]
    assert rule.met == [fault for *_, fault in FAULTS]


def test_a_lost_store_ends_in_one_line(runs):
    line = runs[2][[fault for *_, fault in FAULTS].index(LOST)]["stderr"].splitlines()[-1]
    assert re.fullmatch(
        r"error: gs://bucket/run/stages/finetune-\w+/checkpoints/\d+\.tar: the store cannot be "
        r"reached \(HttpError: .*503\); run the same command again; finished parts are kept",
        line,
    )


def test_the_same_bytes_as_on_a_disk(runs):
    expected, found, *_ = runs
    assert sorted(n for n in found if not TIMES.search(n)) == sorted(
        n for n in expected if not TIMES.search(n)
    )
    assert [n for n in expected if not TIMES.search(n) and found[n] != expected[n]] == []
    assert any(n.endswith("adapter_model.safetensors") for n in expected)
    assert ".lock" not in found


def test_logs_are_not_written_at_each_step(runs):
    *_, uploads = runs
    written = [name for name in uploads if re.search(r"finetune-.*/metrics\.jsonl", name)]
    assert len(written) < 3 * 4
