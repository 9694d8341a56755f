"""Benchmark rows from the hub: what becomes of their rows, without the hub."""

import json
import sys

import pytest
from etils import epath

from g2is_jax.data.files import read_records
from g2is_jax.evaluation.tasks import hub_tasks
from g2is_jax.evaluation.tasks.hub_tasks import (
    BBH_SUBTASKS,
    MATH_SUBJECTS,
    PARTS,
    fetch_task,
    load_from_hub,
)
from g2is_jax.evaluation.tasks.table import TASKS, make_eval_set
from g2is_jax.runs.errors import InputError

DOMAINS = ("Physics", "Chemistry", "Biology")


def gpqa(number: int) -> dict:
    choices = {
        "Correct Answer": f"{number} right\n",
        **{f"Incorrect Answer {wrong}": f"{number} wrong {wrong}" for wrong in (1, 2, 3)},
    }
    return {"Question": f"What is {number}?", "High-level domain": DOMAINS[number % 3], **choices}


def prompt(subtask: str) -> dict:
    examples = [
        f"Q: {subtask} {n}?\nA: Let's think step by step.\n\n{n} it is. So the answer is ({n})."
        for n in "ABC"
    ]
    text = "a notice\n-----\nWork on this.\n\n" + "\n\n".join(examples)
    return {"dataset_name": subtask, "chain_of_thought_prompt": text, "answer_only_prompt": ""}


def mmlu(number: int, split: str) -> dict:
    subject = ("college_physics", "virology")[number % 2]
    choices = [f"{number}{c}" for c in "wxyz"]
    return {"question": f"{split} {number}?", "choices": choices, "answer": 2, "subject": subject}


def hub(repository: str, config: str, split: str) -> list[dict]:
    """Invented rows with the fields that the hub's have."""
    if repository == "openai/gsm8k":
        answer = "2 pens cost $<<2*600=1200>>1200.\n#### 1,200"
        return [{"question": f"{split} {n}?", "answer": answer} for n in range(120)]
    if repository == "EleutherAI/hendrycks_math":
        solution = r"First \boxed{0}, then $\boxed{\frac{1}{2}}$."
        rows = [{"problem": f"{config} {split} {n}?", "solution": solution} for n in range(20)]
        return [{"problem": "unboxed", "solution": "1"}, *rows]
    if repository == "Joschka/big_bench_hard":
        return [prompt(subtask) for subtask in BBH_SUBTASKS]
    if repository == "lukaemon/bbh":
        return [{"input": f"{config} test {n}?", "target": "(A)"} for n in range(2)]
    if repository == "cais/mmlu":
        return [mmlu(n, split) for n in range(10)]
    return [gpqa(n) for n in range(40 if config == "gpqa_extended" else 12)]


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("fetched"))
    for task in PARTS:
        fetch_task(task, folder, hub)
    return {
        (task, split): read_records(folder / f"{split}_{task}.jsonl", need_answer=True)
        for task in PARTS
        for split in ("val", "test")
    }


@pytest.mark.parametrize("task", PARTS)
def test_rows_are_of_the_projects_format_and_serve_their_task(fetched, task):
    """Ids differ, no test question is a worked one, and there are shots enough."""
    worked, tests = fetched[task, "val"], fetched[task, "test"]
    assert not {row.id for row in worked} & {row.id for row in tests}
    assert not {row.messages[0] for row in worked} & {row.messages[0] for row in tests}
    for row in [*worked, *tests]:
        assert (row.source, row.task) == (task, task)
        assert json.loads(row.line).keys() == {
            *("id", "source", "task", "subtask", "messages", "answer")
        }
    for name in {"gpqa": ["gpqa", "gpqa_5shot"]}.get(task, [task]):
        eval_set = make_eval_set(TASKS[name], tests, "test", worked, "val")
        for row, shots in zip(tests, eval_set.shots, strict=True):
            assert {shot.subtask for shot in shots} <= {row.subtask}


