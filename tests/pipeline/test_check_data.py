"""A look into files before a run: everything that is read of them, and what keeps them from use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from g2is_jax.pipeline.check_data import check_usable, run
from g2is_jax.pipeline.job import open_job
from g2is_jax.planning.dry_run import read_plan
from g2is_jax.runs.errors import InputError
from tests.support.small import ROOT, picking, row, write_rows
from tests.support.small_job import changed, write_config


@pytest.fixture
def pool_alone(file_config):
    return changed(file_config, data__validation="", data__test="")


def spoilt(folder: Path, bad: int) -> Path:
    """Forty rows with a field that is not read, and some without a reply."""
    rows = [row(n, source="plus", note="x") for n in range(10, 50)]
    for n in range(bad):
        rows[3 * n]["messages"][1]["content"] = ""
    return write_rows(folder / "spoilt.jsonl", rows)


def test_a_good_pool(pool_alone, capsys):
    (found,) = run(pool_alone)
    check_usable([found])
    assert (found.role, found.error, found.rows, found.usable) == ("pool", "", 41, 40)
    assert (found.without_learned, found.cut) == (1, 1)
    assert found.sources == {"plus": 20, "low": 10, "high": 10}
    assert found.unread == {"note": 20}
    assert found.learned["together"] > 0
    told = capsys.readouterr().out
    assert f"{pool_alone.data.pool} (pool): 41 rows read as messages (41)\n" in told
    assert "40 rows can be used; 1 have no learned token within 64 and are left out; 1 are" in told
    assert 'row 0 (id "row-10")' in told
    assert "    [[10 + 1 = 11. So it is 11." in told


def test_tokens_are_those_of_the_run(file_config, tmp_path):
    (pool, *_) = run(file_config)
    dataset = open_job(file_config, epath.Path(tmp_path)).data.pool
    lengths = sorted(len(example.tokens_T) for example in dataset.encoded)
    assert pool.tokens["together"] == sum(lengths)
    assert (pool.tokens["least"], pool.tokens["most"]) == (lengths[0], lengths[-1])
    assert pool.tokens["half"] in lengths[len(lengths) // 2 - 1 : len(lengths) // 2 + 1]
    assert pool.learned["together"] == int(dataset.tokens_N.sum())


def test_every_file_that_is_named(file_config, tmp_path):
    shots = write_rows(tmp_path / "shots.jsonl", [picking(n) for n in range(3)])
    config = changed(file_config, evaluate__shots_files=f"{shots},")
    roles = [(found.role, Path(found.file).name) for found in run(config)]
    assert roles == [
        ("pool", "pool.jsonl"),
        ("validation", "val_plus.jsonl"), ("validation", "val_pick.jsonl.gz"),
        ("test", "test_plus.jsonl"), ("test", "test_pick.jsonl"),
        ("shots", "shots.jsonl"),
    ]  # fmt: skip


def test_few_bad_rows_are_counted_with_their_lines(pool_alone, tmp_path, capsys):
    (found,) = run(changed(pool_alone, data__pool=str(spoilt(tmp_path, 2))))
    check_usable([found])
    (reason,) = found.bad
    assert (reason["lines"], reason["rows"]) == ([1, 4], 2)
    assert (
        "    2 bad rows (line 1, 4): no assistant message has any text; " in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("bad", "policy", "error"),
    [
        (7, "drop", "7 of 40 rows are bad, over the 5% that may be dropped"),
        (1, "stop", "1 bad rows; mend them"),
    ],
)
def test_bad_rows_that_stop_a_run(pool_alone, tmp_path, capsys, bad, policy, error):
    file = spoilt(tmp_path, bad)
    (found,) = run(changed(pool_alone, data__pool=str(file), data__bad_rows=policy))
    assert error in found.error
    assert found.bad[0]["lines"] == [1, 4, 7, 10, 13][:bad]
    assert found.shapes == {"messages": 40 - bad}
    assert "    CANNOT BE USED: " in capsys.readouterr().out
    with pytest.raises(InputError, match=f"1 of 1 files cannot be used: {file}; the lines above"):
        check_usable([found])


def test_one_bad_file_does_not_hide_another(file_config, tmp_path):
    page = tmp_path / "page.jsonl"
    page.write_text("<html>")
    gone = tmp_path / "val_gone.jsonl"
    silent = write_rows(tmp_path / "test_silent.jsonl", [{"prompt": "a", "completion": "b"}])
    config = changed(
        file_config, data__pool=str(page), data__validation=str(gone), data__test=str(silent)
    )
    errors = [found.error for found in run(config)]
    assert errors[0] == f"{page}: an HTML page, not rows: download it again"
    assert errors[1] == f"{gone}: no such file; check the path"
    assert errors[2] == "1 bad rows; mend them"


def test_a_field_named_by_hand_that_no_row_has(pool_alone):
    with pytest.raises(InputError, match=r"data\.columns: no row has the field 'qestion', named"):
        run(changed(pool_alone, data__columns="prompt=qestion"))


def test_the_built_in_world(config):
    roles = [found.role for found in run(config)]
    assert roles == ["pool", "validation", "test"]


def test_the_command(pool_alone, tmp_path):
    """Without weights, for a terminal of ASCII; its status says whether the files can be used."""
    base = tmp_path / "base"
    base.mkdir()
    for file in Path(pool_alone.model.checkpoint).iterdir():
        if file.suffix != ".safetensors":
            (base / file.name).write_bytes(file.read_bytes())
    config = changed(pool_alone, model__checkpoint=str(base))
    command = [sys.executable, "-m", "experiments.check_data",
               f"--config={write_config(tmp_path / 'config.py', config)}",
               f"--workdir={tmp_path / 'as_a_run_has_it'}",
               f"--output={tmp_path / 'found.json'}"]  # fmt: skip
    settings = os.environ | {"PYTHONIOENCODING": "ascii"}
    rows = [row(n, messages=[{"role": "user", "content": "é"}, {"role": "assistant",
            "content": f"漢 {n}"}]) for n in range(3)]  # fmt: skip
    good = write_rows(tmp_path / "good.jsonl", rows)

    def done(pool: Path):
        asked = [*command, f"--config.data.pool={pool}"]
        return subprocess.run(asked, env=settings, cwd=ROOT, capture_output=True, text=True)

    fine = done(good)
    assert fine.returncode == 0, fine.stderr
    assert "3 rows can be used" in fine.stdout
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert (found["usable"], found["error"]) == (3, "")
    assert not (tmp_path / "as_a_run_has_it").exists()
    bad = done(spoilt(tmp_path, 9))
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: 1 of 1 files cannot be used: ")


def test_a_run_says_the_short_form_and_what_it_reads_of_shots(file_config, tmp_path, capsys):
    shots = [row(n, note="x", subtask="plus") for n in range(100, 110)]
    file = write_rows(tmp_path / "shots.jsonl", shots)
    config = changed(file_config, evaluate__shots_files=str(file), evaluate__tasks="bbh")
    open_job(config, epath.Path(tmp_path / "work")).check()
    told = capsys.readouterr().out
    assert f"{file}: fields that are not read: note (10)\n" in told
    assert f"{config.data.pool}: tokens of a row: least " in told
    assert f"{config.data.pool}: learned tokens of a row: least " in told


def test_a_dry_run_says_what_is_dropped(file_config, tmp_path, capsys):
    file = spoilt(tmp_path, 2)
    read_plan(changed(file_config, data__pool=str(file)), 1)
    told = capsys.readouterr().out
    assert (
        f"{file}: 2 bad rows dropped, the first of each kind:\n    {file}:1: no assistant" in told
    )
    assert told.count("test_plus.jsonl: 5 rows read") == 1
