"""The rows of a file as text, by what the file holds and not by its name: JSON lines or one JSON
array, plain or packed by gzip."""

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator

from etils import epath

from g2is_jax.runs.errors import InputError

# What a packed file may unpack to: so many times its size, or so many bytes if that is more. Text
# unpacks to a few times its size, a file made to fill the memory to 1,000 times.
MOST_TIMES, FREE_BYTES = 100, 2**30
GZIP, UTF8_MARK = b"\x1f\x8b", b"\xef\xbb\xbf"
TO_UTF8 = "convert it to UTF-8: iconv -f {0} -t UTF-8 FILE > NEW"
TO_LINES = (
    'write it as JSON lines, by pandas: read_{0}(FILE).to_json(NEW, orient="records", lines=True)'
)
# How a file begins that holds no rows as text -> what it is, and the way out.
BEGINNINGS = {
    b"PAR1": f"a parquet file: {TO_LINES.format('parquet')}",
    b"ARROW1": f"an Arrow file: {TO_LINES.format('feather')}",
    b"version https://git-lfs": "a Git LFS pointer, not rows: git lfs pull brings the file",
    b"PK\x03\x04": "a zip archive: unpack it by unzip",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it by unzstd",
    b"\xfd7zXZ\x00": "packed by xz: unpack it by unxz",
    b"BZh": "packed by bzip2: unpack it by bunzip2",
    b"\xff\xfe\x00\x00": f"UTF-32, not UTF-8: {TO_UTF8.format('UTF-32')}",
    b"\x00\x00\xfe\xff": f"UTF-32, not UTF-8: {TO_UTF8.format('UTF-32')}",
    b"\xff\xfe": f"UTF-16, not UTF-8: {TO_UTF8.format('UTF-16')}",
    b"\xfe\xff": f"UTF-16, not UTF-8: {TO_UTF8.format('UTF-16')}",
}


def row_texts(path: epath.PathLike) -> Iterator[tuple[int, bytes]]:
    """Yields (1-based number of its line, JSON in one line) of each row, not yet checked.

    Raises InputError, naming what the file is, where it holds no rows as text.
    """
    name = os.fspath(path)
    data = _read_bytes(path)
    for beginning, what in BEGINNINGS.items():
        if data.startswith(beginning):
            raise InputError(f"{name}: {what}")
    data = data.removeprefix(UTF8_MARK)
    if len(data) > 1 and 0 in data[:2]:
        order = "UTF-16LE" if data[1] == 0 else "UTF-16BE"
        raise InputError(f"{name}: UTF-16, not UTF-8: {TO_UTF8.format(order)}")
    start = data[:1000].lstrip()
    if start.startswith(b"<"):
        kind = "an XML" if start.startswith(b"<?xml") else "an HTML"
        raise InputError(f"{name}: {kind} page, not rows: download it again")
    first_line = data.lstrip().partition(b"\n")[0]
    if start.startswith(b"[") and not (_is_json(first_line) and _has_more(data)):
        return _array_rows(_decoded(data, name), name)
    if start.startswith(b"{") and not _is_json(first_line) and _is_json(data):
        raise InputError(
            f"{name}: one JSON object over several lines; expected one JSON object per line, or "
            "an array of them"
        )
    return _line_rows(data)


def _line_rows(data: bytes) -> Iterator[tuple[int, bytes]]:
    # Not splitlines(): JSON strings may hold separators that it would cut at.
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            yield number, line.removesuffix(b"\r")


def _array_rows(text: str, name: str) -> Iterator[tuple[int, bytes]]:
    """Yields the elements of the array that a text is, each as it stands there but in one line."""
    decoder, number, before = json.JSONDecoder(), 1, 0
    at = _skipped(text, text.index("[") + 1, " \t\r\n")
    try:
        while not text.startswith("]", at):
            number += text.count("\n", before, at)
            before = at
            _, end = decoder.raw_decode(text, at)
            # Between the tokens of JSON a line break is a blank, and within a string there is none.
            yield number, " ".join(part.strip() for part in text[at:end].split("\n")).encode()
            at = _skipped(text, end, " \t\r\n")
            if not text.startswith(("]", ","), at):
                raise ValueError("expected a comma or the array's end")
            at = _skipped(text, at, ", \t\r\n")
        if text[at + 1 :].strip():
            raise ValueError("text follows the array's end")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{name}:{number}: the JSON array is damaged or cut short ({error}); "
            "copy the file again"
        ) from error


def _skipped(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _has_more(data: bytes) -> bool:
    return bool(data.lstrip().partition(b"\n")[2].strip())


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}:{number}: {not_utf8(error)}") from error


def not_utf8(error: UnicodeDecodeError) -> str:
    """Says which byte is wrong, and the way out."""
    return f"byte 0x{error.object[error.start]:02x} is not UTF-8; convert the file to UTF-8"


def _read_bytes(path: epath.PathLike) -> bytes:
    file, name = epath.Path(path), os.fspath(path)
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file; check the path") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error}; check the path") from error
    if not data.startswith(GZIP):
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
