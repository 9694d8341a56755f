"""Public sets load as they are published, and docs/datasets.md says so of each."""

import pytest

from g2is_jax.data.files import read_rows
from g2is_jax.runs.errors import InputError
from tests.support.public_sets import REFUSED, SETS, tables
from tests.support.row_files import write
from tests.support.small import ROOT

LETTERS = {"system": "s", "user": "u", "assistant": "a"}


@pytest.mark.parametrize("public", SETS, ids=lambda public: public.name)
def test_a_public_set_loads_as_it_is(public, tmp_path):
    columns = tuple(tuple(pair.split("=")) for pair in public.columns.split(",") if pair)
    found = read_rows(write(tmp_path, *public.rows, name="set.jsonl"), "stop", columns=columns)
    talks = tuple(
        tuple(f"{LETTERS[turn.role]}:{turn.content}" for turn in record.messages)
        for record in found.records
    )
    assert talks == public.talks
    assert all(turn.learned for record in found.records for turn in record.messages)
    assert list(found.shapes) == [public.shape]
    assert sorted(found.unread) == sorted(filter(None, public.unread.split(",")))
    labels = [row.get(public.source, "") for row in public.rows]
    assert [record.source for record in found.records] == labels


@pytest.mark.parametrize("name", REFUSED)
def test_a_set_that_cannot_be_learned_from_is_refused_by_name(name, tmp_path):
    row, error, _ = REFUSED[name]
    path = write(tmp_path, row)
    with pytest.raises(InputError) as caught:
        read_rows(path, "drop")
    assert str(caught.value).startswith(f"{path}:1: {error}")


@pytest.mark.parametrize("name", [name for name in REFUSED if "data.columns=" in REFUSED[name][2]])
def test_the_named_way_out_by_columns_works(name, tmp_path):
    row, _, way = REFUSED[name]
    pairs = way.strip("`").removeprefix("data.columns=").split(",")
    columns = tuple(tuple(pair.split("=")) for pair in pairs)
    assert read_rows(write(tmp_path, row), "stop", columns=columns).records


def test_the_page_lists_these_sets():
    page = (ROOT / "docs" / "datasets.md").read_text()
    assert tables() in page, "paste what python -m tests.support.public_sets prints"
