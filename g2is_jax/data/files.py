"""Reads a file of instruction rows and checks each one before any compute is spent on it."""

import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from etils import epath

from g2is_jax.runs.errors import InputError

ROLES = ("system", "user", "assistant")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
# What a .gz file may unpack to: so many times its size, or so many bytes if that is more. Text
# unpacks to a few times its size, a file made to fill the memory to 1,000 times.
MOST_TIMES, FREE_BYTES = 100, 2**30


@dataclass(frozen=True)
class Message:
    role: str  # one of ROLES
    content: str


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
    """The checked rows of a `.jsonl` or `.jsonl.gz` file, in the order of the file.

    The format (messages, prompt/completion, Alpaca, ShareGPT) is recognised by the first row's keys
    and then asked of every row. Raises InputError, naming file, line and field.
    """
    stem = epath.Path(path).name.removesuffix(".gz").removesuffix(".jsonl")
    records: list[Record] = []
    line_of_id: dict[str, int] = {}
    times_hashed: dict[str, int] = {}
    format_name = None
    for number, line in _lines(path):
        place = f"{os.fspath(path)}:{number}"
        row = _parse(line, place)
        format_name = format_name or _recognise(row, place)
        messages = FORMATS[format_name](row, place)
        _check_turns(messages, place)
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


def _lines(path: epath.PathLike) -> Iterator[tuple[int, str]]:
    """(1-based number, text) of each line that is not blank."""
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
        raise InputError(f"{place}: the row is {_kind(row)}; expected a JSON object")
    return row


# The four formats: each turns a row into messages.


def _recognise(row: dict, place: str) -> str:
    for name, keys in FORMAT_KEYS.items():
        if all(key in row for key in keys):
            return name
    found = ", ".join(f'"{key}"' for key in row) or "none"
    raise InputError(
        f"{place}: format not recognised, the fields are {found}; a row needs "
        '"messages", or "conversations", or "prompt" and "completion", '
        'or "instruction" and "output"'
    )


def _from_messages(row: dict, place: str) -> tuple[Message, ...]:
    roles = {role: role for role in ROLES}
    return _turns(row, "messages", "role", "content", roles, place)


def _from_sharegpt(row: dict, place: str) -> tuple[Message, ...]:
    return _turns(row, "conversations", "from", "value", SHAREGPT_ROLES, place)


def _from_prompt(row: dict, place: str) -> tuple[Message, ...]:
    return (
        Message("user", _text(row, "prompt", place)),
        Message("assistant", _text(row, "completion", place)),
    )


def _from_alpaca(row: dict, place: str) -> tuple[Message, ...]:
    prompt = _text(row, "instruction", place)
    if row.get("input") is not None and (extra := _text(row, "input", place)):
        prompt = f"{prompt}\n\n{extra}"
    return Message("user", prompt), Message("assistant", _text(row, "output", place))


FORMAT_KEYS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
}
FORMATS: dict[str, Callable[[dict, str], tuple[Message, ...]]] = {
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
    "prompt": _from_prompt,
    "alpaca": _from_alpaca,
}


def _turns(
    row: dict, field: str, role_key: str, text_key: str, roles: dict[str, str], place: str
) -> tuple[Message, ...]:
    if field not in row:
        raise InputError(f'{place}: no "{field}"; the first row has it, so every row needs it')
    turns = row[field]
    if not isinstance(turns, list) or not turns:
        found = "empty" if turns == [] else _kind(turns)
        raise InputError(f'{place}: "{field}" is {found}; expected a list of messages')
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise InputError(
                f"{place}: message {number} is {_kind(turn)}; "
                f'expected an object with "{role_key}" and "{text_key}"'
            )
        for key in (role_key, text_key):
            if key not in turn:
                raise InputError(
                    f'{place}: message {number} has no "{key}"; '
                    f'every message needs "{role_key}" and "{text_key}"'
                )
        role = turn[role_key]
        if not isinstance(role, str) or role not in roles:
            raise InputError(
                f'{place}: message {number} has the unknown "{role_key}" {role!r}; '
                f"known are {', '.join(roles)}"
            )
        messages.append(Message(roles[role], _text(turn, text_key, f"{place}: message {number}")))
    return tuple(messages)


def _check_turns(messages: tuple[Message, ...], place: str) -> None:
    """System only first, then user and assistant in turn; some assistant text to learn from."""
    roles = [message.role for message in messages]
    first = 1 if roles[0] == "system" else 0
    for index in range(first, len(roles)):
        expected = "user" if (index - first) % 2 == 0 else "assistant"
        if roles[index] != expected:
            raise InputError(
                f"{place}: message {index + 1} is from {roles[index]}, expected {expected}; "
                "an optional system message comes first, then user and assistant in turn"
            )
    if "assistant" not in roles:
        raise InputError(f"{place}: no assistant message; there is nothing to learn from this row")
    if not any(message.content.strip() for message in messages if message.role == "assistant"):
        raise InputError(
            f"{place}: no assistant message has any text; fill it or leave the row out"
        )


# Single fields.


def _text(row: dict, key: str, place: str) -> str:
    if key not in row:
        raise InputError(f'{place}: no "{key}"; the first row has it, so every row needs it')
    text = row[key]
    if not isinstance(text, str):
        raise InputError(f'{place}: "{key}" is {_kind(text)}; expected a string')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f'{place}: "{key}" holds half of a surrogate pair (character {error.start + 1}); '
            "write the whole character"
        ) from error
    return text


def _own_id(row: dict, place: str) -> str | None:
    own = row.get("id")
    if own is None or own == "":
        return None
    if isinstance(own, bool) or not isinstance(own, str | int):
        raise InputError(f'{place}: "id" is {_kind(own)}; expected a string or a whole number')
    return str(own) if isinstance(own, int) else _text(row, "id", place)


def _hashed_id(messages: tuple[Message, ...], times_hashed: dict[str, int]) -> str:
    """A hash of roles and texts; a repeated row gets its count appended, so that ids differ."""
    content = json.dumps([[message.role, message.content] for message in messages])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    times = times_hashed[digest] = times_hashed.get(digest, 0) + 1
    return digest if times == 1 else f"{digest}-{times}"


def _label(row: dict, key: str, place: str) -> str | None:
    return None if row.get(key) is None else _text(row, key, place)


def _answer(row: dict, place: str, needed: bool) -> str | None:
    answer = row.get("answer")
    if not needed:
        return answer if isinstance(answer, str) else None
    if answer is None or answer == "":
        found = "no" if "answer" not in row else "an empty"
        raise InputError(f'{place}: {found} "answer"; an evaluation row needs its gold answer')
    return _text(row, "answer", place)


def _kind(value: object) -> str:
    """What a JSON value is, in words for an error message."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    return (
        "null"
        if value is None
        else names.get(type(value), "an object" if isinstance(value, dict) else "a list")
    )
