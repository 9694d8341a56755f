"""Reads files of instruction rows, and checks every row before any compute is spent on it."""

import functools
import hashlib
import json
import os
import re
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from etils import epath

from g2is_jax.data.bad_rows import BadRows
from g2is_jax.data.content import row_texts
from g2is_jax.data.hub_sets import HubSet, Place, load_hub_set, place_of_rows
from g2is_jax.data.lines import LineFile
from g2is_jax.data.messages import Message
from g2is_jax.data.records import Reading, Record, Records, RowRead, made_id, read_row
from g2is_jax.data.row_fields import Columns
from g2is_jax.data.tables import dataset_batches, numbered
from g2is_jax.data.values import BadRow, Row
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.hashing import file_hash

SUFFIXES = re.compile(
    r"(\.jsonl|\.json|\.ndjson|\.csv|\.tsv|\.parquet|\.arrow)?(\.gz|\.zst)?$", re.IGNORECASE
)
TEXTS = np.dtypes.StringDType()  # of any length, in one array
Written = TypeVar("Written")


@dataclass(frozen=True)
class FileRows:
    """The good rows of a file, and what was found in reading it, counted in rows.

    content: a hash of what was read, which may change with the reader.
    """

    path: Place
    records: Records
    bad: BadRows
    shapes: Counter[str]
    notes: Counter[str]
    unread: Counter[str]
    by_hand: Columns  # those of the fields named by hand that some row has
    repeated_ids: int
    content: str

    @functools.cached_property
    def digest(self) -> str:
        """The hashes of the file and of what was read in it."""
        return f"{_hash_of(self.path)} read as {self.content[:16]}"

    def summary(self) -> list[str]:
        """Returns the lines that say how the file was read."""
        name = os.fspath(self.path)
        found = reading_lines(self.shapes, self.notes, self.unread, self.repeated_ids)
        lines = [f"{name}: {line}" for line in found]
        if len(self.bad):
            lines.append(f"{name}: {len(self.bad):,} bad rows dropped, the first of each kind:")
            lines += [f"    {line}" for line in self.bad.lines()]
        return lines


def reading_lines(
    shapes: Mapping[str, int],
    notes: Mapping[str, int],
    unread: Mapping[str, int],
    repeated_ids: int,
) -> list[str]:
    """Returns lines that say how the good rows of a file were read."""
    lines = [f"{sum(shapes.values()):,} rows read as {counted(shapes) or 'nothing'}"]
    lines += [f"{note} ({count:,} rows)" for note, count in sorted(notes.items())]
    if unread:
        lines.append(f"fields that are not read: {counted(unread)}")
    if repeated_ids:
        lines.append(f"{repeated_ids:,} repeated ids got a number added")
    return lines


