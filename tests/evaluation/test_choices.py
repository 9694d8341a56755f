"""Likeliest letters: equal to a plain loop that scores each letter alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2is_jax.evaluation.choices import differing, letter_likelihoods
from g2is_jax.evaluation.evaluate import EvaluateConfig, evaluate
from g2is_jax.evaluation.tasks.table import TASKS, make_eval_set
from tests.support.characters import Characters, record
from tests.support.tiny_models import logits, lora_config, ours

WORKED = [record(n, f"{n}?", "ABCD"[n % 4]) for n in range(6)]
QUESTIONS = ["which?", "who then?", "x", "what of it?", "why?", "y or z?", "0?"]
LONGEST = 128


@pytest.fixture(scope="module")
def adapted():
    """An adapter so strong that the context decides which letter is likeliest."""
    model, adapter, base = ours("llama", lora_config(dropout=0.1))
    return model, {path: 6 * leaf for path, leaf in adapter.items()}, base


def prompt_of(question: str, shots: int) -> str:
    """A five-shot prompt as it is to be, its first worked rows left out."""
    asked = [row for row in WORKED if row.messages[0].content != question][:5][5 - shots :]
    worked = [f"u:{row.messages[0].content}\nAnswer:\na:{row.answer}\n" for row in asked]
    return "".join(worked) + f"u:{question}\nAnswer:\na:"


def letter_loop(adapted, question: str, shots: int) -> list[float]:
    """Log-probability of each letter after the prompt, from its logits alone, in float64."""
    text = prompt_of(question, shots)
    tokens_T = np.array([*map(ord, text), *[0] * (LONGEST - len(text))], np.int32)
    row_V = logits(*adapted, tokens_T)[len(text) - 1].astype(np.float64)
    return [row_V[ord(letter)] - np.log(np.exp(row_V).sum()) for letter in "ABCD"]


@pytest.fixture(scope="module")
def expected(adapted) -> np.ndarray:
    return np.array([letter_loop(adapted, question, 5) for question in QUESTIONS])


def exam_of(answers):
    rows = [record(n, q, a) for n, (q, a) in enumerate(zip(QUESTIONS, answers, strict=True))]
    return make_eval_set(TASKS["gpqa_5shot"], rows, "test.jsonl", WORKED, "val.jsonl")


def test_accuracy_equals_the_loop(adapted, expected):
    likeliest = ["ABCD"[place] for place in expected.argmax(axis=1)]
    assert len(set(likeliest)) > 1
    answers = [*likeliest[:3], *("ABCD"[("ABCD".index(a) + 1) % 4] for a in likeliest[3:])]
    metrics, rows = evaluate(
        *adapted, Characters(), exam_of(answers), LONGEST, EvaluateConfig(10_000, new_tokens=0)
    )
    found = [[row["log_likelihoods"][letter] for letter in "ABCD"] for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert metrics["accuracy"] == pytest.approx(3 / 7)
    assert metrics["shots_dropped"] == 0
    assert next(iter(metrics)) == "answer_loss"
    assert [row["read"] for row in rows] == likeliest
    assert [row["correct"] for row in rows] == [True] * 3 + [False] * 4
    bare = Characters().encode(exam_of(answers).records[0].messages, LONGEST)
    assert rows[0]["loss"] == pytest.approx(loop_loss(adapted, bare), rel=1e-4)


def loop_loss(adapted, encoded) -> float:
    """Returns the loss of the zero-shot row, whatever the task shows."""
    length = len(encoded.tokens_T)
    logits_TV = logits(*adapted, np.pad(encoded.tokens_T, (0, LONGEST - length))).astype(np.float64)
    losses_T = np.log(np.exp(logits_TV[: length - 1]).sum(axis=1))
    losses_T -= logits_TV[np.arange(length - 1), encoded.tokens_T[1:]]
    return float(losses_T[encoded.supervised_T[1:]].mean())


def test_shots_that_do_not_fit(adapted):
    """Whole ones are left out, the same for all letters of a row."""
    room = len(prompt_of("x", 2)) + len("A\n")
    found, dropped = letter_likelihoods(
        *adapted, Characters(), exam_of("ABCDABC"), room, batch_tokens=10_000
    )
    kept = [
        next(s for s in range(5, -1, -1) if s == 0 or len(prompt_of(q, s)) + 2 <= room)
        for q in QUESTIONS
    ]
    assert 2 in kept
    assert min(kept) < 2
    expected = [letter_loop(adapted, q, s) for q, s in zip(QUESTIONS, kept, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert dropped == sum(5 - shots for shots in kept)


PIECES = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)


@given(
    st.lists(st.integers(0, 3), max_size=5),
    st.lists(PIECES, min_size=2, max_size=4, unique=True),
    st.lists(st.integers(0, 3), max_size=5),
)
def test_what_differs(before, pieces, after):
    """Beginning and own part make each row again, up to an end that all rows share."""
    rows = [np.array([*before, *piece, *after]) for piece in pieces]
    pairs = differing(rows)
    ends = {tuple(row[len(p) + len(c) :]) for row, (p, c) in zip(rows, pairs, strict=True)}
    assert len({tuple(prompt) for prompt, _ in pairs}) == len(ends) == 1
    assert len({tuple(own) for _, own in pairs}) == len(rows)
    for row, (prompt, own) in zip(rows, pairs, strict=True):
        np.testing.assert_array_equal(row[: len(prompt) + len(own)], [*prompt, *own])
    if all(len(own) for _, own in pairs):
        assert len({own[0] for _, own in pairs}) > 1
        assert len({own[-1] for _, own in pairs}) > 1
