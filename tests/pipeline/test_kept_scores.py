"""Scores that are kept: those of finished cases alone, beside those that a file has already."""

import json

import pytest
from etils import epath

from g2is_jax.evaluation.tasks.reply_metrics import LOSS
from g2is_jax.pipeline import evaluate_stage, kept_scores, selection_stage, whole_run
from g2is_jax.pipeline.job import open_job
from g2is_jax.runs.errors import InputError
from tests.support.small_job import changed, small_config


@pytest.fixture(scope="module")
def config(base):
    return changed(small_config(base), run__methods="none,random", evaluate__new_tokens=0)


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory) -> epath.Path:
    folder = epath.Path(tmp_path_factory.mktemp("work"))
    whole_run.run(config, folder)
    return folder


def test_finished_cases_are_kept(config, workdir, tmp_path):
    file = epath.Path(tmp_path) / "scores.jsonl"
    other = {"method": "less", "target": "sorting_letters", "seed": 0, "metrics": {LOSS: 1.0}}
    other["budget"] = f"{config.selection.budget:g} {config.selection.unit}"
    file.write_text(json.dumps(other) + "\n")
    before = sorted(path.name for path in (workdir / "stages").iterdir())
    more = changed(config, run__methods="none,random,length,g2is", run__seeds="0,1")
    assert kept_scores.run(more, workdir, file) == 3  # `none` is the same for every seed
    assert sorted(path.name for path in (workdir / "stages").iterdir()) == before
    found = {(s["method"], s["seed"]): s for s in kept_scores.read_scores(file)}
    assert found.keys() == {("less", 0), ("none", 0), ("none", 1), ("random", 0)}
    assert found["less", 0] == other
    job = open_job(config, workdir)
    target = job.data.targets[0]
    chosen = selection_stage.stage(job, "random", target, 0)
    records = job.data.pool.records
    assert found["random", 0]["chosen"] == [records[n].row for n in chosen.rows]
    tested = evaluate_stage.per_row(
        evaluate_stage.stage(job, None, target, f"none {target.name} seed 0")
    )
    assert found["none", 0]["per_row"][LOSS] == pytest.approx(tested[LOSS], abs=1e-5)
    assert found["none", 0]["chosen"] == []
    with pytest.raises(InputError, match=r"holds scores at .* fraction, these are at 3 rows"):
        kept_scores.run(
            changed(config, selection__unit="rows", selection__budget=3.0, run__replace=True),
            workdir,
            file,
        )


def test_lines_of_something_else_are_refused(tmp_path):
    file = epath.Path(tmp_path) / "scores.jsonl"
    file.write_text(
        '{"method": "less", "target": "t", "seed": 0, "budget": "3 rows"}\n{"loss": 1}\n'
    )
    with pytest.raises(InputError, match=r"scores\.jsonl:2: no line of scores"):
        kept_scores.read_scores(file)
