"""A second target on a finished folder: what is reused, what is the same, what is refused."""

import json

import pytest
from etils import epath

from g2is_jax.pipeline import added_target, whole_run
from g2is_jax.pipeline.command_line import started_with
from g2is_jax.runs.errors import InputError
from tests.support.small import stages
from tests.support.small_job import changed, job_of_files, small_config


@pytest.fixture(scope="module")
def config(base, files):
    return job_of_files(
        base,
        files,
        measured=True,
        run__methods="less_rr,g2is",
        evaluate__new_tokens=0,
    )


@pytest.fixture(scope="module")
def second(files, tmp_path_factory) -> tuple[str, str]:
    """Files of another target: the first one's rows, in another order."""
    folder = tmp_path_factory.mktemp("second")
    for part in ("val", "test"):
        lines = (files / f"{part}_plus.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{part}_minus.jsonl").write_text("".join(lines[:2]))
    return str(folder / "val_minus.jsonl"), str(folder / "test_minus.jsonl")


def test_what_belongs_to_the_pool_is_reused(config, second, tmp_path, capsys):
    """The same scores as a run with both targets from the start."""
    workdir, whole = epath.Path(tmp_path / "added"), epath.Path(tmp_path / "whole")
    whole_run.run(config, workdir)
    before = set(stages(workdir))
    capsys.readouterr()
    added_target.run(config, workdir, *second, "")
    new = sorted(name.partition("-")[0] for name in set(stages(workdir)) - before)
    assert new == ["evaluate"] * 2 + ["features"] + ["finetune"] * 2 + ["selection"] * 2
    printed = capsys.readouterr().out
    assert "features pool adam seed 0: reused" in printed
    assert "features val_minus sgd seed 0: done" in printed
    both = started_with(workdir, config.copy_and_resolve_references())
    both.run.replace = False
    assert both.data.validation.split(",") == [config.data.validation, second[0]]
    whole_run.run(both, whole)
    scores = [json.loads((of / "report" / "scores.json").read_text()) for of in (workdir, whole)]
    measured = [[(s["method"], s["target"], s["metrics"]) for s in of] for of in scores]
    assert measured[0] == measured[1]
    assert {target for _, target, _ in measured[0]} == {"plus", "minus"}


def test_without_test_rows_it_is_selected_for(config, second, tmp_path):
    bare = changed(config, data__test="")
    added_target.run(bare, epath.Path(tmp_path), second[0], "", "")
    assert not any(name.startswith("finetune") for name in stages(tmp_path))
    names = {place.name for place in (tmp_path / "selections" / "g2is-0").iterdir()}
    assert {"plus", "minus"} <= names


def test_the_targets_of_the_built_in_world_stay(base, second, tmp_path):
    config = changed(small_config(base), run__methods="random", evaluate__new_tokens=0)
    added_target.run(config, epath.Path(tmp_path), *second, "")
    found = json.loads((tmp_path / "report" / "scores.json").read_text())
    assert [score["target"] for score in found] == ["sorting_letters", "minus"]


@pytest.mark.parametrize(
    ("validation", "test", "task", "fields", "told"),
    [
        ("x/val_plus.jsonl", "t.jsonl", "", {}, r"has a target plus already, of .*val_plus\.jsonl"),
        ("val_new.jsonl", "", "", {}, "--test: the other targets have test rows; give --test too"),
        ("val_new.jsonl", "t.jsonl", "", {"evaluate__tasks": "gsm8k,mmlu"},
         "--task: the targets have tasks of their own, gsm8k, mmlu; name the new one's"),
    ],
)  # fmt: skip
def test_targets_that_cannot_be_added(config, validation, test, task, fields, told):
    changed_config = changed(config, **fields)
    shown, measured = ([config.data.validation], [config.data.test])
    with pytest.raises(InputError, match=told):
        added_target.with_target(changed_config, shown, measured, validation, test, task)


def test_tasks_and_shots_of_each_target(config):
    def tasks_with(task: str, **fields) -> str:
        found = added_target.with_target(
            changed(config, **fields), ["val_a.jsonl", "b.jsonl"], ["c", "d"], "e.jsonl", "f", task
        )
        return f"{found.evaluate.tasks} {found.evaluate.shots_files}".strip()

    assert tasks_with("") == "answer"
    assert tasks_with("gsm8k") == "answer,answer,gsm8k"
    assert tasks_with("mmlu", evaluate__tasks="gsm8k,bbh") == "gsm8k,bbh,mmlu"
    assert tasks_with("gsm8k", evaluate__tasks="gsm8k,gsm8k") == "gsm8k"
    assert tasks_with("", evaluate__shots_files="x,y") == "answer x,y,"
