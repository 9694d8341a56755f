"""Recorded replies to word problems: which the strict and which the flexible match counts."""

import pytest

from g2is_jax.evaluation.tasks.reply_metrics import METRICS
from g2is_jax.evaluation.tasks.table import TASKS

BOTH, LAST, FORM, NONE = (1, 1), (0, 1), (1, 0), (0, 0)  # counted by (strict, flexible)
REPLIES = [
    ("5 * 4 = 20 pens.\n#### 20", "20", BOTH),
    ("5 * 4 = 20 pens.\n####20", "20", BOTH),
    ("She has 20 pens. The answer is 20.", "20", BOTH),
    ("the answer is: 20", "20", BOTH),
    ("The answer is **20**.", "20", BOTH),
    ("The answer is $20.", "20", BOTH),
    ("The answer is $20.00", "20", BOTH),
    ("The answer is 20 dollars.", "20", BOTH),
    ("The answer is \\$20.", "20", BOTH),
    ("#### €1,250.50", "1250.5", BOTH),
    ("#### 1,250", "1250", BOTH),
    ("#### 1250", "1,250", BOTH),
    ("#### 1{,}250", "1250", BOTH),
    ("He lost 4 points.\n#### -4", "-4", BOTH),
    ("#### −4", "-4", BOTH),
    ("The answer is -$4.", "-4", BOTH),
    ("#### .5", "0.5", BOTH),
    ("#### 1/2", "0.5", BOTH),
    ("The answer is 1 1/2 cups.", "1.5", BOTH),
    ("The answer is 35%.", "35", BOTH),
    ("The answer is 9. No, I forgot one: the answer is 10.", "10", BOTH),
    ("#### 20\n\nQuestion: Bob has 7 hats. How many?\nAnswer: 7 hats\n#### 7", "20", BOTH),
    ("The answer is 20.\nQ: And with 3 more?\nA: The answer is 23.", "20", BOTH),
    ("#### 20<|user|>\nNow 5 cows", "20", BOTH),
    ("So she has 20 pens.", "20", LAST),
    ("5 x 4 = 20", "20", LAST),
    ("\\boxed{20}", "20", LAST),
    ("The answer is 5 * 4 = 20.", "20", LAST),
    ("Final answer: **20**", "20", LAST),
    ("The answer is: let me see, 20", "20", LAST),
    ("10-3 leaves 7", "7", LAST),
    ("48/2=24", "24", LAST),
    ("The answer is 20, 4 for each of 5.", "20", FORM),
    ("#### 20\nThis took 3 steps.", "20", FORM),
    ("The answer is 20.\n\nStep 2 of 2", "20", FORM),
    ("", "20", NONE),
    ("I do not know.", "20", NONE),
    ("The answer is", "20", NONE),
    ("####", "20", NONE),
    ("#### twenty", "20", NONE),
    ("The answer is 21.", "20", NONE),
    ("The answer is 200.", "20", NONE),
    ("The answer is 2.", "20", NONE),
    ("#### 4", "-4", NONE),
    ("#### -4", "4", NONE),
    ("#### 1,25", "125", NONE),
    ("#### 20.5", "20", NONE),
    ("#### 1/20", "20", NONE),
    ("20 was wrong. The answer is 19.", "20", NONE),
    ("The answer is 10.\nQuestion: what is 20?", "20", NONE),
    ("The answer is 20 * 3 = 60.", "20", NONE),
    ("x20", "20", NONE),
]


@pytest.mark.parametrize(("reply", "answer", "counted"), REPLIES)
def test_strict_and_flexible(reply, answer, counted):
    assert TASKS["gsm8k"].metrics == ("strict", "flexible")
    found = [
        METRICS[name].score(METRICS[name].read(reply), answer) for name in TASKS["gsm8k"].metrics
    ]
    assert tuple(map(int, found)) == counted


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("The answer is 5 * 4 = 20 pens of 30.", "20", True),
        ("Answer: 20 of the 30 pens", "20", True),
        ("of 30 pens 20", "20", True),
        ("The answer is 20 of 30. That took 2 minutes.", "20", True),
        ("3/4", "0.75", True),
        ("0.75", "3/4", True),
        ("The answer is 30 of 20.", "20", False),
        ("no number", "20", False),
        ("20", "no number", False),
    ],
)
def test_number(reply, answer, right):
    """Rows of one's own are scored by the number that is stated, else the last one."""
    metric = METRICS["number"]
    assert metric.score(metric.read(reply), answer) == right