def content(row) -> tuple[str, str, str]:
    return row.messages[0].content, row.messages[1].content, row.answer


def test_gsm8k(fetched):
    assert len(fetched["gsm8k", "val"]) == 100
    assert content(fetched["gsm8k", "test"][3]) == (
        "test 3?",
        "2 pens cost $1200.\n#### 1,200",
        "1,200",
    )


def test_math(fetched):
    rows = fetched["math", "val"]
    assert len(rows) == 15 * len(MATH_SUBJECTS)
    assert {row.answer for row in rows} == {r"\frac{1}{2}"}
    assert {row.subtask for row in rows} == set(MATH_SUBJECTS)


def test_bbh(fetched):
    """Three worked rows a subtask; what introduces it stays before the first of them."""
    rows = [row for row in fetched["bbh", "val"] if row.subtask == "navigate"]
    reply = "Let's think step by step.\n\n{0} it is. So the answer is ({0})."
    assert [content(row) for row in rows] == [
        ("Work on this.\n\nQ: navigate A?", reply.format("A"), "(A)"),
        ("Q: navigate B?", reply.format("B"), "(B)"),
        ("Q: navigate C?", reply.format("C"), "(C)"),
    ]
    assert content(fetched["bbh", "test"][0]) == ("Q: boolean_expressions test 0?", "(A)", "(A)")
    assert len(BBH_SUBTASKS) == len({row.subtask for row in fetched["bbh", "test"]}) == 27


def test_mmlu(fetched):
    lead = "The following is a multiple choice question about college physics.\n\n"
    asked = f"{lead}test 0?\nA. 0w\nB. 0x\nC. 0y\nD. 0z\nAnswer:"
    assert content(fetched["mmlu", "test"][0]) == (asked, "The answer is C.", "C")


def test_gpqa(fetched):
    """Letters lead to the right choice; each row's order is its own, whatever else is there."""
    rows = fetched["gpqa", "test"]
    for number, row in enumerate(rows):
        assert f"\n{row.answer}. {number} right\n" in row.messages[0].content
        (again,) = hub_tasks.from_gpqa("", *[gpqa(number)[field] for field in hub_tasks.GPQA])
        assert again[1:] == content(row)
    assert {row.answer for row in rows} == set("ABCD")
    assert len(fetched["gpqa", "val"]) == 40 - 12


def test_absent_field(tmp_path):
    def load(repository, config, split):
        return [{"question": "1?", "reply": "#### 1"}]

    with pytest.raises(InputError) as caught:
        fetch_task("gsm8k", epath.Path(tmp_path), load)
    message = "openai/gsm8k, config main, split test: no field 'answer', the fields are question, "
    assert str(caught.value).startswith(message)
    assert not list(tmp_path.iterdir())


def test_no_rows(tmp_path):
    with pytest.raises(InputError, match=r"^cais/mmlu, config all, split test: no examples; "):
        fetch_task("mmlu", epath.Path(tmp_path), lambda *part: [])


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"datasets.* is absent; pip install -e '\.\[eval\]'"):
        load_from_hub("openai/gsm8k", "main", "train")


def test_no_code_of_a_repository_is_run(monkeypatch):
    class Library:
        def load_dataset(*arguments, **more):
            return [more]

    monkeypatch.setitem(sys.modules, "datasets", Library)
    (asked,) = load_from_hub("openai/gsm8k", "main", "train")
    assert asked == {"split": "train", "trust_remote_code": False}


def test_a_hub_that_refuses(monkeypatch):
    class Refusing:
        def load_dataset(*arguments, **more):
            raise OSError("401\nGated repository")

    monkeypatch.setitem(sys.modules, "datasets", Refusing)
    with pytest.raises(InputError, match=r"^Idavidrein/gpqa, config c, .*401 Gated.*hf auth login"):
        load_from_hub("Idavidrein/gpqa", "c", "train")
