"""Files of instruction rows: every row whole and in order, every bad one named by its line."""

import gzip
import json
from pathlib import Path

import pytest

from g2is_jax.data import files
from g2is_jax.data.files import read_records
from g2is_jax.runs.errors import InputError

USER = {"role": "user", "content": "2+2?"}
REPLY = {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "Be brief."}
GOOD = {"messages": [USER, REPLY]}


def write(folder: Path, *rows: object, name: str = "pool.jsonl") -> Path:
    """Rows as JSON lines; a string is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def failure(path: Path, need_answer: bool = False) -> str:
    """The message, without the folder, that reading the file fails with."""
    with pytest.raises(InputError) as caught:
        read_records(path, need_answer)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(f"{path.parent}/")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "completion": "4"},
        {"instruction": "2+2?", "input": "", "output": "4"},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
    ],
)
def test_a_made_id_is_of_the_content_and_not_of_the_format(tmp_path, row):
    (record,) = read_records(write(tmp_path, row))
    (expected,) = read_records(write(tmp_path, GOOD))
    assert record.messages == expected.messages
    assert record.id == expected.id


def test_the_first_row_names_the_format_of_all(tmp_path):
    path = write(tmp_path, GOOD, {"prompt": "a", "completion": "b"})
    assert failure(path).startswith('pool.jsonl:2: no "messages"; the first row has it')


def test_an_error_of_the_format_names_the_line(tmp_path):
    message = failure(write(tmp_path, {"question": "a", "prompt": "b"}))
    assert message.startswith(
        'pool.jsonl:1: format not recognised, the fields are "question", "prompt"; a row needs '
    )
    message = failure(write(tmp_path, GOOD, {"messages": [USER, USER]}))
    assert message.startswith("pool.jsonl:2: message 2 is from user, expected assistant")


def test_fields_and_their_fallbacks(tmp_path):
    rows = [
        {**GOOD, "id": 7, "source": "s", "family": "f", "task": "t", "subtask": "u", "answer": "4"},
        {**GOOD, "id": "x", "family": "f", "task": "t"},
        {**GOOD, "id": None},
    ]
    path = write(tmp_path, *rows, name="val_sums.jsonl")
    first, second, third = read_records(path)
    assert (first.id, first.source, first.task, first.subtask) == ("7", "s", "t", "u")
    assert (first.answer, second.answer) == ("4", None)
    assert (second.id, second.source, second.task, second.subtask) == ("x", "f", "t", "t")
    assert (third.source, third.task, third.subtask) == ("", "val_sums", "val_sums")
    assert [first.row, second.row, third.row] == [0, 1, 2]


def test_made_ids_are_stable_and_differ_for_repeated_rows(tmp_path):
    other = {"prompt": "3+3?", "completion": "6"}
    good = {"prompt": "2+2?", "completion": "4"}
    ids = [record.id for record in read_records(write(tmp_path, good, other, good))]
    reordered = [record.id for record in read_records(write(tmp_path, other, good, good))]
    assert len(set(ids)) == 3
    assert sorted(ids) == sorted(reordered)
    assert ids[1] == reordered[0]


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


def test_line_numbers_count_blank_lines(tmp_path):
    assert failure(write(tmp_path, GOOD, "", "[1]")).startswith("pool.jsonl:3: the row is a list")


def test_gzip_reads_as_plain(tmp_path):
    plain = write(tmp_path, GOOD, {**GOOD, "id": "é"})
    packed = tmp_path / "pool.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_records(packed) == read_records(plain)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("{", "pool.jsonl:2: not JSON ("),
        ('{"a": 1', "pool.jsonl:2: not JSON (Expecting ',' delimiter at column 8)"),
        ("9" * 5000, "pool.jsonl:2: not JSON that can be read"),
        ("3", "pool.jsonl:2: the row is a number; expected a JSON object"),
        ({**GOOD, "id": "first"}, "pool.jsonl:2: \"id\" 'first' is also that of line 1"),
        (
            {**GOOD, "id": "a\ud800"},
            'pool.jsonl:2: "id" holds half of a surrogate pair (character 2)',
        ),
        ({**GOOD, "id": True}, 'pool.jsonl:2: "id" is true or false'),
        ({**GOOD, "id": 1.5}, 'pool.jsonl:2: "id" is a number; expected a string or a whole'),
        ({**GOOD, "task": 3}, 'pool.jsonl:2: "task" is a number; expected a string'),
    ],
)
def test_bad_row_is_named(tmp_path, row, expected):
    assert failure(write(tmp_path, {**GOOD, "id": "first"}, row)).startswith(expected)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (GOOD, 'pool.jsonl:2: no "answer"'),
        ({**GOOD, "answer": ""}, 'pool.jsonl:2: an empty "answer"'),
        ({**GOOD, "answer": None}, 'pool.jsonl:2: an empty "answer"'),
        ({**GOOD, "answer": 4}, 'pool.jsonl:2: "answer" is a number; expected a string'),
    ],
)
def test_answer_where_needed(tmp_path, row, expected):
    path = write(tmp_path, {**GOOD, "answer": "4"}, row)
    assert failure(path, need_answer=True).startswith(expected)
    assert len(read_records(path)) == 2


def test_bad_files(tmp_path):
    assert failure(tmp_path / "none.jsonl").startswith("none.jsonl: no such file")
    assert failure(write(tmp_path, "", " ")).startswith("pool.jsonl: no rows")
    assert failure(write(tmp_path, GOOD, name="pool.csv")).startswith("pool.csv: not a .jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    assert failure(tmp_path / "folder.jsonl").startswith("folder.jsonl: cannot be read")


def test_bytes_that_are_not_utf8(tmp_path):
    path = write(tmp_path, GOOD, GOOD)
    path.write_bytes(path.read_bytes() + '{"prompt": "café"}\n'.encode("latin-1"))
    assert failure(path).startswith("pool.jsonl:3: byte 0xe9 is not UTF-8")


@pytest.mark.parametrize("damage", ["cut", "flip", "block", "plain"])
def test_damaged_gzip(tmp_path, damage):
    data = bytearray(gzip.compress(json.dumps(GOOD).encode() * 50))
    if damage == "cut":
        data = data[:-20]
    elif damage == "flip":
        data[len(data) // 2] ^= 0xFF
    elif damage == "block":
        data[10] = 0xFF  # the type of the first compressed block
    else:
        data = bytearray(json.dumps(GOOD).encode())
    path = tmp_path / "pool.jsonl.gz"
    path.write_bytes(bytes(data))
    assert failure(path).startswith("pool.jsonl.gz: the gzip data is damaged or cut short (")


def test_gzip_that_would_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FREE_BYTES", 2**21)
    path = tmp_path / "pool.jsonl.gz"
    line = json.dumps(GOOD).encode() + b"\n"
    path.write_bytes(gzip.compress(line + b" " * (2**21 - len(line))))
    assert len(read_records(path)) == 1
    path.write_bytes(gzip.compress(line + b" " * 2**21))
    assert failure(path).startswith("pool.jsonl.gz: unpacks to over 100 times its size; if it is")


def test_real_files(shared_data):
    pool = read_records(shared_data / "pool.jsonl.gz")
    assert len(pool) == len({record.id for record in pool}) == 12_000
    assert {record.source for record in pool} >= {"alpaca", "t0", "gsm8k"}
    assert pool[5].task == "pool"
    by_line = [json.loads(record.line) for record in pool]
    assert all(
        row["id"] == record.id
        and [m["content"] for m in row["messages"]] == [m.content for m in record.messages]
        for row, record in zip(by_line, pool, strict=True)
    )
    for path in sorted(shared_data.glob("val_*.jsonl")):
        assert all(record.answer for record in read_records(path, need_answer=True))
