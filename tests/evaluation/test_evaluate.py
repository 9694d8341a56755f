"""Answer losses and exact match: equal to a plain loop, whatever the batches."""

import copy
import math

import jax
import numpy as np
import pytest
from etils import epath

from g2is_jax.data.chat import ChatFormat, Encoded
from g2is_jax.data.files import Record, read_records
from g2is_jax.data.messages import Message
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.evaluation import evaluate as room
from g2is_jax.evaluation.evaluate import (
    EvaluateConfig,
    answer_losses,
    encode_prompts,
    evaluate,
    greedy_replies,
)
from g2is_jax.evaluation.tasks.table import TASKS, EvalSet
from g2is_jax.model.build import load_model
from g2is_jax.runs.errors import InputError
from tests.support.tiny_models import FLOAT32, lora_config, random_leaves

LORA = lora_config("q_proj", "v_proj", dropout=0.1)
MAX_LENGTH = 512


@pytest.fixture(scope="module")
def stories(shared_data):
    """The trained model with an adapter away from zero: model, adapter, base, chat format."""
    folder = epath.Path(shared_data / "stories260K")
    model, base = load_model(folder, LORA, FLOAT32)
    return (
        model,
        random_leaves(model.adapter_shapes),
        base,
        ChatFormat(load_tokenizer(folder), "auto"),
    )


@pytest.fixture(scope="module")
def records(shared_data):
    """Short rows of unequal lengths, each with an answer."""
    rows = read_records(epath.Path(shared_data / "val_bbh_boolean_expressions.jsonl"))
    return sorted(rows, key=lambda r: r.id)[:9]


def eval_set(records) -> EvalSet:
    """The rows as the default task asks them."""
    return EvalSet(TASKS["answer"], records, [()] * len(records))


def replies_to(model, adapter, base, chat, records, max_length, config) -> list[str]:
    prompts, _ = encode_prompts(chat, eval_set(records), max_length, config.new_tokens)
    return greedy_replies(model, adapter, base, chat, prompts, config)


def loop_loss(model, adapter, base, example: Encoded) -> float:
    """Returns the loss in float64, one row and one token at a time."""
    logits_TV = np.asarray(model.logits(adapter, base, example.tokens_T), np.float64)
    losses = []
    for place in range(1, len(example.tokens_T)):
        if example.supervised_T[place]:
            row_V = logits_TV[place - 1]
            losses.append(np.log(np.exp(row_V).sum()) - row_V[example.tokens_T[place]])
    return float(np.mean(losses)) if losses else 0.0


