"""Settings and tasks of lm-evaluation-harness: what is wrong with them is said before any work."""

import importlib
import sys
from dataclasses import dataclass

import pytest

from g2is_jax.evaluation.harness_tasks import HarnessConfig
from g2is_jax.runs.errors import InputError
from tests.support.harness_folder import config_of, write_tasks


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": "Say", "choices": ["red"], "gold": 0, "answer": "red", "text": "red"}]
    write_tasks(folder, rows * 2, rows, rows, until=".")
    return folder


def test_folder_beside_the_built_in_tasks(harness, folder, monkeypatch):
    """These are read only where the folder has not all that is asked for."""
    asked = []
    monkeypatch.setattr(harness, "_task_manager", harness._task_manager.__wrapped__)  # uncached
    monkeypatch.setattr(
        harness,
        "TaskManager",
        lambda **arguments: asked.append(arguments) or TaskNames(["tiny_first"]),
    )
    for tasks in (("tiny_first",), ("tiny_first", "gsm8k")):
        harness.task_manager(config_of(folder, *tasks))
    harness.task_manager(config_of("", "gsm8k"))
    own = {"include_path": str(folder), "include_defaults": False}
    assert asked == [own, own, {"include_path": str(folder)}, {"include_path": None}]


@dataclass
class TaskNames:
    """Stands for a task manager: the names that it knows."""

    all_tasks: list[str]


def test_a_name_that_nobody_knows(harness, monkeypatch):
    monkeypatch.setattr(harness, "task_manager", lambda config: TaskNames(["tiny_first"]))
    with pytest.raises(InputError, match="no task 'tiny_frist'; did you mean tiny_first"):
        harness.check_tasks(config_of("", "tiny_frist"))
    with pytest.raises(InputError, match="no task 'mmlu'; `lm-eval ls tasks` lists all"):
        harness.check_tasks(config_of("", "mmlu"))


def test_a_task_without_its_data(harness, folder):
    (folder / "tiny_text.jsonl").unlink()
    harness.check_tasks(config_of(folder, "tiny_group"))
    with pytest.raises(InputError, match=r"_tasks = tiny_text cannot be loaded .*text\.jsonl"):
        harness.check_tasks(config_of(folder, "tiny_text"))


def test_a_task_by_two_names(harness, folder):
    with pytest.raises(
        InputError, match=r"tiny_group,tiny_first cannot be loaded .*Duplicate task"
    ):
        harness.check_tasks(config_of(folder, "tiny_group", "tiny_first"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shots": -2}, "harness_shots = -2; it must be at least -1"),
        ({"limit": -1}, "harness_limit = -1; it must be at least 0"),
        ({"include": "nowhere"}, "harness_include = nowhere: no such folder"),
    ],
)
def test_wrong_settings(fields, message):
    plain = {"tasks": ("gsm8k",), "include": "", "shots": 0, "limit": 0, "chat": False}
    with pytest.raises(InputError, match=message):
        HarnessConfig(**plain | fields)


def test_digest_is_of_all_files_but_compiled_code(tmp_path):
    (tmp_path / "below").mkdir()
    seen = {config_of(tmp_path).digest(), config_of("").digest()}
    for name, text in (("a.yaml", "x"), ("below/a.yaml", "x"), ("below/data.jsonl", "1")):
        (tmp_path / name).write_text(text)
        seen.add(config_of(tmp_path).digest())
    (tmp_path / "a.yaml").write_text("y")
    seen.add(config_of(tmp_path).digest())
    assert len(seen) == 6
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("z")
    assert config_of(tmp_path).digest() in seen


def test_without_lm_eval(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "g2is_jax.evaluation.harness", raising=False)
    with pytest.raises(InputError, match=r'pip install -e "\.\[eval\]"'):
        importlib.import_module("g2is_jax.evaluation.harness")
