"""The two processes of a run, one played after the other: where they meet, and in which order."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from g2is_jax.runs import processes

QUESTION = "question"


def meetings(work: Callable[[], object]) -> tuple[list[str], list[str]]:
    """Returns the barriers (their names) and questions of the first process and of another.

    The other one hears the answers that the first one gave, and finds its files finished: what it
    would see of them by itself depends on the moment.
    """
    names: tuple[list[str], list[str]] = ([], [])
    answers: list[np.ndarray] = []  # of the first process
    for index in range(2):
        with pytest.MonkeyPatch.context() as patch:
            heard = iter(answers.copy())

            def gather(mine, index=index, heard=heard) -> np.ndarray:
                names[index].append(QUESTION)
                if index == 0:
                    answers.append(np.asarray(mine))
                return np.stack([np.asarray(mine) if index == 0 else next(heard, mine), mine])

            def barrier(key, timeout_ms, index=index) -> None:
                names[index].append(key)

            patch.setattr(processes._Run, "joined", True)
            patch.setattr(jax, "process_index", lambda index=index: index)
            patch.setattr(jax, "process_count", lambda: 2)
            patch.setattr(multihost_utils, "process_allgather", gather)
            patch.setattr(multihost, "get_barrier_sync_fn", lambda barrier=barrier: barrier)
            work()
    return names
