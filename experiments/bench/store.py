"""The feature store: speed, int8's error, writing beside computing, and what a kill costs.

    python -m experiments.bench.store --output=bench.json

Parts, by commas: `speed` (written and read, of each dtype), `error` (of cosines between rows of
int8), `hidden` (writing behind computing) and `kills` (of a process that writes). Files are read
again while the system still has them in memory, so what is measured is the work, not the disk.
"""

import operator
import os
import random
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments.bench.models import cosines
from experiments.bench.timing import (
    alternate,
    check_settings,
    heading,
    launch,
    measured,
    timed,
    usable_cores,
)
from experiments.bench.written_store import (
    STARTED,
    Pass,
    random_features,
    slices,
    start_writer,
    write_chunks,
)
from g2is_jax.features.rows import STORED
from g2is_jax.features.store import open_store
from g2is_jax.runs.errors import InputError

PARTS = ("speed", "error", "hidden", "kills")


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    parts: of speed, error, hidden and kills, by commas
    width: P
    rows: N of speed and error
    chunk_rows: rows of every chunk
    chunks: chunks of hidden and kills
    seconds: how long one of these is computed for
    kills: how many
    threads: cores that compute
    writer_cores: more cores, which only write
    repeats: rounds
    """

    parts: str = "speed,error,hidden,kills"
    width: int = 8192
    rows: int = 2048
    chunk_rows: int = 256
    chunks: int = 10
    seconds: float = 0.3
    kills: int = 8
    threads: int = 1
    writer_cores: int = 1
    repeats: int = 5

    def __post_init__(self):
        positive = ("width", "rows", "chunk_rows", "kills", "threads", "repeats")
        check_settings(self, PARTS, positive)
        if self.chunks < 2:
            raise InputError(f"--chunks is {self.chunks}; at least 2")

    @property
    def cores(self) -> int:
        return self.threads + self.writer_cores


def run(config: BenchConfig) -> dict:
    """Measures each part; with the machine and the versions that it was done on."""
    cores = usable_cores()[: config.threads]
    start_jax_on(cores)
    parts: dict[str, Callable] = {
        "speed": speed,
        "error": error,
        "hidden": hidden,
        "kills": kills,
    }
    result = measured(config, parts, ("jax", "numpy"))
    result["machine"]["cores"] = cores
    return result


def start_jax_on(cores: Sequence[int]) -> None:
    """Keeps the threads of jax, which are made here, to some of this process's cores."""
    if hasattr(os, "sched_setaffinity"):
        all_cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        jax.devices()
        os.sched_setaffinity(0, all_cores)


def speed(config: BenchConfig) -> dict:
    """Returns megabytes of the files a second, written and read, with checksums and conversion."""
    features_NP = random_features(config.rows, config.width)
    with tempfile.TemporaryDirectory() as name:
        home = epath.Path(name)
        calls: dict[tuple[str, str], Callable] = {}

        def written(dtype: str) -> None:
            for file in (home / dtype).glob("*"):
                file.unlink()
            write_chunks(
                home / dtype, config.rows, dtype, config.chunk_rows, features_NP.__getitem__
            )

        for dtype in STORED:
            calls[dtype, "written"] = lambda dtype=dtype: written(dtype)
            calls[dtype, "read"] = lambda dtype=dtype: open_store(home / dtype).read()
            written(dtype)
        seconds = {
            call: statistics.median(times)
            for call, times in alternate(calls, config.repeats).items()
        }
        sizes = {d: sum(f.stat().length for f in (home / d).glob("chunk-*")) for d in STORED}
    return {
        dtype: {
            "megabytes": sizes[dtype] / 1e6,
            **{f"{way}_mb_a_second": sizes[dtype] / 1e6 / seconds[dtype, way]
               for way in ("written", "read")},
            **{f"{way}_rows_a_second": config.rows / seconds[dtype, way]
               for way in ("written", "read")},
        }
        for dtype in STORED
    }  # fmt: skip


def error(config: BenchConfig) -> dict:
    """Returns each dtype's rms error of all cosines between rows, against float64."""
    features_NP = random_features(config.rows, config.width)
    truth_NN = cosines(features_NP)
    found = {"mean_cosine": float(np.mean(truth_NN[np.triu_indices(config.rows, 1)]))}
    with tempfile.TemporaryDirectory() as name:
        for dtype in STORED:
            folder = epath.Path(name) / dtype
            write_chunks(folder, config.rows, dtype, config.chunk_rows, features_NP.__getitem__)
            found[dtype] = rms_error(cosines(open_store(folder).read()[:]), truth_NN)
    return found


def rms_error(found_NN: Any, truth_NN: Any) -> float:
    """Returns the rms error over the pairs of different rows."""
    pairs = np.triu_indices(len(truth_NN), 1)
    return float(np.sqrt(np.mean((found_NN - truth_NN)[pairs] ** 2)))


def hidden(config: BenchConfig) -> dict:
    """Returns the share of the writing that takes no time of the pass, by what computes.

    `here`: a jitted loop on this machine's cores, which the writing may share; `elsewhere`: nothing
    on this machine, as where an accelerator computes. The last chunk has nothing to hide behind,
    and does not count.
    """
    here = jitted_work(config.seconds)
    waits = {"here": here, "elsewhere": lambda: time.sleep(config.seconds)}
    return {
        dtype: {name: one_pass(config, dtype, wait) for name, wait in waits.items()}
        for dtype in STORED
    }


