"""Reading a pool: seconds and peak memory from a file of many rows to their tokens.

    python -m experiments.bench.read_rows --rows=1000000 --source=pool.jsonl.gz --checkpoint=FOLDER

The rows of a file are written again and again, a tenth of each text's words replaced, until there
are so many. Each kind of file is read in a process of its own; its peak memory is counted above
that of the process before, with the tokenizer loaded.
"""

import dataclasses
import gzip
import itertools
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import tokenizers
from etils import epath

from experiments.bench.timing import heading, launch, machine, versions
from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.files import RowReader, read_rows
from g2is_jax.data.optional import import_optional
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.pipeline.datasets import read_dataset
from g2is_jax.runs.errors import InputError
from g2is_jax.skills.world import BASE_FOLDER, WorldConfig, write_world

KINDS = ("lines", "gzip", "parquet")
WORLD = WorldConfig(0, ("sorting_letters",), 1.0, 0.0, 0.0, 1, 1)
MB = 1e6


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    rows: of the file that is read
    source: file whose rows are varied, those of the built-in world if empty
    checkpoint: folder of the tokenizer, the built-in one if empty
    max_length: tokens of a row, at most
    kinds: kinds of file, by commas, of lines, gzip, parquet
    threads: cores to use
    """

    rows: int = 1_000_000
    source: str = ""
    checkpoint: str = ""
    max_length: int = 2_048
    kinds: str = "lines"
    threads: int = 1

    def __post_init__(self):
        for field in ("rows", "max_length", "threads"):
            if getattr(self, field) < 1:
                raise InputError(f"--{field} is {getattr(self, field)}; at least 1")
        for kind in self.kinds.split(","):
            if kind not in KINDS:
                raise InputError(f"--kinds: {kind!r} is none of {', '.join(KINDS)}")


def run(config: BenchConfig) -> dict:
    """Returns what reading each kind of file took."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "pool.jsonl"
        write(config, lines)
        found = {}
        for kind in config.kinds.split(","):
            file = as_kind(kind, lines)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                found[kind] = process.submit(read, file, config).result()
    return {
        "settings": dataclasses.asdict(config),
        "machine": machine(),
        "versions": versions(jax, tokenizers),
        "files": found,
    }


def write(config: BenchConfig, file: Path) -> None:
    """Writes so many rows with texts of their own."""
    rows = _source_rows(config.source)
    texts = [turn["content"] for row in rows for turn in row["messages"]]
    words = sorted({word for text in texts for word in text.split(" ")})
    draw = random.Random(0)
    with file.open("w") as stream:
        for number in range(config.rows):
            row = rows[number % len(rows)]
            turns = [
                {"role": turn["role"], "content": varied(turn["content"], words, draw)}
                for turn in row["messages"]
            ]
            own = {"id": f"row-{number}", "source": row["source"], "messages": turns}
            stream.write(json.dumps(own) + "\n")


def _source_rows(source: str) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        if not source:
            write_world(epath.Path(folder), WORLD)
        records = read_rows(source or f"{folder}/pool.jsonl", "drop").records
        return [
            {
                "source": record.source,
                "messages": [
                    {"role": turn.role, "content": turn.content} for turn in record.messages
                ],
            }
            for record in records
        ]


def varied(text: str, words: list[str], draw: random.Random) -> str:
    """Returns a text with a tenth of its words replaced, at least one."""
    own = text.split(" ")
    for _ in range(max(len(own) // 10, 1)):
        own[draw.randrange(len(own))] = draw.choice(words)
    return " ".join(own)


def as_kind(kind: str, lines: Path) -> Path:
    """Writes the rows of a file of lines as another kind of file."""
    file = lines.with_name(f"pool.{kind}")
    if kind == "lines":
        return lines
    if kind == "gzip":
        with lines.open("rb") as stream, gzip.open(file, "wb", compresslevel=1) as packed:
            packed.writelines(stream)
        return file
    parquet = import_optional("pyarrow.parquet", "--kinds=parquet writes a parquet file")
    arrow = import_optional("pyarrow", "--kinds=parquet writes a parquet file")
    tables = (arrow.Table.from_pylist(rows) for rows in _thousands(lines))
    first = next(tables)
    with parquet.ParquetWriter(file, first.schema) as writer:
        for rows in itertools.chain([first], tables):
            writer.write_table(rows)
    return file


def _thousands(lines: Path) -> Iterator[list[dict]]:
    rows = []
    with lines.open() as stream:
        for line in stream:
            rows.append(json.loads(line))
            if len(rows) == 1000:
                yield rows
                rows = []
    if rows:
        yield rows


def read(file: Path, config: BenchConfig) -> dict[str, float]:
    """Returns the seconds of the clock and of the processor, and bytes, that a file takes."""
    folder = epath.Path(config.checkpoint) if config.checkpoint else BASE_FOLDER
    chat = ChatFormat(load_tokenizer(folder), "auto")
    before, clock, processor = _peak_bytes(), time.perf_counter(), time.process_time()
    dataset = read_dataset(RowReader(file), "drop", chat, config.max_length)
    return {
        "rows": len(dataset.records),
        "tokens": int(dataset.encoded.lengths_N.sum()),
        "seconds": time.perf_counter() - clock,
        "processor_seconds": time.process_time() - processor,
        "file_bytes": os.path.getsize(file),
        "peak_bytes": _peak_bytes() - before,
    }


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def table(result: dict) -> str:
    """Returns a line a kind of file."""
    lines = [
        heading(result),
        "file         rows      tokens  seconds  of processor  rows/s  MB of file  peak MB",
    ]
    for kind, row in result["files"].items():
        lines.append(
            f"{kind:8} {row['rows']:8,} {row['tokens']:11,} {row['seconds']:8.1f} "
            f"{row['processor_seconds']:13.1f} {row['rows'] / row['seconds']:7,.0f} "
            f"{row['file_bytes'] / MB:11,.1f} {row['peak_bytes'] / MB:8,.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
