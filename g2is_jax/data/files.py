"""Reads files of instruction rows, and checks every row before any compute is spent on it."""

import functools
import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import dataclass

from etils import epath

from g2is_jax.data.bad_rows import BadRows
from g2is_jax.data.content import not_utf8, row_texts
from g2is_jax.data.formats import read_conversation
from g2is_jax.data.messages import Message, check_turns
from g2is_jax.data.row_fields import Columns, Fields
from g2is_jax.data.turns import Remarks
from g2is_jax.data.values import BadRow, is_absent, kind_of, label_of, text_of
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.hashing import file_hash

SUFFIXES = re.compile(r"(\.jsonl|\.json|\.ndjson)?(\.gz)?$", re.IGNORECASE)


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
class FileRows:
    """The good rows of a file, and what was found in reading it, counted in rows."""

    path: epath.Path
    records: list[Record]
    bad: BadRows
    shapes: Counter[str]
    notes: Counter[str]
    unread: Counter[str]
    by_hand: Columns  # those of the fields named by hand that some row has
    repeated_ids: int

    @functools.cached_property
    def digest(self) -> str:
        """The hashes of the file and of what was read in it, which may change with the reader."""
        read = hashlib.sha256()
        for record in self.records:
            fields = {**vars(record), "messages": list(map(vars, record.messages)), "line": ""}
            read.update(json.dumps(fields, sort_keys=True).encode())
        return f"{file_hash(self.path)} read as {read.hexdigest()[:16]}"

    def summary(self) -> list[str]:
        """Returns the lines that say how the file was read."""
        name = os.fspath(self.path)
        lines = [f"{name}: {len(self.records):,} rows read as {_counted(self.shapes)}"]
        lines += [f"{name}: {note} ({count:,} rows)" for note, count in sorted(self.notes.items())]
        if self.unread:
            lines.append(f"{name}: fields that are not read: {_counted(self.unread)}")
        if self.repeated_ids:
            lines.append(f"{name}: {self.repeated_ids:,} repeated ids got a number added")
        if self.bad.counts:
            lines.append(f"{name}: {len(self.bad):,} bad rows dropped, the first of each kind:")
            lines += [f"    {line}" for line in self.bad.lines()]
        return lines


def _counted(names: Counter[str]) -> str:
    ordered = sorted(names.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} ({count:,})" for name, count in ordered)


def read_records(
    path: epath.PathLike, need_answer: bool = False, columns: Columns = ()
) -> list[Record]:
    """Returns the rows of a file in its order; InputError names every reason for a bad one."""
    return read_rows(path, "stop", need_answer, columns).records


def read_rows(
    path: epath.PathLike, bad_rows: str, need_answer: bool = False, columns: Columns = ()
) -> FileRows:
    """Reads a file, in its order; each row is of any shape that `formats` knows.

    bad_rows: `drop` leaves bad rows out while they are few; `stop` raises InputError, as do many.
    columns: fields named by hand.
    """
    shapes, notes, unread = Counter[str](), Counter[str](), Counter[str]()
    records: list[Record] = []
    bad, ids, by_hand = BadRows(os.fspath(path)), _Ids(), dict[str, str]()
    row, stem = -1, file_stem(path)
    for row, (line, data) in enumerate(row_texts(path)):
        remarks = Remarks()
        try:
            text, value = _parse(data)
            fields = Fields(value, columns)
            shape, messages = read_conversation(fields, remarks)
            check_turns(messages)
            records.append(_record(row, fields, messages, text, need_answer, stem, ids))
        except BadRow as error:
            bad.add(line, str(error))
            continue
        shapes[shape] += 1
        notes.update(remarks.notes)
        unread.update(remarks.unread | fields.left())
        by_hand |= fields.by_hand
    bad.check(row + 1, bad_rows)
    if not records:
        raise InputError(f"{os.fspath(path)}: no rows; expected one JSON object per line")
    named = tuple(sorted(by_hand.items()))
    return FileRows(epath.Path(path), records, bad, shapes, notes, unread, named, ids.repeated)


def file_stem(path: epath.PathLike) -> str:
    """Returns a file's name without `.jsonl`, `.json` or `.ndjson`, packed or not."""
    return SUFFIXES.sub("", epath.Path(path).name)


class _Ids:
    """The ids given so far; one that was given already gets a number added."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._times: Counter[str] = Counter()
        self.repeated = 0

    def own(self, wanted: str) -> str:
        """Returns a row's own id, or the next one that is free; repeated ones are counted."""
        self.repeated += wanted in self._given
        return self.made(wanted)

    def made(self, wanted: str) -> str:
        """Returns an id that no row has yet."""
        free = wanted
        while free in self._given:
            self._times[wanted] += 1
            free = f"{wanted}-{self._times[wanted] + 1}"
        self._given.add(free)
        return free


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


def _record(
    row: int,
    fields: Fields,
    messages: tuple[Message, ...],
    text: str,
    need_answer: bool,
    stem: str,
    ids: _Ids,
) -> Record:
    own = _label(fields, "id")
    source = _label(fields, "source")
    for family in fields.spelled("family"):
        fields.take(family)  # beside a source it says nothing more
    task = _label(fields, "task") or stem
    subtask = _label(fields, "subtask") or task
    answer = _answer(fields, need_answer)
    row_id = ids.own(own) if own else ids.made(_hash(messages))
    return Record(row, row_id, source, task, subtask, answer, messages, text)


def _hash(messages: tuple[Message, ...]) -> str:
    """Hashes roles and texts, and which replies are not learned."""
    content = [
        [message.role, message.content, *(() if message.learned else (False,))]
        for message in messages
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


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
