"""The small job on a fake gs://, killed and cut off in every stage; slow, and so run by hand:

    python -m tests.faults.store_kills

The files must be those of a run on a disk that nothing stopped. All the time single requests are
broken off, served without an answer, or answered by 503 too.
"""

import json
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

from etils import epath

from g2is_jax.runs.stopping import STOPPED
from tests.support.forked import fork_each
from tests.support.object_store import CUT, MUTE, object_store, stored
from tests.support.small_job import changed, small_config, write_base, write_config

KILL, TERM, LOST = signal.SIGKILL, signal.SIGTERM, "lost"
# (file that is being written, how often before the fault, fault)
FAULTS = [
    (r"world-.*/val_", 1, KILL),
    (r"world-.*/manifest\.json", 1, KILL),
    (r"warmup-.*/checkpoints/.*\.tar", 1, KILL),
    (r"warmup-.*/metrics\.jsonl", 2, TERM),
    (r"warmup-.*/adapter_model\.safetensors", 1, KILL),
    (r"warmup-.*/manifest\.json", 1, LOST),
    (r"features-.*/chunk-00001\.safetensors", 1, KILL),
    (r"features-.*/chunk-00001\.done", 1, KILL),
    (r"features-.*/chunk-00002\.done", 1, LOST),
    (r"features-.*/chunk-00003\.safetensors", 1, TERM),
    (r"features-.*/manifest\.json", 2, KILL),
    (r"selection-.*/selected\.jsonl", 1, KILL),
    (r"finetune-.*/checkpoints/.*\.tar", 1, LOST),
    (r"finetune-.*/checkpoints/.*\.tar", 2, KILL),
    (r"finetune-.*/epochs/2/adapter_model\.safetensors", 1, KILL),
    (r"curve-.*/curve\.json", 1, KILL),
    (r"evaluate-.*/rows\.jsonl", 1, TERM),
    (r"evaluate-.*/manifest\.json", 1, KILL),
    (r"report/results\.json", 1, LOST),
]


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


def main() -> None:
    with tempfile.TemporaryDirectory() as name, object_store() as store:
        folder = Path(name)
        write_base(epath.Path(folder / "base"))
        settings = small_config(epath.Path(folder / "base"))
        settings = changed(settings, run__methods="g2is", evaluate__curves=True)
        config = f"--config={write_config(folder / 'config.py', settings)}"
        flags = [config, f"--jax_compilation_cache_dir={folder / 'compiled'}"]
        flags += ["--jax_persistent_cache_min_compile_time_secs=0"]
        store.rule = Faults(store, FAULTS, "run")
        whole, of_store = folder / "whole", [*flags, "--workdir=gs://bucket/run"]
        first = [*flags, f"--workdir={whole}"]
        tasks = [{"argv": argv} for argv in (first, *[of_store] * (len(FAULTS) + 1))]
        outcomes = fork_each(tasks, folder, [str(Path(__file__).parent / "store_tries.py")])
        found, files = stored(store.files("run/")), [f for f in whole.rglob("*") if f.is_file()]
        expected = stored({str(file.relative_to(whole)): file.read_bytes() for file in files})
    ends = {KILL: -KILL, TERM: STOPPED, LOST: STOPPED}
    for (file, _, fault), outcome in zip(FAULTS, outcomes[1:], strict=False):
        last = outcome["stderr"].splitlines()[-1:] if fault == LOST else ""
        good = outcome["status"] == ends[fault]
        print("ok " if good else f"BAD {outcome['stderr'][-2000:]}", outcome["status"], file, *last)
    print("last:", outcomes[0]["status"], outcomes[-1]["status"], outcomes[-1]["stderr"][-2000:])
    print(f"{len(expected)} files, the same: {found == expected}; {len(store.requests)} requests")
    if found != expected:
        sys.exit(str([name for name in expected | found if found.get(name) != expected.get(name)]))


if __name__ == "__main__":
    main()
