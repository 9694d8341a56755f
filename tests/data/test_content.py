"""Files are read, or refused, by what they hold and not by their names."""

import dataclasses
import gzip
import json

import pytest

from g2is_jax.data import packed
from g2is_jax.data.files import read_records
from g2is_jax.runs.errors import InputError
from tests.support.row_files import GOOD, failure, numbered, write


def test_lines_stay_untouched(tmp_path):
    """Blank lines, spacing, a byte-order mark, CRLF and U+2028 inside a string."""
    spaced = '{"prompt":  "a\u2028b", "completion": "caf\\u00e9"}'
    path = tmp_path / "pool.jsonl"
    path.write_bytes(("\ufeff" + spaced + "\r\n\n  \n" + spaced.replace("a", "c")).encode())
    first, second = read_records(path)
    assert first.line == spaced
    assert first.messages[0].content == "a\u2028b"
    assert first.messages[1].content == "café"
    assert second.row == 1


def test_gzip_reads_as_plain(tmp_path):
    plain = write(tmp_path, GOOD, {**GOOD, "id": "é"})
    zipped = tmp_path / "pool.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_records(zipped) == read_records(plain)


@pytest.mark.parametrize("name", ["pool.JSONL", "pool.json", "pool.ndjson", "pool.txt", "pool"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_files_by_content(tmp_path, name, indent, pack):
    plain = write(tmp_path, *numbered(3), name="plain.jsonl")
    path = tmp_path / name
    path.write_bytes(pack(json.dumps(numbered(3), indent=indent).encode()))
    for found, expected in zip(read_records(path), read_records(plain), strict=True):
        assert json.loads(found.line) == json.loads(expected.line)
        same = {"task": found.task, "subtask": found.subtask, "line": found.line}
        assert found == dataclasses.replace(expected, **same)
    path.write_bytes(pack(plain.read_bytes()))
    assert len(read_records(path)) == 3
    assert read_records(path)[0].task in ("pool", "pool.txt")


def test_elements_of_an_array_are_lines_as_they_stand_there(tmp_path):
    path = tmp_path / "pool.json"
    path.write_text(
        '\ufeff[\n  {"prompt": "a  b",\r\n   "completion": "x\u2028",\n "n": 1e2},\n {}\n,]\n'
    )
    with pytest.raises(InputError, match=r"pool\.json:5: format not recognised") as caught:
        read_records(path)
    assert "\n" not in str(caught.value)
    path.write_text(path.read_text().replace(",\n {}", ""))
    (record,) = read_records(path)
    assert record.line == '{"prompt": "a  b", "completion": "x\u2028", "n": 1e2}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"a": 1}, {"b": ', "pool.json:1: the JSON array is damaged or cut short ("),
        ('[{"a": 1}\n\n{"b": 2}]', "pool.json:1: the JSON array is damaged or cut short (expected"),
        ('[{"a": 1}] more', "pool.json:1: the JSON array is damaged or cut short (text follows"),
        ("[]", "pool.json: no rows"),
        ('{\n"prompt": "a",\n"completion": "b"}', "pool.json: one JSON object over several lines"),
        ("[1]\n[2]", "pool.json:1: the row is a list; expected a JSON object (2 rows)"),
    ],
)
def test_arrays_that_are_none(tmp_path, text, expected):
    (path := tmp_path / "pool.json").write_text(text)
    assert failure(path).startswith(expected)


UTF16_FILE = json.dumps(GOOD).encode("utf-16")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"PAR1\x15\x04", "a parquet file: cannot be read ("),
        (b"ARROW1\0\0", "an Arrow file: cannot be read ("),
        (b"\xff\xff\xff\xff\0\0", "an Arrow file: cannot be read ("),
        (b"version https://git-lfs.github.com/spec/v1\noid x", "a Git LFS pointer, not rows: "),
        (b"\n <!DOCTYPE HTML>\n<html>", "an HTML page, not rows: download it again"),
        (b"<?xml version='1.0'?><Error/>", "an XML page, not rows: download it again"),
        (UTF16_FILE, "UTF-16, not UTF-8: convert it to UTF-8: iconv -f UTF-16 -t"),
        (gzip.compress(UTF16_FILE), "UTF-16, not UTF-8: convert it"),
        (
            json.dumps(GOOD).encode("utf-16-le"),
            "UTF-16, not UTF-8: convert it to UTF-8: iconv -f UTF-16LE",
        ),
        (
            json.dumps(GOOD).encode("utf-16-be"),
            "UTF-16, not UTF-8: convert it to UTF-8: iconv -f UTF-16BE",
        ),
        (json.dumps(GOOD).encode("utf-32"), "UTF-32, not UTF-8: convert it"),
        (b"PK\x03\x04", "a zip archive: "),
        (b"\xfd7zXZ\0", "packed by xz: unpack it by unxz"),
    ],
)
def test_what_is_no_file_of_rows_is_named(tmp_path, data, what):
    (path := tmp_path / "pool.jsonl").write_bytes(data)
    assert failure(path).startswith(f"pool.jsonl: {what}")


def test_bytes_that_are_not_utf8(tmp_path):
    path = write(tmp_path, GOOD, GOOD)
    path.write_bytes(path.read_bytes() + '{"prompt": "café"}\n'.encode("latin-1"))
    assert failure(path).startswith("pool.jsonl:3: byte 0xe9 is not UTF-8")
    path.write_bytes(b"[" + path.read_bytes().strip().replace(b"\n", b",\n") + b"]")
    assert failure(path).startswith("pool.jsonl:3: byte 0xe9 is not UTF-8")


@pytest.mark.parametrize("damage", ["cut", "flip", "block"])
def test_damaged_gzip(tmp_path, damage):
    data = bytearray(gzip.compress(json.dumps(GOOD).encode() * 50))
    if damage == "cut":
        data = data[:-20]
    elif damage == "flip":
        data[len(data) // 2] ^= 0xFF
    else:
        data[10] = 0xFF  # the type of the first compressed block
    path = tmp_path / "pool.jsonl.gz"
    path.write_bytes(bytes(data))
    assert failure(path).startswith("pool.jsonl.gz: the gzip data is damaged or cut short (")


def test_gzip_that_would_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "FREE_BYTES", 2**21)
    path = tmp_path / "pool.jsonl.gz"
    line = json.dumps(GOOD).encode() + b"\n"
    path.write_bytes(gzip.compress(line + b" " * (2**21 - len(line))))
    assert len(read_records(path)) == 1
    path.write_bytes(gzip.compress(line + b" " * 2**21))
    assert failure(path).startswith("pool.jsonl.gz: unpacks to over 100 times its size; if it is")
