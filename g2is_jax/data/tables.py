"""Rows of parquet and Arrow files, of saved data sets and of data sets of the Hugging Face hub, as
JSON; the libraries for them are the extra `[data]`."""

import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from g2is_jax.data.optional import import_optional
from g2is_jax.data.row_fields import TURNS
from g2is_jax.data.transcripts import turns_from_columns
from g2is_jax.data.values import Row
from g2is_jax.runs.errors import InputError

ROWS_AT_ONCE = 1000
SAVED, SAVED_SPLITS = "dataset_info.json", "dataset_dict.json"


def is_saved(path: epath.PathLike) -> bool:
    """Tells whether a path is a data set that the library `datasets` saved, or several splits."""
    folder = epath.Path(path)
    return any((folder / name).exists() for name in (SAVED, SAVED_SPLITS))


def saved_rows(path: epath.PathLike) -> Iterator[Row]:
    """Yields (1-based number, JSON object) of each row of a data set that was saved to a folder."""
    name, folder = os.fspath(path), epath.Path(path)
    datasets = import_optional("datasets", f"{name}: a saved data set")
    if (folder / SAVED_SPLITS).exists():
        splits = json.loads((folder / SAVED_SPLITS).read_text())["splits"]
        if len(splits) > 1:
            raise InputError(
                f"{name}: a saved data set of the splits {', '.join(splits)}; name the folder of "
                f"one, as in {folder / splits[0]}"
            )
        name = os.fspath(folder / splits[0])
    try:
        found = datasets.load_from_disk(name)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{name}: {_unreadable('a saved data set', error)}") from error
    return numbered(dataset_batches(found))


def dataset_batches(found: Any) -> Iterator[Any]:
    """Yields the rows of a data set as Arrow tables."""
    return found.with_format("arrow").iter(batch_size=ROWS_AT_ONCE)


def _parquet_rows(path: epath.PathLike) -> Iterator[Row]:
    name = os.fspath(path)
    parquet = import_optional("pyarrow.parquet", f"{name}: a parquet file")
    with epath.Path(path).open("rb") as file:
        try:
            batches = parquet.ParquetFile(file).iter_batches(batch_size=ROWS_AT_ONCE)
            yield from numbered(batches)
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: {_unreadable('a parquet file', error)}") from error


def _arrow_rows(path: epath.PathLike) -> Iterator[Row]:
    name = os.fspath(path)
    ipc = import_optional("pyarrow.ipc", f"{name}: an Arrow file")
    with epath.Path(path).open("rb") as file:
        try:
            if file.read(6) == b"ARROW1":
                reader = ipc.open_file(file)
                batches = map(reader.get_batch, range(reader.num_record_batches))
            else:
                file.seek(0)
                batches = iter(ipc.open_stream(file))
            yield from numbered(batches)
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: {_unreadable('an Arrow file', error)}") from error


# How a file of a table begins -> the reader of its rows.
TABLES = {b"PAR1": _parquet_rows, b"ARROW1": _arrow_rows, b"\xff\xff\xff\xff": _arrow_rows}


def numbered(batches: Iterator[Any]) -> Iterator[Row]:
    """Yields (1-based number, JSON object) of the rows of Arrow tables, without absent fields."""
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            there = {
                key: _turns(value) if key.lower() in TURNS and isinstance(value, dict) else value
                for key, value in row.items()
                if value is not None
            }
            yield number, json.dumps(there, ensure_ascii=False, default=_as_json).encode()


def _turns(value: dict) -> object:
    """Returns the list of turns whose fields are lists of their own, as older versions of
    `datasets` store them."""
    return turns_from_columns(value) or value


def _as_json(value: object) -> object:
    """Returns a value that JSON lacks as one that it has: bytes as their text, others as text."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"bytes": len(value)}


def _unreadable(what: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"{what}: cannot be read ({type(error).__name__}: {reason}); copy it again"
