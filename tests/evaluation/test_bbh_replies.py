"""Recorded replies to BIG-Bench-Hard's kinds of questions, and what counts as right."""

import json

import pytest

from g2is_jax.evaluation.tasks.reply_metrics import METRICS
from g2is_jax.evaluation.tasks.table import TASKS

THINK = "Let's think step by step.\n"
REPLIES = [
    # choices
    (THINK + "So the answer is (B).", "(B)", 1),
    ("So the answer is (B) The quail is the leftmost.", "(B)", 1),
    ("the answer is B.", "(B)", 1),
    ("The answer is **(B)**.", "(B)", 1),
    ("The answer is: b)", "(B)", 1),
    ("The answer is option B.", "(B)", 1),
    ("(B)", "(B)", 1),
    ("B", "(B)", 1),
    (r"The answer is $\boxed{\text{B}}$", "(B)", 1),
    ("The answer is (A). Wait, the answer is (B).", "(B)", 1),
    ("The answer is (B).\n\nQ: Which is next?\nA: The answer is (C).", "(B)", 1),
    ("So the answer is (A).", "(B)", 0),
    ("So the answer is (B) or (C).", "(C)", 0),
    ("A quail is not in it", "(A)", 0),
    # yes and no, true and false, valid and invalid
    ("So the answer is Yes.", "Yes", 1),
    ("So the answer is yes, he does.", "Yes", 1),
    ("the answer is **no**", "No", 1),
    ("not (not True) = True. So the answer is True.", "True", 1),
    ("False", "False", 1),
    ("The answer is False because it is.", "False", 1),
    ("So the answer is valid.", "valid", 1),
    ("So the answer is invalid.", "valid", 0),
    ("So the answer is not valid.", "valid", 0),
    ("So the answer is No.", "Yes", 0),
    ("So the answer is not False.", "False", 0),
    ("True or False", "False", 0),
    # numbers
    ("1 + 1 + 2 = 4. So the answer is 4.", "4", 1),
    ("So the answer is 4 fruits.", "4", 1),
    ("So the answer is A + B = 33 + -57 = -24.", "-24", 1),
    ("So the answer is −24.", "-24", 1),
    ("So the answer is 1,024.", "1024", 1),
    ("So the answer is 24.", "-24", 0),
    ("So the answer is 4. So the answer is", "4", 1),
    ("So the answer is four.", "4", 0),
    ("So the answer is 14.", "4", 0),
    # lists and words
    ("So the answer is costume counterpart oven.", "costume counterpart oven", 1),
    ("So the answer is costume, counterpart, oven", "costume counterpart oven", 1),
    ('So the answer is "Costume", "counterpart", "oven".', "costume counterpart oven", 1),
    ("So the answer is ] } ].", "] } ]", 1),
    ("So the answer is ]}]", "] } ]", 1),
    ("So the answer is } ] >.", "} ] >", 1),
    ("So the answer is costume oven counterpart.", "costume counterpart oven", 0),
    ("So the answer is costume counterpart.", "costume counterpart oven", 0),
    ("So the answer is ] ] }.", "] } ]", 0),
    # none
    ("", "(B)", 0),
    ("", "Yes", 0),
    ("", "4", 0),
    ("So the answer is", "Yes", 0),
    (THINK, "oven", 0),
    (".", "] } ]", 0),
]


@pytest.mark.parametrize(("reply", "answer", "right"), REPLIES)
def test_stated_answer(reply, answer, right):
    (name,) = TASKS["bbh"].metrics
    metric = METRICS[name]
    assert metric.score(metric.read(reply), answer) == right


def test_worked_examples_of_the_benchmark_are_right(shared_data):
    """Each row's own reply is right for its answer, and for no other answer of its subtask."""
    metric = METRICS["stated"]
    lines = (shared_data / "val_bbh_cot.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        read = metric.read(row["messages"][-1]["content"])
        for other in rows:
            if other["task"] == row["task"]:
                assert metric.score(read, other["answer"]) == (other["answer"] == row["answer"])
