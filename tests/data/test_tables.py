"""Parquet and Arrow files, saved data sets and zstd, beside the same rows as JSON lines."""

import datetime
import decimal
import json
import sys

import numpy as np
import pytest

from g2is_jax.data.files import read_records, read_rows
from tests.support.row_files import GOOD, REPLY, USER, failure, numbered, write

pyarrow = pytest.importorskip("pyarrow", reason='needs the extra: pip install -e ".[data]"')
datasets = pytest.importorskip("datasets")
ROWS = [
    {"messages": [USER, {**REPLY, "weight": 0}, USER, REPLY], "source": "a", "n": 1},
    {"messages": [{"role": "user", "content": "é"}, REPLY], "id": "own"},
    *[{"messages": [{"role": "user", "content": str(i)}, REPLY]} for i in range(3)],
]


def parquet(folder):
    from pyarrow.parquet import write_table

    write_table(pyarrow.Table.from_pylist(ROWS, _schema()), folder / "x", row_group_size=2)
    return folder / "x"


def arrow(folder, opened=pyarrow.ipc.new_file):
    table = pyarrow.Table.from_pylist(ROWS, _schema())
    with opened(str(folder / "x"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return folder / "x"


def arrow_stream(folder):
    return arrow(folder, pyarrow.ipc.new_stream)


def saved(folder):
    datasets.Dataset(pyarrow.Table.from_pylist(ROWS, _schema())).save_to_disk(str(folder / "x"))
    return folder / "x"


def saved_split(folder):
    rows = datasets.Dataset(pyarrow.Table.from_pylist(ROWS, _schema()))
    datasets.DatasetDict({"train": rows}).save_to_disk(str(folder / "x"))
    return folder / "x"


def zstd(folder):
    data = write(folder, *ROWS).read_bytes()
    half = data.index(b"\n") + 1
    codec = pyarrow.Codec("zstd")  # two frames, as parallel packing leaves them
    packed = [codec.compress(part, asbytes=True) for part in (data[:half], data[half:])]
    (folder / "x").write_bytes(b"".join(packed))
    return folder / "x"


def _schema():
    text = pyarrow.string()
    turn = pyarrow.struct({"role": text, "content": text, "weight": pyarrow.int64()})
    fields = {"messages": pyarrow.list_(turn), "source": text, "n": pyarrow.int64(), "id": text}
    return pyarrow.schema(fields)


@pytest.mark.parametrize("make", [parquet, arrow, arrow_stream, saved, saved_split, zstd])
def test_the_same_records_as_json_lines(tmp_path, make):
    place = make(tmp_path)
    found, expected = read_rows(place, "stop"), read_rows(write(tmp_path, *ROWS), "stop")
    assert found.records.ids_N.tolist() == expected.records.ids_N.tolist()
    assert found.records.sources_N.tolist() == expected.records.sources_N.tolist()
    assert [r.messages for r in found.records] == [r.messages for r in expected.records]
    assert found.unread == expected.unread
    first = json.loads(found.records[2].line)
    assert first.keys() == {"messages"}  # absent fields stay absent


def test_a_changed_data_set_is_another_content(tmp_path):
    place = saved(tmp_path)
    before = read_rows(place, "stop").digest
    assert read_rows(place, "stop").digest == before
    state = json.loads((place / "state.json").read_text())
    (place / "state.json").write_text(json.dumps(state | {"_fingerprint": "0"}))
    assert read_rows(place, "stop").digest != before


def test_a_bad_row_is_named_by_its_number(tmp_path):
    from pyarrow.parquet import write_table

    write_table(pyarrow.Table.from_pylist(numbered(30, 7)), tmp_path / "x.parquet")
    assert failure(tmp_path / "x.parquet") == (
        'x.parquet:8: "completion" is empty; fill it or leave the row out'
    )


def test_values_that_json_lacks(tmp_path):
    from pyarrow.parquet import write_table

    row = {
        "prompt": b"2+2?", "completion": np.float32(0.5).item(), "day": datetime.date(2026, 1, 2),
        "cost": decimal.Decimal("1.5"), "picture": b"\xff\xd8",
    }  # fmt: skip
    write_table(pyarrow.Table.from_pylist([row]), tmp_path / "x")
    (record,) = read_records(tmp_path / "x")
    assert [message.content for message in record.messages] == ["2+2?", "0.5"]
    assert json.loads(record.line) == {
        "prompt": "2+2?", "completion": 0.5, "day": "2026-01-02", "cost": "1.5",
        "picture": {"bytes": 2},
    }  # fmt: skip


def test_turns_whose_fields_are_lists(tmp_path):
    """As `datasets` stored a list of objects before its version 4."""
    from pyarrow.parquet import write_table

    fields = {name: [USER[name], REPLY[name]] for name in ("role", "content")}
    write_table(pyarrow.Table.from_pylist([{"messages": fields}]), tmp_path / "x")
    assert (
        read_records(tmp_path / "x")[0].messages == read_records(write(tmp_path, GOOD))[0].messages
    )
    uneven = {"role": fields["role"], "content": ["2+2?"]}
    write_table(pyarrow.Table.from_pylist([{"messages": uneven}]), tmp_path / "x")
    assert failure(tmp_path / "x") == 'x:1: "messages" is an object; expected a list of messages'


def test_several_splits_are_named(tmp_path):
    rows = datasets.Dataset.from_list([GOOD])
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "x"))
    message = failure(tmp_path / "x")
    assert message.startswith("x: a saved data set of the splits train, test; name the folder of")
    assert len(read_records(tmp_path / "x" / "test")) == 1


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (parquet, "a parquet file"),
        (arrow, "an Arrow file"),
        (zstd, "packed by zstd"),
        (saved, "a saved data set"),
    ],
)
def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch, make, what):
    place = make(tmp_path)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("pyarrow", "datasets"):
            monkeypatch.setitem(sys.modules, name, None)
    message = failure(place)
    assert message == (f'x: {what}, which needs the extra [data]: pip install -e ".[data]"')


def test_damaged_files(tmp_path):
    data = parquet(tmp_path).read_bytes()
    (tmp_path / "x").write_bytes(data[: len(data) // 2])
    assert failure(tmp_path / "x").startswith("x: a parquet file: cannot be read (ArrowInvalid")
    data = zstd(tmp_path).read_bytes()
    (tmp_path / "x").write_bytes(data[:-3])
    assert failure(tmp_path / "x").startswith("x: the zstd data is damaged or cut short (")
    place = tmp_path / "saved"
    place.mkdir()
    saved(place)
    (place / "x" / "state.json").unlink()
    assert failure(place / "x").startswith("x: a saved data set: cannot be read (")
