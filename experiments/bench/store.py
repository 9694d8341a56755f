"""The feature store: speed, int8's error, writing beside computing, and what a kill costs.

    python -m experiments.bench_store --output=bench.json

Parts, by commas: `speed` (written and read, of each dtype), `error` (of cosines between rows of
int8), `hidden` (writing behind computing) and `kills` (of a process that writes). Files are read
again while the system still has them in memory, so what is measured is the work, not the disk.
"""

import dataclasses
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from experiments.bench.timing import (
    alternate,
    check_settings,
    heading,
    launch,
    machine,
    pin,
    timed,
    versions,
)
from g2is_jax.runs.errors import InputError

PARTS = ("speed", "error", "hidden", "kills")
DTYPES = ("float32", "bfloat16", "int8")
BEGUN = "begun"  # file of a process that is killed: the chunks it has begun to compute
SHARED = 0.5  # of each row of features, the same for all: cosines of about a fifth


@dataclass(frozen=True)
class BenchConfig:
    """parts: as above; width: P; rows: N, of `speed` and `error`; chunk_rows: of every chunk;
    chunks: of `hidden` and `kills`; seconds: that one of these is computed for; kills: how many;
    threads: cores that compute; writer_cores: more cores, that only write; repeats: rounds."""

    parts: str
    width: int
    rows: int
    chunk_rows: int
    chunks: int
    seconds: float
    kills: int
    threads: int
    writer_cores: int
    repeats: int

    def __post_init__(self):
        positive = ("width", "rows", "chunk_rows", "kills", "threads", "repeats")
        check_settings(self, PARTS, positive)
        if self.chunks < 2:
            raise InputError(f"--chunks is {self.chunks}; at least 2")


def run(config: BenchConfig) -> dict:
    """The parts' measurements, with the machine and the versions they were made on."""
    cores = pin(config.threads + config.writer_cores)
    pin(config.threads)
    import jax
    import numpy as np

    jax.devices()  # its threads are made here, and stay on the cores that compute
    os.sched_setaffinity(0, cores)
    parts = {"speed": speed, "error": error, "hidden": hidden, "kills": kills}
    return {
        "settings": dataclasses.asdict(config),
        "machine": machine(cores[: config.threads]),
        "versions": versions(jax, np),
        **{part: parts[part](config) for part in config.parts.split(",")},
    }


def random_features(rows: int, width: int) -> Any:
    """Rows that have a part in common, as features of one kind of gradient have."""
    import numpy as np

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
    """A store of rows, a chunk of which `compute` returns; its layout is not timed."""
    import numpy as np

    from g2is_jax.features.store import StoreConfig, StoreWriter

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


def speed(config: BenchConfig) -> dict:
    """Megabytes of the files a second, written and read, checksums and conversion included."""
    from g2is_jax.features.store import open_store

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

        for dtype in DTYPES:
            calls[dtype, "written"] = lambda dtype=dtype: written(dtype)
            calls[dtype, "read"] = lambda dtype=dtype: open_store(home / dtype).read()
            written(dtype)
        seconds = {
            call: statistics.median(times)
            for call, times in alternate(calls, config.repeats).items()
        }
        sizes = {d: sum(f.stat().length for f in (home / d).glob("chunk-*")) for d in DTYPES}
    return {
        dtype: {
            "megabytes": sizes[dtype] / 1e6,
            **{f"{way}_mb_a_second": sizes[dtype] / 1e6 / seconds[dtype, way]
               for way in ("written", "read")},
            **{f"{way}_rows_a_second": config.rows / seconds[dtype, way]
               for way in ("written", "read")},
        }
        for dtype in DTYPES
    }  # fmt: skip


