"""The rows of a file as JSON, by what the file holds and not by its name: JSON lines, one JSON
array, CSV, parquet, Arrow or a saved data set."""

import codecs
import json
import os
from collections.abc import Iterator
from typing import BinaryIO

from etils import epath

from g2is_jax.data.csv_rows import csv_rows, is_csv
from g2is_jax.data.packed import unpacked
from g2is_jax.data.row_fields import Columns
from g2is_jax.data.tables import TABLES, is_saved, saved_rows
from g2is_jax.data.values import Row, not_utf8
from g2is_jax.runs.errors import InputError

HEAD = 2**20  # bytes from a file's beginning that say what it is
PIECE = 2**20  # bytes of an array that are read at once
UTF8_MARK = codecs.BOM_UTF8
TO_UTF8 = "convert it to UTF-8: iconv -f {0} -t UTF-8 FILE > NEW"
# How a file begins that holds no rows -> what it is, and the way out.
BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer, not rows: git lfs pull brings the file",
    b"PK\x03\x04": "a zip archive: unpack it by unzip",
    b"\xfd7zXZ\x00": "packed by xz: unpack it by unxz",
    b"BZh": "packed by bzip2: unpack it by bunzip2",
    b"\xff\xfe\x00\x00": f"UTF-32, not UTF-8: {TO_UTF8.format('UTF-32')}",
    b"\x00\x00\xfe\xff": f"UTF-32, not UTF-8: {TO_UTF8.format('UTF-32')}",
    b"\xff\xfe": f"UTF-16, not UTF-8: {TO_UTF8.format('UTF-16')}",
    b"\xfe\xff": f"UTF-16, not UTF-8: {TO_UTF8.format('UTF-16')}",
}


def row_texts(path: epath.PathLike, columns: Columns = ()) -> Iterator[Row]:
    """Yields the rows of a file or data set, not yet checked, and reads it as they are asked for.

    columns: fields named by hand, by which a CSV file may be known. Raises InputError, naming what
    the file is, where it holds no rows.
    """
    name = os.fspath(path)
    if is_saved(path):
        yield from saved_rows(path)
        return
    if epath.Path(path).is_dir():
        raise InputError(f"{name}: a folder, and not a saved data set; name a file in it")
    with unpacked(path) as stream:
        head = stream.read(HEAD)
    for beginning, rows in TABLES.items():
        if head.startswith(beginning):
            yield from rows(path)
            return
    _check_is_text(head, name)
    with unpacked(path) as stream:
        if head.startswith(UTF8_MARK):
            stream.read(len(UTF8_MARK))
        yield from _text_rows(stream, head.removeprefix(UTF8_MARK), name, columns)


def _check_is_text(head: bytes, name: str) -> None:
    """Check that a file is not of a kind that holds no rows, by its beginning."""
    for beginning, what in BEGINNINGS.items():
        if head.startswith(beginning):
            raise InputError(f"{name}: {what}")
    head = head.removeprefix(UTF8_MARK)
    if len(head) > 1 and 0 in head[:2]:
        order = "UTF-16LE" if head[1] == 0 else "UTF-16BE"
        raise InputError(f"{name}: UTF-16, not UTF-8: {TO_UTF8.format(order)}")
    start = head[:1000].lstrip()
    if start.startswith(b"<"):
        kind = "an XML" if start.startswith(b"<?xml") else "an HTML"
        raise InputError(f"{name}: {kind} page, not rows: download it again")


def _text_rows(stream: BinaryIO, head: bytes, name: str, columns: Columns) -> Iterator[Row]:
    start = head.lstrip()
    first_line, _, more = start.partition(b"\n")
    if start.startswith(b"[") and not (more.strip() and _is_json(first_line)):
        return _array_rows(stream, name)
    if start.startswith(b"{") and not _is_json(first_line) and _is_json(head):
        raise InputError(
            f"{name}: one JSON object over several lines; expected one JSON object per line, or "
            "an array of them"
        )
    if is_csv(head, name, columns):
        return csv_rows(stream, head, name)
    return _line_rows(stream)


def _line_rows(stream: BinaryIO) -> Iterator[Row]:
    # A stream of bytes is cut at \n alone: JSON strings may hold other separators.
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield number, line.removesuffix(b"\n").removesuffix(b"\r")


def _array_rows(stream: BinaryIO, name: str) -> Iterator[Row]:
    """Yields the elements of an array, each as it stands there but in one line."""
    text = _Text(stream, name)
    text.skip(" \t\r\n")
    text.at += 1  # the bracket
    try:
        text.skip(" \t\r\n")
        while text.next() != "]":
            number, element = text.element()
            # Between the tokens of JSON a line break is a blank, and within a string there is none.
            yield number, " ".join(part.strip() for part in element.split("\n")).encode()
            text.skip(" \t\r\n")
            if text.next() not in ("]", ","):
                raise ValueError("expected a comma or the array's end")
            text.skip(", \t\r\n")
        text.at += 1
        text.skip(" \t\r\n")
        if text.next():
            raise ValueError("text follows the array's end")
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name}:{text.line}: the JSON array is damaged or cut short ({error}); "
            "copy the file again"
        ) from error


class _Text:
    """The text of a stream, of which only the piece around a place is in memory."""

    def __init__(self, stream: BinaryIO, name: str):
        self._stream, self._name = stream, name
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._value = json.JSONDecoder().raw_decode
        self._text, self._ended = "", False
        self._counted, self.line = 0, 1  # `line`: of the character at `_counted`
        self.at = 0

    def next(self) -> str:
        """Returns the character at the place; empty at the end."""
        while self.at >= len(self._text) and not self._ended:
            self._more(PIECE)
        return self._text[self.at : self.at + 1]

    def skip(self, characters: str) -> None:
        """Goes on to the next character that is none of these."""
        while (character := self.next()) and character in characters:
            self.at += 1

    def element(self) -> tuple[int, str]:
        """Returns the line and the text of the JSON value at the place, and goes behind it."""
        self.line += self._text.count("\n", self._counted, self.at)
        if self.at > PIECE:  # not for each element: what is left is copied
            self._text, self.at = self._text[self.at :], 0
        self._counted, size = self.at, PIECE
        while True:
            try:
                _, end = self._value(self._text, self.at)
                if end < len(self._text) or self._ended:  # a number may go on
                    break
            except ValueError:
                if self._ended:
                    raise
            self._more(size)
            size *= 2
        start, self.at = self.at, end
        return self.line, self._text[start:end]

    def _more(self, size: int) -> None:
        data = self._stream.read(size)
        self._ended = not data
        try:
            self._text += self._decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            lines = self._text.count("\n", self._counted) + error.object[: error.start].count(b"\n")
            raise InputError(f"{self._name}:{self.line + lines}: {not_utf8(error)}") from error


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
