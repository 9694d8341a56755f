"""Recorded replies that name a choice: which letter is read."""

import pytest

from g2is_jax.evaluation.tasks.reply_metrics import METRICS

READ = [
    ("B", "B"),
    ("b", "B"),
    ("B.", "B"),
    ("b)", "B"),
    ("(B)", "B"),
    ("(b).", "B"),
    ("B:", "B"),
    ("**B**", "B"),
    ("**B.** the quail", "B"),
    ("B. the quail", "B"),
    (" B \n", "B"),
    ("$B$", "B"),
    (r"\boxed{B}", "B"),
    (r"$\boxed{\textbf{(B)}}$", "B"),
    ("Option B", "B"),
    ("choice (B)", "B"),
    ("The answer is B.", "B"),
    ("The answer is (B) the quail.", "B"),
    ("The correct answer is: B", "B"),
    ("Answer: B", "B"),
    ("**Answer:** B", "B"),
    ("#### B", "B"),
    ("The answer is B because birds fly.", "B"),
    ("The answer is A as birds fly.", "A"),
    ("A is wrong. The answer is B.", "B"),
    ("The answer is A. No, the answer is B.", "B"),
    ("Birds fly, hence (B).", "B"),
    ("B.\n\nQuestion: what next?\nThe answer is C.", "B"),
    ("The answer is\nB", "B"),
    ("", ""),
    ("A dog and a cat", ""),
    ("Any of them", ""),
    ("Both A and B", ""),
    ("(A) or (B)?", "A"),
    ("Either (A) or (B)", ""),
    ("I do not know.", ""),
    ("The answer is unclear.", ""),
    ("42", ""),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "letter"), READ)
@pytest.mark.parametrize("answer", ["A", "(B)", "c"])
def test_choice(reply, letter, answer):
    metric = METRICS["choice"]
    assert metric.read(reply) == letter
    assert metric.score(letter, answer) == (letter == answer.strip("()").upper())
