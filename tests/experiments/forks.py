"""Run each of a list of tasks in a forked process, so that the imports are paid for once.

    python forks.py TASKS.json TOLD.json

A task is {"argv": flags of run_all, "kill": null or {"event", "path", "times", "by"}}. With `kill`
the process sends itself the signal `by` when Python's audit event of that name touches a path that
matches for the `times`-th time: at the same instruction in every run, on every machine.
"""

import json
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

import matplotlib.figure  # noqa: F401  (this and transformers: imported late, and slowly)
from transformers import AutoTokenizer  # noqa: F401  (as above)

from experiments import run_all
from experiments.launch import launch


def kill_at(event: str, path: str, times: int, by: int) -> None:
    """Arm the process."""
    pattern, seen = re.compile(path), []

    def hook(name: str, arguments: tuple) -> None:
        if name != event or not pattern.search(str(arguments[0])):
            return
        if name == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        seen.append(name)
        if len(seen) == times:
            os.kill(os.getpid(), by)

    sys.addaudithook(hook)


def child(task: dict, out: int, err: int) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    if task.get("kill"):
        kill_at(**task["kill"])
    sys.argv = ["run_all.py", *task["argv"]]
    status = 1
    try:
        launch(run_all.run)
        status = 0
    except SystemExit as ending:
        status = {None: 0}.get(ending.code, ending.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(task: dict) -> dict:
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = os.fork()
        if process == 0:
            child(task, out.fileno(), err.fileno())
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    seconds = time.monotonic() - started
    return {"status": code, "stdout": texts[0], "stderr": texts[1], "seconds": seconds}


if __name__ == "__main__":
    # Nothing has been computed yet, so no thread of JAX's is lost in the fork.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
    tasks = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps([run(task) for task in tasks]))
