"""A bad row costs one row of the pool, and a target's file stops; fields may be named by hand."""

import dataclasses
import json
from pathlib import Path

import pytest
from etils import epath

from g2is_jax.pipeline import selection_stage
from g2is_jax.pipeline.job import open_job
from g2is_jax.runs.errors import InputError
from tests.support.small import picking, row, write_rows
from tests.support.small_job import changed


@pytest.fixture
def spoilt(file_config, tmp_path):
    """The good pool with two bad rows, its third and its last."""
    lines = Path(file_config.data.pool).read_text().split("\n")
    file = tmp_path / "spoilt.jsonl"
    bad = json.dumps({"prompt": "a", "completion": ""})
    file.write_text("\n".join([*lines[:2], bad, *lines[2:-1], "{"]))
    return changed(file_config, data__pool=str(file))


def test_bad_rows_of_the_pool_are_dropped_told_and_counted(spoilt, file_config, tmp_path, capsys):
    job = open_job(spoilt, epath.Path(tmp_path / "work"))
    job.check()
    told = capsys.readouterr().out
    pool = job.data.pool
    assert f"{pool.path}: 41 rows read as messages (41)\n" in told
    assert f"{pool.path}: 2 bad rows dropped, the first of each kind:\n" in told
    assert f'    {pool.path}:3: "completion" is empty; fill it or leave the row out\n' in told
    assert f"{pool.path}: fields that are not read: note (20)\n" in told
    assert "val_pick.jsonl.gz: 4 rows read as prompt/completion (4)\n" in told
    counts = pool.counts
    empty, broken = counts.pop("bad_rows")
    assert empty == {
        "reason": '"completion" is empty; fill it or leave the row out', "first_line": 3, "rows": 1
    }  # fmt: skip
    assert broken["reason"].startswith("not JSON (")
    assert (broken["first_line"], broken["rows"]) == (44, 1)
    assert counts == {"rows": 40, "bad": 2, "dropped": 1, "truncated": 1}
    good = open_job(file_config, epath.Path(tmp_path / "good")).data.pool
    assert [record.id for record in pool.records] == [record.id for record in good.records]
    assert [record.row for record in pool.records] == [
        record.row + (record.row >= 2) for record in good.records
    ]


def test_chosen_rows_are_numbered_as_the_file_has_them(spoilt, tmp_path):
    every = changed(spoilt, selection__unit="fraction", selection__budget=1.0,
                    run__methods="random")  # fmt: skip
    job = open_job(every, epath.Path(tmp_path / "all"))
    folder = selection_stage.stage(job, "random", job.data.targets[0], 0).folder
    rows = [line for line in Path(spoilt.data.pool).read_text().split("\n") if line]
    why = [json.loads(line) for line in (folder / "selection.jsonl").read_text().splitlines()]
    chosen = (folder / "selected.jsonl").read_text().split("\n")[:-1]
    assert len(chosen) == 40
    assert [rows[one["row"]] for one in why] == chosen
    counts = json.loads((folder / "manifest.json").read_text())["counts"]["pool"]
    assert [reason["first_line"] for reason in counts["bad_rows"]] == [3, 44]


def test_all_reasons_at_once(spoilt, tmp_path):
    with pytest.raises(InputError) as caught:
        open_job(changed(spoilt, data__bad_rows="stop"), epath.Path(tmp_path / "work")).check()
    first, second = str(caught.value).splitlines()
    assert first == f'{spoilt.data.pool}:3: "completion" is empty; fill it or leave the row out'
    assert second.startswith(f"{spoilt.data.pool}:44: not JSON (")


@pytest.mark.parametrize("field", ["validation", "test"])
def test_a_bad_row_of_a_target_stops(file_config, tmp_path, field):
    rows = [row(n) for n in range(50, 90)]
    rows[7]["messages"] = []
    file = write_rows(tmp_path / f"{field}_bad.jsonl", rows)
    other = getattr(file_config.data, field).split(",")[1]
    config = changed(file_config, **{f"data__{field}": f"{file},{other}"})
    with pytest.raises(InputError) as caught:
        open_job(config, epath.Path(tmp_path / "work")).check()
    assert str(caught.value) == f'{file}:8: "messages" is empty; expected a list of messages'


def test_fields_named_by_hand_are_another_content(file_config, tmp_path):
    """The same file, read otherwise, is no input of the same stages."""
    rows = [picking(n) | {"other": f"Sort {n}."} for n in range(40)]
    file = write_rows(tmp_path / "own.jsonl", rows)
    config = changed(file_config, data__pool=str(file))
    usual, by_hand = (
        open_job(changed(config, data__columns=columns), epath.Path(tmp_path / name)).data.pool
        for name, columns in (("usual", ""), ("named", "prompt=other"))
    )
    assert usual.records[3].messages[0].content == rows[3]["prompt"]
    assert by_hand.records[3].messages[0].content == "Sort 3."
    assert by_hand.digest != usual.digest
    assert dataclasses.replace(usual, digest="").counts == by_hand.counts


def test_a_field_named_by_hand_that_no_row_has(file_config, tmp_path):
    config = changed(file_config, data__columns="prompt=qestion")
    with pytest.raises(InputError, match=r"data\.columns: no row has the field 'qestion', named"):
        open_job(config, epath.Path(tmp_path)).check()
    with pytest.raises(InputError, match=r"data\.columns: 'promt=q' names no part of a row"):
        open_job(changed(config, data__columns="promt=q"), epath.Path(tmp_path))
    with pytest.raises(InputError, match=r"data\.bad_rows = 'skip' is unknown"):
        open_job(changed(file_config, data__bad_rows="skip"), epath.Path(tmp_path))