@pytest.fixture(scope="module")
def rows_and_losses(stories):
    model, adapter, base, _ = stories
    rng = np.random.default_rng(1)
    rows = [
        Encoded(rng.integers(3, 512, n).astype(np.int32), np.arange(n) > n // 2, False)
        for n in (14, 3, 24, 9, 15, 24)
    ]
    rows.append(Encoded(rows[0].tokens_T, np.zeros(14, bool), True))  # its answer was cut off
    run = jax.jit(model.logits)

    class Jitted:
        logits = staticmethod(run)

    return rows, [loop_loss(Jitted, adapter, base, row) for row in rows]


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_answer_losses_equal_a_loop(stories, rows_and_losses, batch_tokens):
    model, adapter, base, _ = stories
    rows, expected = rows_and_losses
    losses_M = answer_losses(model, adapter, base, rows, batch_tokens)
    assert losses_M.dtype == np.float64
    np.testing.assert_allclose(losses_M, expected, rtol=2e-5)


def test_order_does_not_matter(stories, rows_and_losses):
    model, adapter, base, _ = stories
    rows, expected = rows_and_losses
    losses_M = answer_losses(model, adapter, base, rows[::-1], 60)
    np.testing.assert_allclose(losses_M, expected[::-1], rtol=2e-5)


def test_no_dropout_here(stories, rows_and_losses):
    """The model was built with dropout; two measurements agree bit for bit."""
    model, adapter, base, _ = stories
    first, second = (answer_losses(model, adapter, base, rows_and_losses[0], 60) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_replies_do_not_depend_on_batches(stories, records):
    model, adapter, base, chat = stories
    replies = [
        replies_to(model, adapter, base, chat, records[:5], MAX_LENGTH, EvaluateConfig(tokens, 12))
        for tokens in (1, 10_000)
    ]
    assert replies[0] == replies[1]
    assert len(set(replies[0])) > 1


def test_reply_continues_a_story(stories):
    """The trained model, asked in a format it does not know, still tells a story."""
    model, _, base, chat = stories
    messages = (Message("user", "Once upon a time"),)
    record = Record(0, "once", "", "", "", None, messages, "")
    config = EvaluateConfig(64, 30)
    (reply,) = replies_to(model, model.zero_adapter(), base, chat, [record], MAX_LENGTH, config)
    assert len(reply.split()) > 5
    assert "<|" not in reply


def test_replies_stop_at_the_chat_formats_strings(stories, records):
    """An end-of-turn mark may be plain text to the tokenizer."""
    model, adapter, base, chat = stories
    arguments = (records[:5], MAX_LENGTH, EvaluateConfig(10_000, 40))
    free = replies_to(model, adapter, base, chat, *arguments)
    marked = copy.copy(chat)
    mark = free[0][9:12]
    marked.stop_strings = lambda: (mark,)
    stopped = replies_to(model, adapter, base, marked, *arguments)
    assert stopped == [reply.partition(mark)[0] for reply in free]
    assert len(stopped[0]) <= 9 < len(free[0])


def test_replies_up_to_the_last_position(stories, records):
    """Prompts that fill the room, of no width that is a multiple of eight."""
    model, adapter, base, chat = stories
    most = model.config.max_position_embeddings
    messages = (Message("user", "Once upon a time. " * most),)
    record = Record(0, "long", "", "", "", None, messages, "")
    config = EvaluateConfig(2 * most, 11)
    (reply,) = replies_to(model, adapter, base, chat, [record], most, config)
    assert reply


def test_no_room_for_the_prompt(stories, records):
    model, adapter, base, chat = stories
    with pytest.raises(InputError, match=r"new_tokens = 64 .* model\.max_length = 64"):
        replies_to(model, adapter, base, chat, records, 64, EvaluateConfig(64, 64))


@pytest.fixture
def recorded(monkeypatch, records):
    """Replies as if the model had given them: right, right, wrong, ..., wrong."""
    replies = [f"I think. The answer is {r.answer}." for r in records[:2]]
    replies += ["The answer is perhaps."] * (len(records) - 2)
    monkeypatch.setattr(room, "greedy_replies", lambda *arguments: replies)
    return replies


def test_exact_match_of_recorded_replies(stories, records, recorded):
    model, adapter, base, chat = stories
    metrics, rows = evaluate(
        model, adapter, base, chat, eval_set(records), MAX_LENGTH, EvaluateConfig(512, 12)
    )
    assert metrics.keys() == {"answer_loss", "exact_match"}
    assert metrics["exact_match"] == pytest.approx(2 / len(records))
    assert [row["correct"] for row in rows] == [True, True] + [False] * (len(records) - 2)
    assert [row["reply"] for row in rows] == recorded
    assert rows[2]["read"] == "perhaps."
    assert [row["id"] for row in rows] == [record.id for record in records]
    assert metrics["answer_loss"] == pytest.approx(np.mean([row["loss"] for row in rows]))
    encoded = chat.encode_all(records, MAX_LENGTH)
    expected = answer_losses(model, adapter, base, encoded, 512)
    np.testing.assert_allclose([row["loss"] for row in rows], expected)


def test_losses_alone(stories, records):
    model, adapter, base, chat = stories
    metrics, rows = evaluate(
        model, adapter, base, chat, eval_set(records), MAX_LENGTH, EvaluateConfig(512, 0)
    )
    assert metrics.keys() == {"answer_loss"}
    assert rows[0].keys() == {"id", "loss"}


@pytest.mark.usefixtures("recorded")
def test_rows_cut_off_count_for_no_loss(stories, records):
    """At a length that leaves the answer of some rows away, these have no loss."""
    model, adapter, base, chat = stories
    encoded = chat.encode_all(records, MAX_LENGTH)
    cut = sorted(int(np.argmax(example.supervised_T)) for example in encoded)[4]
    metrics, rows = evaluate(
        model, adapter, base, chat, eval_set(records), cut, EvaluateConfig(512, 12)
    )
    kept = [row["loss"] for row in rows if row["loss"] is not None]
    assert 0 < len(kept) < len(rows)
    assert metrics["answer_loss"] == pytest.approx(np.mean(kept))
    assert not math.isnan(metrics["answer_loss"])
    assert metrics["exact_match"] == pytest.approx(2 / len(records))
