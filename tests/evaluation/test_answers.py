"""Which replies count as right: a table of recorded and awkward ones."""

import json

import pytest

from g2is_jax.evaluation.tasks.answers import extract_answer, is_correct, normalise

RIGHT = [
    # numbers, as in GSM8K and the built-in world
    ("The answer is 42.", "42"),
    ("the answer is 42", "42"),
    ("THE ANSWER IS 42!", "42"),
    ("The answer is: 42", "42"),
    ("The answer is **42**.", "42"),
    ("First 6 * 7 = 42.\nThe answer is 42.\n", "42"),
    ("9 + 8 = 17\n#### 17", "17"),
    ("####17", "17"),
    ("#### 1,234", "1234"),
    ("#### 1234", "1,234"),
    ("The answer is 1,234,567.", "1234567"),
    ("$5", "5"),
    ("The answer is $5.", "5"),
    ("#### $1,250.00", "1250"),
    ("The answer is: 7 apples", "7"),
    ("The answer is 7 apples.", "7"),
    ("The answer is 6 * 7 = 42.", "42"),
    ("The answer is -3.", "-3"),
    ("The answer is -$3", "-3"),
    ("The answer is 3.50.", "3.5"),
    ("The answer is 3.5", "3.50"),
    ("The answer is 10%.", "10"),
    ("The answer is 007", "7"),
    ("The answer is 3. No: the answer is 4.", "4"),
    ("The answer is 3.\nWait.\nThe answer is 4.", "4"),
    ("The answer is 4.\n\nI hope that 1 example helps.", "4"),
    ("So 5 - 2 leaves 3", "3"),
    # choices, as in MMLU and BIG-Bench-Hard
    ("The answer is C.", "C"),
    ("The answer is c", "C"),
    ("The answer is (C).", "C"),
    ("(A)", "(A)"),
    ("A", "(A)"),
    ("the answer is (A)", "(A)"),
    ("So the answer is (B) The quail is the leftmost.", "(B)"),
    ("The answer is B. 4", "B"),
    ("The correct answer is (D): all of them", "D"),
    ("B.", "B"),
    # words
    ("So the answer is False.", "False"),
    ("False", "False"),
    ("The answer is  p  d a k .", "p d a k"),
    ("The answer is 4 left.", "4 left"),
    ("1/2", "1/2"),
    ("Hello, how can I help you today.", "hello, how can i help you today."),
]
WRONG = [
    ("", "42"),
    ("", "A"),
    ("", "False"),
    ("\n \n", "42"),
    ("The answer is", "42"),
    ("The answer is 43.", "42"),
    ("The answer is 4", "42"),
    ("The answer is 42", "4"),
    ("The answer is 142.", "42"),
    ("The answer is 42.5", "42"),
    ("The answer is 3.", "-3"),
    ("The answer is -3.", "3"),
    ("The answer is 3.05", "3.5"),
    ("The answer is 1,2", "12"),
    ("The answer is 1/2.", "2"),
    ("The answer is forty-two.", "42"),
    ("The answer is 4.\nThe answer is 3.", "4"),
    ("42 it seems. The answer is 17.", "42"),
    ("The answer is\n42", "42"),  # only the rest of the line is read
    ("So 5 - 3 leaves 2, I think, of 5", "2"),  # of several numbers the last one counts
    ("The answer is B.", "A"),
    ("The answer is (B) and not (A)", "(A)"),
    ("A dog and a cat", "A"),
    ("Any of them", "A"),
    ("Both A and B", "B"),
    ("The answer is not False.", "False"),
    ("The answer is True.", "False"),
    ("The answer is 4 right.", "4 left"),
    ("The answer is p d k a.", "p d a k"),
    ("I cannot say.", "False"),
]


@pytest.mark.parametrize(("reply", "answer"), RIGHT)
def test_right(reply, answer):
    assert is_correct(reply, answer)


@pytest.mark.parametrize(("reply", "answer"), WRONG)
def test_wrong(reply, answer):
    assert not is_correct(reply, answer)


def test_worked_replies_of_the_benchmarks_are_right(shared_data):
    """Each row's own reply is right for its answer, and for no other row's that differs."""
    count = 0
    for file in sorted([*shared_data.glob("test_*.jsonl"), *shared_data.glob("val_*.jsonl")]):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
            reply = row["messages"][-1]["content"]
            assert is_correct(reply, row["answer"]), row["id"]
            if normalise(other["answer"]) != normalise(row["answer"]):
                assert not is_correct(reply, other["answer"]), row["id"]
            count += 1
    assert count > 1500


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("  no mark\nat all ", "no mark\nat all"),
        ("The answer is 3.", "3."),
        ("The answer is: 3\nor so", "3"),
        ("a\n#### 4\nThe answer is 5", "5"),
        ("The answer is 5 #### 4", "4"),
        ("The answer is", ""),
        ("The answer isn't known", "The answer isn't known"),
        ("", ""),
    ],
)
def test_what_is_read(reply, read):
    assert extract_answer(reply) == read
