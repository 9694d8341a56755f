"""Runs of run_all in forked processes, so that the imports are paid for once, and their faults.

    python -m tests.support.forked TASKS.json OUTCOMES.json

A task is {"argv": flags of run_all, "fault": null or the arguments of `fault_at`}, and its outcome
{"status", "stdout", "stderr", "seconds"}. The process that forks must not have computed anything
with JAX, whose threads a fork would lose.
"""

import errno
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.small import ROOT
from tests.support.without_torch import hide_torch

DISK_FULL, THIS_PROCESS = "disk full", 0
LATE = (
    *("matplotlib.figure", "matplotlib.backends.backend_svg", "scipy.stats"),
    *("transformers", "transformers.models.llama.configuration_llama", "experiments.run_all"),
)
# Manifests hold times; so do orbax's own files, and the adapter is compared without them.
LEFT_OUT = re.compile(r"manifest\.json$|/checkpoints/|attempt\.json$|\.tmp$")


def fault_at(
    event: str, path: str, times: int, by: int | str, to: Sequence[int] = (THIS_PROCESS,)
) -> None:
    """Arm the process: when Python's audit event of that name touches a path that matches for the
    `times`-th time, at the same instruction in every run, it sends the signal `by` to processes.

    With `by` DISK_FULL that call, and each later one that makes or writes a file, fails as it does
    where no space is left.
    """
    pattern, seen = re.compile(path), 0

    def hook(name: str, arguments: tuple) -> None:
        nonlocal seen
        full = by == DISK_FULL and seen >= times
        if name != event and not (full and name in ("open", "os.mkdir")):
            return
        if name == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if pattern.search(str(arguments[0])) and name == event:
            seen += 1
            if seen == times and by != DISK_FULL:
                for process in to:
                    os.kill(process or os.getpid(), int(by))
        if by == DISK_FULL and seen >= times:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sys.addaudithook(hook)


class Fork:
    """A started run of `run_all` in a process of its own.

    work: a file that gets a line for each training step and each chunk of features, as it is done.
    """

    def __init__(self, argv: list[str], fault: dict | None = None, work: Path | None = None):
        self._began = time.monotonic()
        self._printed = [_nameless_file() for _ in range(2)]
        self._status: int | None = None
        self.process = os.fork()
        if self.process == 0:
            _child(argv, fault, work, *self._printed)

    def ended(self) -> bool:
        """Say whether it has ended; does not wait."""
        if self._status is None:
            found, status = os.waitpid(self.process, os.WNOHANG)
            if found:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def stopped(self) -> bool:
        """Say whether it is held by a SIGSTOP, or has ended; waits for one of them."""
        _, status = os.waitpid(self.process, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._status = os.waitstatus_to_exitcode(status)
        return self._status is None

    def send(self, signal_number: int) -> None:
        """Send a signal, unless the process was seen to end."""
        if self._status is None:
            os.kill(self.process, signal_number)

    def join(self) -> None:
        """Wait for its end."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def wait(self) -> dict:
        """Wait for its end; return how it ended, and what it printed."""
        self.join()
        seconds = time.monotonic() - self._began
        texts = []
        for descriptor in self._printed:
            with open(descriptor, "rb") as stream:
                stream.seek(0)
                texts.append(stream.read().decode(errors="replace"))
        outcome = {"status": self._status, "stdout": texts[0], "stderr": texts[1]}
        return outcome | {"seconds": seconds}


def _nameless_file() -> int:
    descriptor, name = tempfile.mkstemp()
    os.unlink(name)
    return descriptor


def in_fork(call: Callable[[], object]) -> None:
    """Call it in a forked process, which may compute with JAX."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            call()
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(process, 0)[1]:
        raise RuntimeError("the forked process failed")


def _child(argv: list[str], fault: dict | None, work: Path | None, out: int, err: int) -> None:
    from experiments.launch import launch
    from g2is_jax.pipeline.whole_run import run

    os.dup2(out, 1)
    os.dup2(err, 2)
    if fault:
        fault_at(**fault)
    if work:
        _log_work(work)
    sys.argv = ["run_all.py", *argv]
    status = 1
    try:
        launch(run)
        status = 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _log_work(file: Path) -> None:
    """Write down each step and each chunk of this process from now on."""
    from g2is_jax.features.store import StoreWriter
    from g2is_jax.runs.metrics import MetricsLog

    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    write_step, write_chunk = MetricsLog.write, StoreWriter.write

    def step(self: MetricsLog, step: int, **values: object) -> None:
        os.write(log, f"step {_stage(self.path.parent)} {step}\n".encode())
        write_step(self, step, **values)

    def chunk(self: StoreWriter, index: int, *rows: object) -> None:
        os.write(log, f"chunk {_stage(self._folder)} {index}\n".encode())
        write_chunk(self, index, *rows)

    MetricsLog.write, StoreWriter.write = step, chunk  # type: ignore[assignment, method-assign]  # in a process that does nothing else


def _stage(folder: os.PathLike) -> str:
    return os.path.basename(folder).removesuffix(".part")


def import_all() -> None:
    """Import all that a run does, also late and slowly; no thread of JAX's is there yet."""
    hide_torch()
    for late in LATE:
        importlib.import_module(late)
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)


def written(workdir: Path) -> dict[str, bytes]:
    """Return the files of stages and selections, but for those that hold times or that a killed
    writer left."""
    files = [*workdir.glob("stages/**/*"), *workdir.glob("selections/**/*")]
    names = {str(file.relative_to(workdir)): file for file in files if file.is_file()}
    return {name: file.read_bytes() for name, file in names.items() if not LEFT_OUT.search(name)}


def fork_each(
    tasks: list[dict], folder: Path, program: Sequence[str] = ("-m", "tests.support.forked")
) -> list[dict]:
    """Run each task in a process of its own, forked from a new one; return their outcomes.

    program: the arguments of Python there, this module or one that ends in its `main`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given, outcomes = folder / "tasks.json", folder / "outcomes.json"
    given.write_text(json.dumps(tasks))
    done = subprocess.run(
        [sys.executable, *program, str(given), str(outcomes)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(outcomes.read_text())


def main() -> None:
    import_all()
    tasks = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps([Fork(**task).wait() for task in tasks]))


if __name__ == "__main__":
    main()
