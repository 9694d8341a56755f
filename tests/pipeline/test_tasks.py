"""A job that measures by tasks: a user's own rows end to end, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from etils import epath

from experiments import run_all
from g2is_jax.pipeline import evaluate_stage, scoring
from g2is_jax.pipeline.job import open_job
from g2is_jax.runs.errors import InputError
from tests.support.small import row, stages, write_rows
from tests.support.small_job import changed, small_config


def lettered(number: int) -> dict:
    """A question with choices, of two subtasks."""
    messages = [
        {
            "role": "user",
            "content": f"Pick: {number} + 1\nA. {number}\nB. {number + 1}\nC. 0\nD. 1",
        },
        {"role": "assistant", "content": "B"},
    ]
    return {"messages": messages, "answer": "B", "subtask": "odd" if number % 2 else "even"}


@pytest.fixture(scope="module")
def tasks_config(base, files, tmp_path_factory):
    """Target `letters`, with shots from another file, and target `own`, whose answers are words."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, numbers in (("val", range(40, 44)), ("test", range(50, 55))):
        write_rows(folder / f"{name}_letters.jsonl", [lettered(n) for n in numbers])
        write_rows(folder / f"{name}_own.jsonl", [row(n) for n in numbers])
    write_rows(folder / "shots.jsonl", [lettered(n) for n in range(20, 32)])
    return changed(
        small_config(base),
        data__pool=str(files / "pool.jsonl"),
        data__validation=f"{folder / 'val_letters.jsonl'},{folder / 'val_own.jsonl'}",
        data__test=f"{folder / 'test_letters.jsonl'},{folder / 'test_own.jsonl'}",
        model__max_length=128,
        evaluate__tasks="mmlu,contains",
        evaluate__shots_files=f"{folder / 'shots.jsonl'},",
        run__methods="none",
    )


@pytest.fixture(scope="module")
def finished(tasks_config, tmp_path_factory) -> tuple[Path, list[dict]]:
    workdir = tmp_path_factory.mktemp("run") / "work"
    return workdir, run_all.run(tasks_config, epath.Path(workdir))


def test_scores_have_the_metrics_of_each_targets_task(finished):
    _, scores = finished
    assert [score["target"] for score in scores] == ["letters", "own"]
    for score in scores:
        names = {"letters": ["accuracy", "shots_dropped"], "own": ["contains"]}[score["target"]]
        assert list(score["metrics"]) == ["answer_loss", *names]
        assert 0 <= score["metrics"][names[0]] <= 1
    assert 0 < scores[0]["metrics"]["shots_dropped"] <= 25


def test_report_names_the_metrics_and_no_count_of_shots(finished):
    table = (finished[0] / "report" / "results.md").read_text()
    assert "| accuracy | gain over random |" in table
    assert "| contains the answer | gain over random |" in table
    assert "shots" not in table


def test_rows_say_what_was_read(finished, tasks_config):
    workdir, scores = finished
    job = open_job(tasks_config, epath.Path(workdir))
    letters, own = (
        [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
        for folder in (
            evaluate_stage.stage(job, None, target, "again") for target in job.data.targets
        )
    )
    assert [one["correct"] for one in letters] == [one["read"] == "B" for one in letters]
    for one in letters:
        likeliest = max(one["log_likelihoods"], key=one["log_likelihoods"].get)
        assert one["read"] == likeliest
    assert all(one["reply"] for one in own)
    mean = sum(one["scores"]["contains"] for one in own) / len(own)
    assert scores[1]["metrics"]["contains"] == mean


def test_the_answer_loss_does_not_depend_on_the_task(finished, tasks_config, tmp_path):
    """And another task, or other shots, is another stage beside the first."""
    workdir, scores = finished
    shutil.copytree(workdir, tmp_path / "work")
    other = write_rows(tmp_path / "shots.jsonl", [lettered(n) for n in range(20, 33)])
    seen = set(stages(tmp_path / "work"))
    for made, fields in (
        (1, {"evaluate__shots_files": f"{other},"}),
        (2, {"evaluate__tasks": "gpqa_5shot,f1"}),
    ):
        config = changed(tasks_config, run__replace=True, **fields)
        again = scoring.run(config, epath.Path(tmp_path / "work"))
        assert [s["metrics"]["answer_loss"] for s in again] == [
            s["metrics"]["answer_loss"] for s in scores
        ]
        found = set(stages(tmp_path / "work"))
        assert len(found - seen) == made
        seen = found


def refused(config, workdir: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_job(config, epath.Path(workdir)).check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"tasks": "mmlu,contains,f1"},
            "evaluate.tasks = 'mmlu,contains,f1' names 3 for 2 targets",
        ),
        ({"tasks": ""}, "evaluate.tasks: '' is unknown; choose from the tasks answer, gsm8k"),
        ({"tasks": "mmlu,exact"}, "evaluate.tasks: 'exact' is unknown; choose"),
        ({"shots_files": "gone.jsonl,"}, "gone.jsonl: no such file; check data.pool"),
        ({"shots_files": "a,b,c"}, "evaluate.shots_files = 'a,b,c' names 3 for 2 targets"),
    ],
)
def test_fields_that_do_not_fit(tasks_config, tmp_path, fields, told):
    config = changed(tasks_config, **{f"evaluate__{name}": v for name, v in fields.items()})
    assert refused(config, tmp_path).startswith(told)


def test_files_that_do_not_serve_the_task(tasks_config, tmp_path):
    own = tasks_config.data.test.split(",")[1]
    validation = tasks_config.data.validation.split(",")[0]
    few = refused(changed(tasks_config, evaluate__shots_files=""), tmp_path)
    assert few.startswith(f"{validation}: 2 worked rows of the subtask 'even' for the test row ")
    words = refused(changed(tasks_config, evaluate__tasks="gpqa"), tmp_path)
    assert words.startswith(f"{own}: row \"row-50\": the answer '51' is none of A, B, C, D")
    open_job(changed(tasks_config, evaluate__tasks="contains"), epath.Path(tmp_path)).check()
