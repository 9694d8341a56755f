"""Pool rows that a target's files hold too: told, or taken out."""

import json
from pathlib import Path

import pytest
from etils import epath

from g2is_jax.pipeline import selection_stage, shared_rows
from g2is_jax.pipeline.job import open_job
from tests.support.small_job import changed


@pytest.fixture
def leaking(file_config, tmp_path):
    """The pool's second row is a test row, and its fourth has the prompt of a validation row."""
    pool, validations, tests = (
        getattr(file_config.data, name) for name in ("pool", "validation", "test")
    )
    rows = [json.loads(line) for line in Path(pool).read_text().split("\n") if line]
    test = json.loads(Path(tests.split(",")[0]).read_text().split("\n")[0])
    validation = json.loads(Path(validations.split(",")[0]).read_text().split("\n")[0])
    rows[1]["messages"] = test["messages"]
    rows[3]["messages"][0] = validation["messages"][0]
    file = tmp_path / "pool.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return changed(file_config, data__pool=str(file)), rows


def test_rows_are_told_or_taken_out(leaking, tmp_path, capsys):
    config, rows = leaking
    workdirs = [epath.Path(tmp_path / name) for name in ("report", "remove")]
    kept = open_job(config, workdirs[0])
    kept.check()
    ids = {row.id for row in kept.data.shared}
    assert {rows[1]["id"], rows[3]["id"]} <= ids
    assert {row.file for row in kept.data.shared} >= {"test_plus.jsonl", "val_plus.jsonl"}
    told = capsys.readouterr().out
    assert f"overlap: {len(ids)} of {len(kept.data.pool.records)} pool rows" in told
    assert "kept, --config.data.overlap=remove" in told

    removing = open_job(changed(config, data__overlap="remove"), workdirs[1])
    removing.check()
    assert "; removed" in capsys.readouterr().out
    left = {record.id for record in removing.data.pool.records}
    assert left == {record.id for record in kept.data.pool.records} - ids
    assert len(removing.data.pool.encoded) == len(left)
    assert removing.data.pool.digest != kept.data.pool.digest
    chosen = selection_stage.stage(
        open_job(changed(config, data__overlap="remove", selection__unit="fraction",
                    selection__budget=1.0, run__methods="random"), epath.Path(tmp_path / "all")),
        "random", removing.data.targets[0], 0,
    )  # fmt: skip
    assert len(chosen.rows) == len(left)


def test_a_pool_that_shares_nothing_is_as_it_was(file_config, tmp_path):
    """Neither its stages nor what is told of it change."""
    jobs = [
        open_job(changed(file_config, data__overlap=how), epath.Path(tmp_path / how))
        for how in ("report", "remove")
    ]
    assert all(job.data.shared == [] for job in jobs)
    assert jobs[0].data.pool.digest == jobs[1].data.pool.digest == jobs[1].data.whole_pool.digest
    assert "no pool row" in shared_rows.summary([], 40, removed=True)
    shared_rows.write([], epath.Path(tmp_path / "overlap.json"))
    assert json.loads((tmp_path / "overlap.json").read_text()) == []
