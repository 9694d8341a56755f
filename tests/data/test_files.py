"""Files of instruction rows: every row whole and in order, every bad one named by its line."""

import dataclasses
import gzip
import json
from pathlib import Path

import pytest

from g2is_jax.data import content
from g2is_jax.data.files import read_records, read_rows
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


def test_each_row_is_of_its_own_shape(tmp_path):
    path = write(tmp_path, GOOD, {"prompt": "a", "completion": "b"}, {"messages": [USER, REPLY]})
    rows = read_rows(path, "stop")
    assert rows.shapes == {"messages": 2, "prompt/completion": 1}
    assert rows.told() == [f"{path}: 3 rows read as messages (2), prompt/completion (1)"]


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
        (
            {**GOOD, "id": "a\ud800"},
            'pool.jsonl:2: "id" holds half of a surrogate pair (character 2)',
        ),
    ],
)
def test_bad_row_is_named(tmp_path, row, expected):
    assert failure(write(tmp_path, {**GOOD, "id": "first"}, row)).startswith(expected)


def numbered(rows: int, *bad: int) -> list[dict]:
    """Rows that differ, of which some have no reply."""
    return [{"prompt": f"{i}?", "completion": "" if i in bad else f"{i}"} for i in range(rows)]


def test_bad_rows_are_dropped_and_counted_by_reason(tmp_path):
    rows: list = numbered(60, 7, 30)
    rows[50] = "{"
    path = write(tmp_path, *rows)
    found = read_rows(path, "drop")
    assert [record.row for record in found.records] == [
        row for row in range(60) if row not in (7, 30, 50)
    ]
    assert list(found.bad.counts.values()) == [2, 1]
    empty = f'{path}:8: "completion" is empty; fill it or leave the row out (2 rows)'
    broken = f"{path}:51: not JSON (Expecting property name enclosed in double quotes at column 2)"
    assert found.told()[1:] == [
        f"{path}: 3 bad rows dropped, the first of each kind:",
        f"    {empty}",
        f"    {broken}; expected one JSON object per line",
    ]
    assert failure(path).splitlines() == [
        empty.removeprefix(f"{tmp_path}/"), f"{broken}; expected one JSON object per line"
    ]  # fmt: skip


@pytest.mark.parametrize(("bad", "dropped"), [((3,), True), ((3, 4), False)])
def test_more_than_one_bad_row_in_twenty_stops(tmp_path, bad, dropped):
    path = write(tmp_path, *numbered(20, *bad))
    if dropped:
        assert len(read_rows(path, "drop").records) == 19
        return
    with pytest.raises(InputError) as caught:
        read_rows(path, "drop")
    first, last = str(caught.value).splitlines()
    assert first == f'{path}:4: "completion" is empty; fill it or leave the row out (2 rows)'
    assert last.startswith(f"{path}: 2 of 20 rows are bad, over the 5% that may be dropped; mend")


def test_very_many_reasons_are_cut_short(tmp_path):
    rows = [{f"field {chr(97 + i)}": "x"} for i in range(25)]
    lines = failure(write(tmp_path, *rows)).splitlines()
    assert len(lines) == 21
    assert lines[-1].endswith("pool.jsonl: 5 more reasons")


def test_repeated_ids_get_a_number_and_are_counted(tmp_path):
    rows = [row | {"id": own} for row, own in zip(numbered(5), "xxyx", strict=False)]
    rows += [{**GOOD, "id": own} for own in ("x-2", "z-2", "z", "z")]
    found = read_rows(write(tmp_path, *rows), "stop")
    assert [record.id for record in found.records] == [
        *("x", "x-2", "y", "x-3", "x-2-2", "z-2", "z", "z-3")
    ]
    assert found.repeated_ids == 4
    assert found.told()[-1].endswith(": 4 repeated ids got a number added")


@pytest.mark.parametrize(
    ("value", "label"),
    [(3, "3"), (1.5, "1.5"), (True, "true"), (["a", 2], "a,2"), ({"b": 1}, '{"b": 1}'), ("", "")],
)
def test_labels_of_any_kind(tmp_path, value, label):
    row = {**GOOD, "source": value, "task": value, "id": value}
    (record,) = read_records(write(tmp_path, row))
    assert (record.source, record.task) == (label, label or "pool")
    assert record.id == label or not label


def test_the_same_texts_learned_or_not_have_other_ids(tmp_path):
    masked = {"messages": [USER, {**REPLY, "weight": 0}, USER, REPLY]}
    learned = {"messages": [USER, {**REPLY, "weight": 1}, USER, REPLY]}
    first, second = read_records(write(tmp_path, masked, learned))
    assert first.id.partition("-")[0] != second.id.partition("-")[0]


def test_unread_fields_are_told_once_with_their_number(tmp_path):
    rows = [row | {"category": "c", "nothing": None} for row in numbered(3)]
    rows[1]["score"] = float("nan")
    rows[2]["score"] = 2.0
    (told,) = read_rows(path := write(tmp_path, *rows), "stop").told()[1:]
    assert told == f"{path}: fields that are not read: category (3), score (1)"


def test_the_gold_answer_of_a_reply_as_gsm8k_writes_it(tmp_path):
    worked = {"question": "1+1?", "answer": "1+1 = 2, so it is\n#### 2"}
    plain = {"question": "1+1?", "answer": 2}
    beside = {"problem": "1+1?", "solution": "It is 2.", "answer": "two"}
    records = read_records(write(tmp_path, worked, plain, beside), need_answer=True)
    assert [record.answer for record in records] == ["2", "2", "two"]
    assert [record.messages[1].content for record in records] == [
        worked["answer"], "2", "It is 2."
    ]  # fmt: skip


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
        (b"PAR1\x15\x04", "a parquet file: "),
        (b"ARROW1\0\0", "an Arrow file: "),
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
        (b"\x28\xb5\x2f\xfd", "packed by zstd: unpack it by unzstd"),
    ],
)
def test_what_is_no_file_of_rows_is_named(tmp_path, data, what):
    (path := tmp_path / "pool.jsonl").write_bytes(data)
    assert failure(path).startswith(f"pool.jsonl: {what}")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (GOOD, 'pool.jsonl:2: no "answer"'),
        ({**GOOD, "answer": ""}, 'pool.jsonl:2: an empty "answer"'),
        ({**GOOD, "answer": None}, 'pool.jsonl:2: an empty "answer"'),
        ({**GOOD, "answer": {"a": 4}}, 'pool.jsonl:2: "answer" is an object; expected a string'),
    ],
)
def test_answer_where_needed(tmp_path, row, expected):
    path = write(tmp_path, {**GOOD, "answer": "4"}, row)
    assert failure(path, need_answer=True).startswith(expected)
    assert len(read_records(path)) == 2


def test_bad_files(tmp_path):
    assert failure(tmp_path / "none.jsonl").startswith("none.jsonl: no such file")
    assert failure(write(tmp_path, "", " ")).startswith("pool.jsonl: no rows")
    (tmp_path / "folder.jsonl").mkdir()
    assert failure(tmp_path / "folder.jsonl").startswith("folder.jsonl: cannot be read")


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
    monkeypatch.setattr(content, "FREE_BYTES", 2**21)
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