def error(config: BenchConfig) -> dict:
    """Rms error of all cosines between rows, of each dtype against float64 of what was written."""
    import numpy as np

    from experiments.bench.models import cosines
    from g2is_jax.features.store import open_store

    features_NP = random_features(config.rows, config.width)
    truth_NN = cosines(features_NP)
    found = {"mean_cosine": float(np.mean(truth_NN[np.triu_indices(config.rows, 1)]))}
    with tempfile.TemporaryDirectory() as name:
        for dtype in DTYPES:
            folder = epath.Path(name) / dtype
            write_chunks(folder, config.rows, dtype, config.chunk_rows, features_NP.__getitem__)
            found[dtype] = rms_error(cosines(open_store(folder).read()[:]), truth_NN)
    return found


def rms_error(found_NN: Any, truth_NN: Any) -> float:
    """Over the pairs of different rows."""
    import numpy as np

    pairs = np.triu_indices(len(truth_NN), 1)
    return float(np.sqrt(np.mean((found_NN - truth_NN)[pairs] ** 2)))


def hidden(config: BenchConfig) -> dict:
    """Share of the writing that takes no time of the pass, by what computes.

    `here`: a jitted loop on this machine's cores, which the writing may share; `elsewhere`: nothing
    on this machine, as where an accelerator computes. The last chunk has nothing to hide behind,
    and does not count.
    """
    here = jitted_work(config.seconds)
    waits = {"here": here, "elsewhere": lambda: time.sleep(config.seconds)}
    return {
        dtype: {name: one_pass(config, dtype, wait) for name, wait in waits.items()}
        for dtype in DTYPES
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
    """Medians of rounds: the hidden share of the writing, and how much longer the pass takes."""
    pairs = list(zip(passes, alone, strict=True))
    return {
        "hidden": statistics.median(1 - (p.elapsed - a) / p.writing for p, a in pairs),
        "longer": statistics.median((p.elapsed - a) / a for p, a in pairs),
    }


def jitted_work(seconds: float) -> Callable[[], object]:
    """A compiled loop of matrix products that takes about so long."""
    import jax
    import jax.numpy as jnp

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
    """Chunks begun and lost at each kill -9, at random moments; what the folder then holds."""
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
    """Chunks that the process had begun and not marked done; it is killed so long after its
    first, or when it has ended."""
    before, log = done_marks(folder), folder.parent / BEGUN
    log.write_text("")
    child = started(config, folder)
    while not log.read_text() and child.poll() is None:
        time.sleep(0.002)
    time.sleep(after)
    child.send_signal(signal.SIGKILL)
    child.wait()
    return len(log.read_text().split()) - (done_marks(folder) - before)


def finish(config: BenchConfig, folder: Path) -> None:
    if started(config, folder).wait():
        raise RuntimeError(f"{folder}: the process that writes has failed")


def started(config: BenchConfig, folder: Path) -> subprocess.Popen:
    """A process that writes the store, from where an earlier one was killed."""
    values = (os.fspath(folder), config.chunks, config.chunk_rows, config.width, config.seconds)
    code = f"from experiments.bench_store import fill; fill{values}"
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])


def fill(folder: str, chunks: int, chunk_rows: int, width: int, seconds: float) -> None:
    """Write the store; a line of the log tells of each chunk that is begun."""
    log, features_NP = Path(folder).parent / BEGUN, random_features(chunks * chunk_rows, width)

    def compute(place: slice) -> Any:
        with log.open("a") as file:
            file.write(f"{place.start}\n")
        time.sleep(seconds)
        return features_NP[place]

    write_chunks(epath.Path(folder), len(features_NP), "int8", chunk_rows, compute)


def done_marks(folder: Path) -> int:
    return len(list(folder.glob("chunk-*.done")))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def table(result: dict) -> str:
    """What a reader wants to know of a result, in a few lines."""
    s = result["settings"]
    lines = [f"{heading(result)}; {s['writer_cores']} more core(s) to write; "
             f"rows of {s['width']} values, {s['chunk_rows']} a chunk"]  # fmt: skip
    for dtype in DTYPES if set(result) & {"speed", "error", "hidden"} else ():
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
    defaults = BenchConfig("speed,error,hidden,kills", 8192, 2048, 256, 10, 0.3, 8, 1, 1, 5)
    launch(run, defaults, table)


if __name__ == "__main__":
    main()
