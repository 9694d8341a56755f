"""Files of instruction rows: every row whole and in order, every bad one named by its line."""

import json

import pytest

from g2is_jax.data.files import read_records, read_rows
from g2is_jax.runs.errors import InputError
from tests.support.row_files import GOOD, REPLY, USER, failure, numbered, write


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
    assert rows.summary() == [f"{path}: 3 rows read as messages (2), prompt/completion (1)"]


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


def test_line_numbers_count_blank_lines(tmp_path):
    assert failure(write(tmp_path, GOOD, "", "[1]")).startswith("pool.jsonl:3: the row is a list")


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


def test_bad_rows_are_dropped_and_counted_by_reason(tmp_path):
    rows: list = numbered(60, 7, 30)
    rows[50] = "{"
    path = write(tmp_path, *rows)
    found = read_rows(path, "drop")
    assert [record.row for record in found.records] == [
        row for row in range(60) if row not in (7, 30, 50)
    ]
    assert [(reason.rows, reason.lines) for reason in found.bad.reasons] == [
        (2, [8, 31]),
        (1, [51]),
    ]
    empty = f'{path}:8: "completion" is empty; fill it or leave the row out (2 rows)'
    broken = f"{path}:51: not JSON (Expecting property name enclosed in double quotes at column 2)"
    assert found.summary()[1:] == [
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
    assert found.summary()[-1].endswith(": 4 repeated ids got a number added")


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
    (told,) = read_rows(path := write(tmp_path, *rows), "stop").summary()[1:]
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
    assert failure(tmp_path / "folder.jsonl").startswith("folder.jsonl: a folder, and not a saved")


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
