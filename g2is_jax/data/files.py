"""Reads files of instruction rows, and checks every row before any compute is spent on it."""

import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from etils import epath

from g2is_jax.data.formats import (
    Format,
    Message,
    check_turns,
    kind_of,
    recognise,
    text_field,
)
from g2is_jax.runs.errors import InputError

# What a .gz file may unpack to: so many times its size, or so many bytes if that is more. Text
# unpacks to a few times its size, a file made to fill the memory to 1,000 times.
MOST_TIMES, FREE_BYTES = 100, 2**30


@dataclass(frozen=True)
class Record:
    """One row of a pool, validation or test file."""

    row: int  # 0-based position among the file's records
    id: str
    source: str
    task: str
    subtask: str
    answer: str | None
    messages: tuple[Message, ...]
    line: str  # as it stands in the file, without its newline


def read_records(path: epath.PathLike, need_answer: bool = False) -> list[Record]:
    """Returns the checked rows of a `.jsonl` or `.jsonl.gz` file, in the order of the file.

    The format (messages, prompt/completion, Alpaca, ShareGPT) is recognised by the first row's keys
    and then asked of every row. Raises InputError, naming file, line and field.
    """
    stem = file_stem(path)
    records: list[Record] = []
    line_of_id: dict[str, int] = {}
    times_hashed: dict[str, int] = {}
    read: Format | None = None
    for number, line in _lines(path):
        place = f"{os.fspath(path)}:{number}"
        row = _parse(line, place)
        read = read or recognise(row, place)
        messages = read(row, place)
        check_turns(messages, place)
        row_id = _own_id(row, place)
        if row_id is None:
            row_id = _hashed_id(messages, times_hashed)
        if row_id in line_of_id:
            raise InputError(
                f'{place}: "id" {row_id!r} is also that of line {line_of_id[row_id]}; '
                "ids must differ, or leave the field out to have one made from the content"
            )
        line_of_id[row_id] = number
        task = _label(row, "task", place) or stem
        records.append(
            Record(
                row=len(records),
                id=row_id,
                source=_label(row, "source", place) or _label(row, "family", place) or "",
                task=task,
                subtask=_label(row, "subtask", place) or task,
                answer=_answer(row, place, need_answer),
                messages=messages,
                line=line,
            )
        )
    if not records:
        raise InputError(f"{os.fspath(path)}: no rows; expected one JSON object per line")
    return records


def file_stem(path: epath.PathLike) -> str:
    """Returns a file's name without `.jsonl` or `.jsonl.gz`."""
    return epath.Path(path).name.removesuffix(".gz").removesuffix(".jsonl")


def _lines(path: epath.PathLike) -> Iterator[tuple[int, str]]:
    """Yields (1-based number, text) of each line that is not blank."""
    data = _read_bytes(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{os.fspath(path)}:{number}: byte 0x{data[error.start]:02x} is not UTF-8; "
            "convert the file to UTF-8"
        ) from error
    # Not splitlines(): JSON strings may hold U+2028 and other separators that it would cut at.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _read_bytes(path: epath.PathLike) -> bytes:
    file, name = epath.Path(path), os.fspath(path)
    if not name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{name}: not a .jsonl or .jsonl.gz file; convert or rename it")
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file; check the path") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error}; check the path") from error
    if not name.endswith(".gz"):
        return data
    try:
        return _unpacked(data, name)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{name}: the gzip data is damaged or cut short ({error}); copy the file again"
        ) from error


def _unpacked(data: bytes, name: str) -> bytes:
    pieces, left = [], max(MOST_TIMES * len(data), FREE_BYTES)
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        while piece := stream.read(2**20):
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                raise InputError(
                    f"{name}: unpacks to over {MOST_TIMES} times its size; if it is to be so, "
                    "unpack it by gunzip and give the .jsonl file"
                )
    return b"".join(pieces)


def _parse(line: str, place: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}: not JSON ({error.msg} at column {error.colno}); "
            "expected one JSON object per line"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON that can be read ({error}); mend the line") from error
    if not isinstance(row, dict):
        raise InputError(f"{place}: the row is {kind_of(row)}; expected a JSON object")
    return row


def _own_id(row: dict, place: str) -> str | None:
    own = row.get("id")
    if own is None or own == "":
        return None
    if isinstance(own, bool) or not isinstance(own, str | int):
        raise InputError(f'{place}: "id" is {kind_of(own)}; expected a string or a whole number')
    return str(own) if isinstance(own, int) else text_field(row, "id", place)


def _hashed_id(messages: tuple[Message, ...], times_hashed: dict[str, int]) -> str:
    """Hashes roles and texts; a repeated row gets its count appended, so that ids differ."""
    content = json.dumps([[message.role, message.content] for message in messages])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    times = times_hashed[digest] = times_hashed.get(digest, 0) + 1
    return digest if times == 1 else f"{digest}-{times}"


def _label(row: dict, key: str, place: str) -> str | None:
    return None if row.get(key) is None else text_field(row, key, place)


def _answer(row: dict, place: str, needed: bool) -> str | None:
    answer = row.get("answer")
    if not needed:
        return answer if isinstance(answer, str) else None
    if answer is None or answer == "":
        found = "no" if "answer" not in row else "an empty"
        raise InputError(f'{place}: {found} "answer"; an evaluation row needs its gold answer')
    return text_field(row, "answer", place)
