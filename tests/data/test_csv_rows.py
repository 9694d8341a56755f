"""CSV files are known by their header, and their rows are JSON rows whose values are texts."""

import csv
import gzip
import json

import pytest

from g2is_jax.data.files import read_records, read_rows
from tests.support.row_files import GOOD, failure, write

ROWS = [
    {"id": "007", "question": "Is 1,5 odd?", "answer": 'It says "no".\nSo: no.'},
    {"id": "NA", "question": "null", "answer": "None"},
    {"id": "x", "question": "é\u2028", "answer": "1.50"},
]


def write_csv(path, rows, separator=",", end="\n"):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=separator, lineterminator=end)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_same_records_as_json_lines(tmp_path, separator, end, mark):
    """Nothing that looks like a number, or like nothing, is another text than it says."""
    path = write_csv(tmp_path / "pool.txt", ROWS, separator, end)
    path.write_bytes(mark + path.read_bytes())
    expected = read_records(write(tmp_path, *ROWS))
    for found, other in zip(read_records(path), expected, strict=True):
        assert (found.id, found.messages, found.answer) == (other.id, other.messages, other.answer)
        assert json.loads(found.line) == json.loads(other.line)


def test_packed_and_with_turns_as_json(tmp_path):
    rows = [{"id": "a", "messages": json.dumps(GOOD["messages"]), "source": ""}]
    path = write_csv(tmp_path / "pool.csv", rows)
    path.write_bytes(gzip.compress(path.read_bytes()))
    (record,) = read_records(path)
    assert record.messages == read_records(write(tmp_path, GOOD))[0].messages
    rows[0]["messages"] = str(GOOD["messages"])  # as pandas writes a list: not JSON
    assert read_records(write_csv(path, rows))[0].messages == record.messages
    rows[0]["messages"] = "2+2?"
    assert failure(write_csv(path, rows)).startswith('pool.csv:2: "messages" is a string; expected')


def test_lines_are_those_of_the_file(tmp_path):
    rows = [*ROWS, {"id": "y", "question": "", "answer": "4"}]
    path = write_csv(tmp_path / "pool.csv", rows)
    assert failure(path).startswith("pool.csv:6: ")
    path.write_text(path.read_text() + "\nz,too,many,cells\n")
    assert "pool.csv:8: the row has 4 cells and the header 3; quote the cells" in failure(path)


def test_long_cells(tmp_path):
    rows = [{"prompt": "a" * 200_000, "response": "b"}]
    before = csv.field_size_limit()
    assert (
        read_records(write_csv(tmp_path / "pool.csv", rows))[0].messages[0].content == "a" * 200_000
    )
    assert csv.field_size_limit() == before


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "pool.csv"
    path.write_bytes("prompt,response\na,b\nc,café\n".encode("latin-1"))
    assert failure(path).startswith("pool.csv:3: byte 0xe9 is not UTF-8; convert")


def test_fields_named_by_hand(tmp_path):
    path = tmp_path / "pool"
    path.write_text("a,b\n2+2?,4\n")
    assert failure(path).startswith("pool:1: not JSON (")
    found = read_rows(path, "stop", columns=(("prompt", "a"), ("reply", "b")))
    assert found.shapes == {"a/b": 1}
    named = path.rename(tmp_path / "pool.csv")  # where nothing else says so, the name does
    assert failure(named).startswith('pool.csv:2: format not recognised, the fields are "a", "b"')


@pytest.mark.parametrize(
    "text", ['"prompt": "a", "response": "b"', "prompt", "prompt,,response", "prompt,prompt", "1,2"]
)
def test_what_has_no_header(tmp_path, text):
    (path := tmp_path / "pool.jsonl").write_text(text + "\nx,y\n")
    assert failure(path).startswith("pool.jsonl:1: not JSON (")


def test_quotes_that_do_not_fit(tmp_path):
    path = tmp_path / "pool.csv"
    path.write_text("prompt,response\na,b\n" * 30 + '"c"d,e\nf,g\n')
    found = read_rows(path, "drop")
    (line,) = found.bad.lines()
    assert line.startswith(f"{path}:61: not CSV (")
    assert found.records[-1].messages[0].content == "f"
    path.write_text('prompt,response\na,b\nc,"d\ne,f\n')
    assert failure(path) == "pool.csv:3: a quote that is never closed; mend it"