def one_pass(config: BenchConfig, dtype: str, wait: Callable[[], object]) -> dict:
    rows, passes = config.chunk_rows * config.chunks, []
    features_NP = random_features(rows, config.width)

    def compute(place: slice) -> Any:
        wait()
        return features_NP[place].copy()

    def writing() -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = epath.Path(name) / "store"
            passes.append(write_chunks(folder, rows, dtype, config.chunk_rows, compute))

    def computing() -> None:
        for place in slices(rows, config.chunk_rows):
            compute(place)

    alone = alternate({"with": writing, "without": computing}, config.repeats)["without"]
    return {"passes": [p._asdict() for p in passes], "alone": alone, **hiding(passes, alone)}


def hiding(passes: Sequence[Pass], alone: Sequence[float]) -> dict[str, float]:
    """Returns medians: the hidden share of the writing, and how much longer the pass takes."""
    pairs = list(zip(passes, alone, strict=True))
    return {
        "hidden": statistics.median(1 - (p.elapsed - a) / p.writing for p, a in pairs),
        "longer": statistics.median((p.elapsed - a) / a for p, a in pairs),
    }


def jitted_work(seconds: float) -> Callable[[], object]:
    """Returns a compiled loop of matrix products that takes about so long."""
    x = jnp.eye(512) * 0.5

    @jax.jit
    def work(x: Any, times: Any) -> Any:
        return jax.lax.fori_loop(0, times, lambda _, y: (x @ y) + x, x)

    jax.block_until_ready(work(x, 1))
    tried = 50
    took = min(timed(lambda: jax.block_until_ready(work(x, tried)))[0] for _ in range(3))
    times = max(round(tried * seconds / took), 1)
    return lambda: jax.block_until_ready(work(x, times))


def kills(config: BenchConfig) -> dict:
    """Returns the chunks lost at each kill -9, at random moments; what the folder then holds."""
    draws, lost = random.Random(0), []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        whole = config.chunks * config.seconds
        for _ in range(config.kills):
            lost.append(
                killed(config, home / "store", draws.uniform(0.1, 0.9) * whole / config.kills)
            )
        finish(config, home / "store")
        finish(config, home / "uninterrupted")
        found, expected = contents(home / "store"), contents(home / "uninterrupted")
    same = all(found.get(name) == data for name, data in expected.items())
    left = sum(len(data) for name, data in found.items() if name not in expected)
    return {"lost_chunks": lost, "same_bytes": same, "left_over_bytes": left}


def killed(config: BenchConfig, folder: Path, after: float) -> int:
    """Kills a process so long after its first chunk, or when it has ended; returns how many
    chunks it had started and not marked done."""
    before, log = done_marks(folder), folder.parent / STARTED
    log.write_text("")
    child = writer_of(config, folder)
    while not log.read_text() and child.poll() is None:
        time.sleep(0.002)
    time.sleep(after)
    child.send_signal(signal.SIGKILL)
    child.wait()
    return len(log.read_text().split()) - (done_marks(folder) - before)


def finish(config: BenchConfig, folder: Path) -> None:
    if writer_of(config, folder).wait():
        raise RuntimeError(f"{folder}: the process that writes has failed")


def writer_of(config: BenchConfig, folder: Path) -> subprocess.Popen:
    return start_writer(folder, config.chunks, config.chunk_rows, config.width, config.seconds)


def done_marks(folder: Path) -> int:
    return len(list(folder.glob("chunk-*.done")))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def table(result: dict) -> str:
    """Summarises a result in a few lines."""
    s = result["settings"]
    lines = [f"{heading(result)}; {s['writer_cores']} more core(s) to write; "
             f"rows of {s['width']} values, {s['chunk_rows']} a chunk"]  # fmt: skip
    for dtype in STORED if set(result) & {"speed", "error", "hidden"} else ():
        parts = [f"{dtype:<9}"]
        if "speed" in result:
            rates = result["speed"][dtype]
            parts += [f"MB/s written {rates['written_mb_a_second']:,.0f}, "
                     f"read {rates['read_mb_a_second']:,.0f}"]  # fmt: skip
        if "error" in result:
            parts.append(f"rms cosine error {result['error'][dtype]:.1e}")
        if "hidden" in result:
            passes = result["hidden"][dtype].items()
            parts += [f"computing {n}: {p['hidden']:.1%} hidden, {p['longer']:.1%} longer"
                     for n, p in passes]  # fmt: skip
        lines.append("; ".join(parts))
    if "kills" in result:
        lost = ", ".join(map(str, result["kills"]["lost_chunks"]))
        same = "the same bytes" if result["kills"]["same_bytes"] else "OTHER bytes"
        left = result["kills"]["left_over_bytes"] / 1e6
        lines.append(
            f"chunks lost at each kill: {lost}; {same} as uninterrupted, {left:.1f} MB left over"
        )
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table, cores=operator.attrgetter("cores"))


if __name__ == "__main__":
    main()
