"""Metrics of texts, and what all metrics of the table have in common."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2is_jax.evaluation.tasks.likeness import rouge_l, token_f1
from g2is_jax.evaluation.tasks.reply_metrics import METRICS, TITLES, title
from g2is_jax.evaluation.tasks.table import TASKS, named_task
from g2is_jax.runs.errors import InputError


def score(name: str, reply: str, answer: str) -> float:
    metric = METRICS[name]
    return float(metric.score(metric.read(reply), answer))


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("He lived in New York, I think.", "New York", True),
        ("the NEW YORK times", "new york.", True),
        ("It costs 1,250.", "1,250", True),
        ("new in York", "New York", False),
        ("He lived in New Yorkshire", "New York", False),
        ("", "New York", False),
        ("anything", "", False),
        ("Paris.\nQuestion: and England?\nLondon", "London", False),
    ],
)
def test_contains(reply, answer, right):
    assert score("contains", reply, answer) == right


@pytest.mark.parametrize(
    ("reply", "answer", "f1", "rouge"),
    [
        ("a red fox", "the red fox", 1, 1),
        ("fox red", "red fox", 1, 0.5),
        ("red", "red fox", 2 / 3, 2 / 3),
        ("red red red", "red fox", 0.4, 0.4),
        ("one red two fox three", "red fox", 4 / 7, 4 / 7),
        ("blue cow", "red fox", 0, 0),
        ("", "red fox", 0, 0),
        ("Hm. The answer is red fox.", "red fox", 1, 2 * 2 / 7),
    ],
)
def test_overlap(reply, answer, f1, rouge):
    assert score("f1", reply, answer) == pytest.approx(f1)
    assert score("rouge_l", reply, answer) == pytest.approx(rouge)


WORDS = st.lists(st.sampled_from(["red", "fox", "cow", "sky"]), max_size=8).map(" ".join)


@given(WORDS, WORDS)
def test_overlap_is_symmetric_and_order_can_only_cost(a, b):
    assert token_f1(a, b) == token_f1(b, a)
    assert rouge_l(a, b) == rouge_l(b, a) <= token_f1(a, b)
    assert (rouge_l(a, b) == 1) == (a == b != "")


@pytest.mark.parametrize("name", METRICS)
@given(reply=st.text(max_size=60), answer=st.text(min_size=1, max_size=20))
def test_scores_are_from_0_to_1_whatever_is_written(name, reply, answer):
    assert 0 <= score(name, reply, answer) <= 1


@pytest.mark.parametrize("name", METRICS)
def test_the_answer_alone_is_right_and_no_reply_is_not(name):
    reply = {"choice": "(B)", "strict": "#### 7"}.get(name, "7")
    answer = reply.removeprefix("#### ")
    assert score(name, reply, answer) == 1
    assert score(name, "", answer) == 0


def test_every_metric_of_a_task_has_a_title():
    assert {name for task in TASKS.values() for name in task.metrics} <= TITLES.keys()
    assert len(set(TITLES.values())) == len(TITLES)
    assert title("rouge_l") == "ROUGE-L"
    assert title("some_other") == "some_other"


def test_tasks_by_name():
    assert {name: task.shots for name, task in TASKS.items()} == {
        **{"answer": 0, "gsm8k": 8, "math": 4, "bbh": 3},
        **{"mmlu": 5, "gpqa": 0, "gpqa_5shot": 5},
    }
    for name in METRICS:
        own = named_task(name)
        assert (own.metrics, own.shots, own.letters) == ((name,), 0, "")
    with pytest.raises(InputError, match=r"evaluate\.tasks: 'gsm' is unknown; .*gsm8k.*rouge_l"):
        named_task("gsm")


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("text", ["9" * 5000, "1." + "9" * 5000, "1/" + "9" * 5000, "2^{2000}"])
def test_numbers_beyond_what_can_be_computed_are_no_error(name, text):
    assert score(name, text, r"\pi") == score(name, r"\pi", text) == 0
