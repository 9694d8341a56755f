"""Rows as records: what a row says, and the good rows of a file, read back one by one."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from g2is_jax.data.formats import read_conversation
from g2is_jax.data.lines import Lines
from g2is_jax.data.messages import Message, check_turns
from g2is_jax.data.row_fields import Columns, Fields
from g2is_jax.data.turns import Remarks
from g2is_jax.data.values import BadRow, is_absent, kind_of, label_of, not_utf8, text_of


@dataclass(frozen=True)
class Record:
    """One row of a pool, validation or test file."""

    row: int  # 0-based position among all rows of the file, bad ones included
    id: str
    source: str
    task: str
    subtask: str
    answer: str | None
    messages: tuple[Message, ...]
    line: str  # as it stands in the file, without its newline


@dataclass(frozen=True)
class Reading:
    """How the rows of a file are read.

    stem: the task of rows that name none. columns: fields named by hand. need_answer: each row has
    its gold answer.
    """

    stem: str
    columns: Columns
    need_answer: bool


@dataclass(frozen=True)
class RowRead:
    """Holds what a row says, its shape, and what was noticed."""

    record: Record
    shape: str
    notes: set[str]
    unread: set[str]
    by_hand: dict[str, str]


def read_row(
    number: int,
    data: bytes | BadRow,
    how: Reading,
    id_of: Callable[[str, Sequence[Message]], str],
) -> RowRead:
    """Reads a row of any shape that `formats` knows; BadRow says why it cannot be learned from.

    id_of: gives the row its id, by its own one, which may be empty, and its messages.
    """
    if isinstance(data, BadRow):
        raise data
    remarks = Remarks()
    text, value = _parse(data)
    fields = Fields(value, how.columns)
    shape, messages = read_conversation(fields, remarks)
    check_turns(messages)
    own = _label(fields, "id")
    source = _label(fields, "source")
    for family in fields.spelled("family"):
        fields.take(family)  # beside a source it says nothing more
    task = _label(fields, "task") or how.stem
    subtask = _label(fields, "subtask") or task
    answer = _answer(fields, how.need_answer)
    row_id = id_of(own, messages)
    record = Record(number, row_id, source, task, subtask, answer, messages, text)
    unread = remarks.unread | fields.left()
    return RowRead(record, shape, remarks.notes, unread, fields.by_hand)


def prompt(record: Record) -> str:
    """Returns the messages of a row before its last reply."""
    last = max(i for i, message in enumerate(record.messages) if message.role == "assistant")
    return "\n".join(message.content for message in record.messages[:last])


def whole(record: Record) -> str:
    """Returns every message of a row."""
    return "\n".join(message.content for message in record.messages)


def made_id(messages: Sequence[Message]) -> str:
    """Hashes roles and texts, and which replies are not learned."""
    content = [
        [message.role, message.content, *(() if message.learned else (False,))]
        for message in messages
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


class Records(Sequence[Record]):
    """The good rows of a file, in its order.

    Numbers, ids and sources are in memory, an array of each. The lines are in a file on this
    machine's disk; a record is read again from its line where it is asked for.

    numbers_N: int64, of each row among all rows of the file, from 0. ids_N, sources_N: texts.
    """

    def __init__(
        self,
        lines: Lines,
        how: Reading,
        numbers_N: np.ndarray,
        ids_N: np.ndarray,
        sources_N: np.ndarray,
    ):
        self.lines, self._how = lines, how
        self.numbers_N, self.ids_N, self.sources_N = numbers_N, ids_N, sources_N

    def __len__(self) -> int:
        return len(self.numbers_N)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> "Records": ...

    def __getitem__(self, index: int | slice) -> "Record | Records":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        number, row_id = int(self.numbers_N[index]), self.ids_N[index]
        return read_row(number, self.lines[index], self._how, lambda *_: row_id).record

    def known(self, row: int) -> dict[str, int | str]:
        """Returns the fields by which people know a row, without reading its line."""
        number, row_id, source = self.numbers_N[row], self.ids_N[row], self.sources_N[row]
        return {"row": int(number), "id": row_id, "source": source}

    def take(self, rows: Sequence[int] | np.ndarray) -> "Records":
        """Returns some of the rows, whose lines stay where they are."""
        rows_K = np.asarray(rows, np.int64)
        columns = (self.numbers_N, self.ids_N, self.sources_N)
        return Records(self.lines.take(rows_K), self._how, *(column[rows_K] for column in columns))


def _parse(data: bytes) -> tuple[str, dict]:
    """Returns a row's text, and the JSON object that it is."""
    try:
        text = data.decode("utf-8")
        row = json.loads(text)
    except UnicodeDecodeError as error:
        raise BadRow(not_utf8(error)) from error
    except json.JSONDecodeError as error:
        raise BadRow(
            f"not JSON ({error.msg} at column {error.colno}); expected one JSON object per line"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not JSON that can be read ({error}); mend the line") from error
    if not isinstance(row, dict):
        raise BadRow(f"the row is {kind_of(row)}; expected a JSON object")
    return text, row


def _label(fields: Fields, part: str) -> str:
    key = fields.find(part)
    return label_of(fields.take(key), f'"{key}"') if key else ""


def _answer(fields: Fields, needed: bool) -> str | None:
    """Returns the gold answer: where it is the reply too, what follows GSM8K's mark in it."""
    key = fields.find("answer")
    if key and not needed and isinstance(fields.row[key], bool | list | dict):
        return None  # a field of another meaning
    if key:
        return text_of(fields.take(key), f'"{key}"')
    key = next(iter(fields.names("answer")), None)
    if key and not is_absent(fields.row[key]):
        return text_of(fields.row[key], f'"{key}"').rpartition("####")[2].strip()
    if needed:
        found = "an empty" if key else "no"
        raise BadRow(f'{found} "answer"; an evaluation row needs its gold answer')
    return None
