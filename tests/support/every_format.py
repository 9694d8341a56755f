"""The same rows in every kind of file that is read."""

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


def lines(rows: Sequence[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _csv(rows: Sequence[dict], file: Path) -> None:
    """Turns as JSON in a cell."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(
            {
                name: json.dumps(value) if isinstance(value, list) else value
                for name, value in row.items()
            }
            for row in rows
        )


def _zstd(rows: Sequence[dict], file: Path) -> None:
    import pyarrow

    file.write_bytes(pyarrow.Codec("zstd").compress(lines(rows), asbytes=True))


def _parquet(rows: Sequence[dict], file: Path) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file, row_group_size=100)


def _saved(rows: Sequence[dict], file: Path) -> None:
    import datasets

    datasets.Dataset.from_list(list(rows)).save_to_disk(str(file))


FORMATS: dict[str, Callable[[Sequence[dict], Path], object]] = {
    "lines": lambda rows, file: file.write_bytes(lines(rows)),
    "array": lambda rows, file: file.write_text(json.dumps(rows, indent=1)),
    "array in one line": lambda rows, file: file.write_text(json.dumps(rows)),
    "gzip": lambda rows, file: file.write_bytes(gzip.compress(lines(rows))),
    "csv": _csv,
    "zstd": _zstd,
    "parquet": _parquet,
    "saved": _saved,
}
OF_EXTRA = ("zstd", "parquet", "saved")


def write_as(kind: str, rows: Sequence[dict], file: Path) -> Path:
    """Writes rows as a kind of FORMATS; the test is skipped where the extra is missing."""
    if kind in OF_EXTRA:
        pytest.importorskip("datasets", reason='needs the extra: pip install -e ".[data]"')
    FORMATS[kind](rows, file)
    return file
