"""Rows of a CSV file, separated by commas, tabs or semicolons, as JSON."""

import csv
import json
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from g2is_jax.data.row_fields import NAMES, TURNS, Columns
from g2is_jax.data.values import BadRow, Row, not_utf8
from g2is_jax.runs.errors import InputError

SEPARATORS = ",\t;"
KNOWN = {name for names in NAMES.values() for name in names}
ENDS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")
LONGEST = 2**31 - 1  # characters of a cell; the default of 131,072 is less than a document


def is_csv(head: bytes, name: str, columns: Columns) -> bool:
    """Tells whether a file's first line is the header of a table with a field that is known.

    Where none is known the end of the file's name says so: what its rows lack is named then.
    """
    names = _header(head)[1]
    known = KNOWN | {field for _, field in columns}
    if len(names) < 2 or not all(names) or len({*names}) < len(names):
        return False
    return any(name in known or name.lower() in known for name in names) or (
        name.lower().endswith(ENDS)
    )


def _header(head: bytes) -> tuple[str, Sequence[str]]:
    """Returns the separator that gives the first line most fields, and these."""
    line = head.lstrip().partition(b"\n")[0].decode("utf-8", errors="replace")
    if line.startswith(("{", "[")):
        return "", []
    cut = {mark: next(csv.reader([line], delimiter=mark), []) for mark in SEPARATORS}
    separator = max(cut, key=lambda mark: len(cut[mark]))
    return separator, [name.strip() for name in cut[separator]]


def csv_rows(stream: BinaryIO, head: bytes, name: str) -> Iterator[Row]:
    """Yields (1-based line that it starts at, JSON object) of each row; every value is a text."""
    separator, names = _header(head)
    before = csv.field_size_limit(LONGEST)
    reader = csv.reader(_lines(stream, name), delimiter=separator, strict=True)
    try:
        next(cells for cells in reader if cells)  # the header
        while True:
            line = reader.line_num + 1
            try:
                if (cells := next(reader, None)) is None:
                    return
            except csv.Error as error:
                if "end of data" in str(error):  # all that follows was taken for one cell
                    raise InputError(
                        f"{name}:{line}: a quote that is never closed; mend it"
                    ) from error
                yield line, BadRow(f"not CSV ({error}); write a quote within quotes twice")
                continue
            if cells:
                yield line, _row(names, cells)
    finally:
        csv.field_size_limit(before)


def _row(names: Sequence[str], cells: Sequence[str]) -> bytes | BadRow:
    if len(cells) != len(names):
        return BadRow(
            f"the row has {len(cells)} cells and the header {len(names)}; quote the cells that "
            "hold separators or line breaks"
        )
    row = {
        key: _turns(text) if key.lower() in TURNS else text
        for key, text in zip(names, cells, strict=True)
    }
    return json.dumps(row, ensure_ascii=False).encode("utf-8")


def _turns(text: str) -> object:
    """Returns the list that a cell of turns holds as JSON; else its text, which is refused."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _lines(stream: BinaryIO, name: str) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{name}:{number}: {not_utf8(error)}") from error
