"""Tasks of lm-evaluation-harness in a run: measured once for each adapter, and in the report."""

import json

import pytest
from etils import epath

from experiments import run_all
from g2is_jax.runs.errors import InputError
from tests.support.harness_folder import write_tasks
from tests.support.small import stages
from tests.support.small_job import changed

CHOICES = [{"question": f"Say {n}", "choices": ["red", "7"], "gold": n % 2} for n in range(4)]
REPLIES = [{"question": "Add 3", "answer": "7"}]
TEXTS = [{"text": "It is red."}, {"text": "Add 3 and 4"}]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    write_tasks(folder, CHOICES, REPLIES, TEXTS, until=".")
    return folder


@pytest.fixture
def harness_config(file_config, folder):
    """Of two targets; the base alone is measured."""
    return changed(
        file_config,
        run__methods="none",
        evaluate__new_tokens=0,
        evaluate__harness_tasks="tiny_text,tiny_first",
        evaluate__harness_include=str(folder),
    )


@pytest.mark.usefixtures("harness")
def test_one_measurement_for_all_targets(harness_config, folder, tmp_path):
    workdir = tmp_path / "work"
    scores = run_all.run(harness_config, epath.Path(workdir))
    (measured,) = (name for name in stages(workdir) if name.startswith("harness-"))
    assert [score["target"] for score in scores] == ["plus", "pick"]
    results = json.loads((workdir / "stages" / measured / "results.json").read_text())
    expected = {
        "tiny_first/acc": results["results"]["tiny_first"]["acc,none"],
        "tiny_text/byte_perplexity": results["results"]["tiny_text"]["byte_perplexity,none"],
    }
    for score in scores:
        assert score["metrics"].items() > expected.items()
        assert score["less_is_better"] == ["tiny_text/byte_perplexity"]
    assert "| tiny_first/acc |" in (workdir / "report" / "results.md").read_text()
    manifest = json.loads((workdir / "stages" / measured / "manifest.json").read_text())
    assert manifest["settings"]["lm_eval"] == results["lm_eval_version"]
    assert manifest["counts"] == {"devices": 1, "rows": 6}

    run_all.run(harness_config, epath.Path(workdir))
    assert sum(name.startswith("harness-") for name in stages(workdir)) == 1
    with (folder / "tiny_first.jsonl").open("a") as file:
        file.write(json.dumps(CHOICES[0]) + "\n")
    run_all.run(harness_config, epath.Path(workdir))
    assert sum(name.startswith("harness-") for name in stages(workdir)) == 2


@pytest.mark.usefixtures("harness")
def test_a_wrong_task_is_said_before_any_work(harness_config, folder, tmp_path):
    (folder / "tiny_first.jsonl").unlink()
    with pytest.raises(InputError, match=r"evaluate\.harness_tasks = .* cannot be .*first\.jsonl"):
        run_all.run(harness_config, epath.Path(tmp_path / "work"))
    assert stages(tmp_path / "work") == []
