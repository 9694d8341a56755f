"""The stores that the benchmarks write: random rows, chunk by chunk, also by a process to kill."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from g2is_jax.features.store import StoreConfig, StoreWriter

STARTED = "started"  # file of a process that is killed: the chunks it has started to compute
SHARED = 0.5  # of each row of features, the same for all: cosines of about a fifth


def random_features(rows: int, width: int) -> np.ndarray:
    """Draws rows that have a part in common, as features of one kind of gradient have."""
    draws = np.random.default_rng(0)
    features_NP = draws.standard_normal((rows, width), np.float32)
    return features_NP + np.float32(SHARED) * draws.standard_normal((1, width), np.float32)


class Pass(NamedTuple):
    """Seconds until the last chunk was handed over, and of writing those before it."""

    elapsed: float
    writing: float


def write_chunks(
    folder: epath.Path, rows: int, dtype: str, chunk_rows: int, compute: Callable[[slice], Any]
) -> Pass:
    """Writes a store of rows, a chunk of which `compute` returns; its layout is not timed."""
    places, ones = slices(rows, chunk_rows), np.ones(rows)
    with StoreWriter(folder, np.arange(rows), StoreConfig(dtype, chunk_rows)) as writer:
        done = writer.start([np.arange(rows)[place] for place in places])
        before, began = Pass(0.0, 0.0), time.perf_counter()
        for index, place in enumerate(places):
            if not done[index]:
                writer.write(index, compute(place), ones[place], ones[place])
                before = Pass(time.perf_counter() - began, writer.seconds)
    return before


def slices(rows: int, chunk_rows: int) -> list[slice]:
    return [slice(first, min(first + chunk_rows, rows)) for first in range(0, rows, chunk_rows)]


def start_writer(
    folder: Path, chunks: int, chunk_rows: int, width: int, seconds: float
) -> subprocess.Popen:
    """Starts a process that writes the store, from where an earlier one was killed."""
    values = (os.fspath(folder), chunks, chunk_rows, width, seconds)
    code = f"from experiments.bench.written_store import fill; fill{values}"
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])


def fill(folder: str, chunks: int, chunk_rows: int, width: int, seconds: float) -> None:
    """Writes the store; the log gets a line for each chunk that is started."""
    log, features_NP = Path(folder).parent / STARTED, random_features(chunks * chunk_rows, width)

    def compute(place: slice) -> Any:
        with log.open("a") as file:
            file.write(f"{place.start}\n")
        time.sleep(seconds)
        return features_NP[place]

    write_chunks(epath.Path(folder), len(features_NP), "int8", chunk_rows, compute)
