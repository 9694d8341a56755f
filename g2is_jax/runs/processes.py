"""Several processes that do one run: how they start, wait for each other, and end.

All of them run the same program. The first writes what is not shared out; nobody goes on from a
stage before all have finished it. A process that fails ends at once, and the others with it within
HEARTBEAT_SECONDS, so that a restart loop starts them all again. JAX ends those others from a thread
of its own, so that a shell beside each process has to say what is to be done.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from g2is_jax.runs.errors import FAILED
from g2is_jax.runs.stopping import STOPPED

if TYPE_CHECKING:
    import numpy as np

HEARTBEAT_SECONDS = 10  # after which a process that is silent is taken for dead
START_SECONDS = 600  # for the slowest process to come up
LAST_SECONDS = 3  # that the first process stays when all stop
WEEK_MS = 7 * 24 * 3600 * 1000  # a stage may take long; the dead are noticed by their heartbeats
GOES_ON = (
    "error: this process was killed, or ended as another process of the run did; unless one of "
    "them names a mistake, the same command on all of them goes on from what is finished"
)
# For a shell: its `read` fails where the process at the other end is gone without a word.
WATCH = 'trap "" INT TERM; read -r word || echo "$0" >&2'


class _Run:
    joined = False
    alone = False
    watch: subprocess.Popen | None = None


def start(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the other processes; without arguments the platform knows them (TPU, Slurm, Open MPI).

    Must come before anything else of jax.
    """
    import jax

    _Run.watch = subprocess.Popen(
        ["sh", "-c", WATCH, GOES_ON], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    atexit.register(_ends_in_order)  # before jax registers its own: runs after it
    jax.config.update("jax_enable_preemption_service", False)  # `stopping` handles SIGTERM
    jax.distributed.initialize(
        coordinator,
        processes,
        process,
        initialization_timeout=START_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=START_SECONDS,
    )
    _Run.joined = True


def process_share() -> tuple[int, int]:
    """Returns (index of this process, number of processes that share the work at hand)."""
    if _Run.alone or not _Run.joined:
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Lets this process work by itself within the block, and wait for no other."""
    before, _Run.alone = _Run.alone, True
    try:
        yield
    finally:
        _Run.alone = before


def is_first() -> bool:
    """Tells whether this process writes what is written once."""
    if not _Run.joined:
        return True
    import jax

    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when every process has come here; all must come to the same points in one order."""
    if process_share()[1] > 1:
        from orbax.checkpoint import multihost

        multihost.get_barrier_sync_fn()(key=what, timeout_ms=WEEK_MS)


def first_says(answer: bool) -> bool:
    """Returns the first process's answer."""
    return _answers(answer)[0]


def any_says(answer: bool) -> bool:
    """Tells whether any process's answer is yes."""
    return any(_answers(answer))


def gathered(mine: Any) -> list[Any]:
    """Returns the values of all processes, in their order: anything that JSON can hold."""
    if process_share()[1] == 1:
        return [mine]
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    data_B = np.frombuffer(json.dumps(mine).encode(), np.uint8)
    sizes = process_allgather(np.array(len(data_B))).tolist()
    padded = process_allgather(np.pad(data_B, (0, max(sizes) - len(data_B))))
    return [json.loads(bytes(data[:size])) for data, size in zip(padded, sizes, strict=True)]


def joined_columns(mine_LB: "np.ndarray") -> "np.ndarray":
    """Returns the columns of all processes side by side, in their order; each has its own number of
    them, and the same number of rows."""
    if process_share()[1] == 1:
        return mine_LB
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    sizes = process_allgather(np.array(mine_LB.shape[1])).tolist()
    padded_LB = np.pad(mine_LB, ((0, 0), (0, max(sizes) - mine_LB.shape[1])))
    parts = process_allgather(padded_LB)
    return np.concatenate([part[:, :n] for part, n in zip(parts, sizes, strict=True)], axis=1)


def _answers(answer: bool) -> list[bool]:
    if process_share()[1] == 1:
        return [answer]
    import numpy as np
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.array(answer)).tolist()


def end(status: int, why: str = "") -> None:
    """Ends a process that failed, if it is one of several.

    It does not wait for the others, as a normal end would.
    """
    if _Run.joined:
        if why:
            print(why, file=sys.stderr)
        if status in (FAILED, STOPPED):
            _ends_in_order()
        sys.stdout.flush()
        sys.stderr.flush()
        if status == STOPPED and is_first():  # the others lose it when it goes
            time.sleep(LAST_SECONDS)
        os._exit(status)


def _ends_in_order() -> None:
    """Tells the shell beside this process that it ends in order."""
    if _Run.watch is not None:
        with contextlib.suppress(OSError):
            _Run.watch.communicate(b"word\n")