def _hash_of(place: Place) -> str:
    """Returns the hash of a file or folder; the commit, config and split of a hub's data set."""
    if isinstance(place, HubSet):
        return os.fspath(place)
    if not place.is_dir():
        return file_hash(place)
    files = sorted(file for file in place.iterdir() if file.is_file())
    hashes = [[file.name, file_hash(file)] for file in files]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def counted(names: Mapping[str, int], most: int | None = None) -> str:
    """Returns names with their counts, the most frequent first, and how many more there are."""
    ordered = sorted(names.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{name} ({count:,})" for name, count in ordered[:most]]
    more = len(ordered) - len(shown)
    return ", ".join([*shown, *([f"{more:,} more"] if more else [])])


def read_records(
    path: epath.PathLike, need_answer: bool = False, columns: Columns = ()
) -> list[Record]:
    """Returns the rows of a file in its order; InputError names every reason for a bad one."""
    reader = RowReader(path, need_answer, columns)
    records = list(reader)
    reader.found("stop")
    return records


def read_rows(
    path: epath.PathLike, bad_rows: str, need_answer: bool = False, columns: Columns = ()
) -> FileRows:
    """Reads a file to its end; arguments as of `RowReader` and of what it has found."""
    reader = RowReader(path, need_answer, columns)
    for _ in reader:
        pass
    return reader.found(bad_rows)


class RowReader:
    """Reads a file once, in its order; each row is of any shape that `formats` knows.

    need_answer: a row without its gold answer is bad. columns: fields named by hand. Bad rows,
    shapes, notes, unread fields and those found by hand are of the rows so far.
    """

    def __init__(self, path: epath.PathLike, need_answer: bool = False, columns: Columns = ()):
        self.path = place_of_rows(path)
        self._how = Reading(file_stem(path), columns, need_answer)
        self.bad = BadRows(os.fspath(path))
        self.shapes, self.notes, self.unread = Counter[str](), Counter[str](), Counter[str]()
        self.by_hand: dict[str, str] = {}
        self._content = hashlib.sha256()
        self._lines, self._numbers = LineFile(), array("q")
        self._ids, self._own_ids, self._sources = _Ids(), list[str](), list[str]()
        self._rows = 0

    def __iter__(self) -> Iterator[Record]:
        """Yields the good rows; what else is there is kept for `found`."""
        return (record for record, _ in self.written(lambda messages: None))

    def written(
        self, write: Callable[[Sequence[Message]], Written]
    ) -> Iterator[tuple[Record, Written]]:
        """Yields the good rows with their messages as written; one that cannot be so is bad."""
        for line, data in self._texts():
            try:
                row = read_row(self._rows, data, self._how, self._ids.of)
                text = write(row.record.messages)
            except (BadRow, InputError) as error:
                self.bad.add(line, str(error))
            else:
                yield self._kept(row), text
            self._rows += 1

    def _texts(self) -> Iterator[Row]:
        if not isinstance(self.path, HubSet):
            return row_texts(self.path, self._how.columns)
        self.path, found = load_hub_set(self.path)
        return numbered(dataset_batches(found))

    def _kept(self, found: RowRead) -> Record:
        """Returns the record, once all that is asked about it later is kept."""
        self.shapes[found.shape] += 1
        self.notes.update(found.notes)
        self.unread.update(found.unread)
        self.by_hand |= found.by_hand
        record = found.record
        turns = [[turn.role, turn.content, turn.learned] for turn in record.messages]
        labels = [record.source, record.task, record.subtask, record.answer]
        self._content.update(json.dumps([record.row, record.id, *labels, turns]).encode())
        self._lines.add(record.line.encode())
        self._numbers.append(record.row)
        self._own_ids.append(record.id)
        self._sources.append(sys.intern(record.source))
        return record

    @property
    def repeated_ids(self) -> int:
        """The number of rows so far whose own id had to get a number added."""
        return self._ids.repeated

    def found(self, bad_rows: str) -> FileRows:
        """Returns what was read, after the last row.

        bad_rows: `drop` leaves bad rows out while they are few; `stop` raises InputError, as do
        many.
        """
        self.bad.check(self._rows, bad_rows)
        if not self._own_ids:
            raise InputError(f"{os.fspath(self.path)}: no rows; expected one JSON object per line")
        records = Records(
            self._lines.lines(),
            self._how,
            np.array(self._numbers, np.int64),
            np.array(self._own_ids, TEXTS),
            np.array(self._sources, TEXTS),
        )
        return FileRows(
            self.path,
            records,
            self.bad,
            self.shapes,
            self.notes,
            self.unread,
            tuple(sorted(self.by_hand.items())),
            self.repeated_ids,
            self._content.hexdigest(),
        )


def file_stem(path: epath.PathLike) -> str:
    """Returns a file's name without the end that says what it is, packed or not."""
    return SUFFIXES.sub("", place_of_rows(path).name)


class _Ids:
    """The ids given so far; one that was given already gets a number added."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._times: Counter[str] = Counter()
        self.repeated = 0

    def of(self, own: str, messages: Sequence[Message]) -> str:
        """Returns a row's own id, or the next one that is free; repeated ones are counted."""
        self.repeated += own in self._given
        return self.made(own or made_id(messages))

    def made(self, wanted: str) -> str:
        """Returns an id that no row has yet."""
        free = wanted
        while free in self._given:
            self._times[wanted] += 1
            free = f"{wanted}-{self._times[wanted] + 1}"
        self._given.add(free)
        return free
