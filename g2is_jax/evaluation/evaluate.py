"""Answer loss and exact match of a model on test rows."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from g2is_jax.data.batches import lay_out, length_batches
from g2is_jax.data.chat import ChatFormat, Encoded
from g2is_jax.data.records import Record
from g2is_jax.evaluation.tasks import extract_answer, is_correct
from g2is_jax.model.build import Model
from g2is_jax.model.generate import greedy_function, until_end
from g2is_jax.model.lora import Leaves
from g2is_jax.runs.errors import InputError
from g2is_jax.training.loss import example_loss


@dataclass(frozen=True)
class EvaluateConfig:
    """batch_tokens: tokens, padding included, that go through the model at once.

    new_tokens: the longest reply; 0 measures the answer loss alone.
    """

    batch_tokens: int
    new_tokens: int

    def __post_init__(self):
        for field, lowest in (("batch_tokens", 1), ("new_tokens", 0)):
            if getattr(self, field) < lowest:
                raise InputError(f"{field} = {getattr(self, field)}; it must be at least {lowest}")


def answer_losses(
    model: Model, adapter: Leaves, base: Leaves, encoded: Sequence[Encoded], batch_tokens: int
) -> np.ndarray:
    """Mean negative log-likelihood of each example's supervised tokens, in nats, float64 (M,)."""
    losses_M = np.full(len(encoded), np.nan)
    for plan in length_batches(encoded, batch_tokens):
        batch = lay_out(encoded, plan)
        sums_B, counts_B = _loss_function(model)(
            adapter, base, batch.tokens_BT, batch.supervised_BT
        )
        count = len(plan.rows)
        means_B = np.asarray(sums_B, np.float64) / np.maximum(counts_B, 1)
        losses_M[plan.rows] = means_B[:count]
    return losses_M


@functools.cache
def _loss_function(model: Model) -> Callable:
    one = functools.partial(example_loss, model)
    return jax.jit(jax.vmap(one, in_axes=(None, None, 0, 0)))


def greedy_replies(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    chat: ChatFormat,
    records: Sequence[Record],
    max_length: int,
    config: EvaluateConfig,
) -> list[str]:
    """The reply that greedy decoding gives to each row's prompt."""
    room = max_length - config.new_tokens
    if room < 1:
        raise InputError(
            f"evaluate.new_tokens = {config.new_tokens} leaves no room for a prompt within "
            f"model.max_length = {max_length}; lower the one or raise the other"
        )
    prompts = [chat.encode_prompt(record.messages, room) for record in records]
    encoded = [Encoded(prompt, np.zeros(len(prompt), bool), False) for prompt in prompts]
    ends = chat.end_tokens()
    run = greedy_function(model, config.new_tokens, ends)
    replies = [""] * len(records)
    for plan in length_batches(encoded, config.batch_tokens):
        batch = lay_out(encoded, plan)
        lengths_B = np.ones(plan.size_B, np.int32)
        lengths_B[: len(plan.rows)] = [len(prompts[row]) for row in plan.rows]
        out_BT = np.asarray(run(adapter, base, batch.tokens_BT, jnp.asarray(lengths_B)))
        for row, tokens_T in zip(plan.rows, out_BT, strict=False):
            text = chat.tokenizer.decode(until_end(tokens_T, ends), skip_special_tokens=True)
            replies[row] = text
    return replies


def evaluate(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    chat: ChatFormat,
    records: Sequence[Record],
    max_length: int,
    config: EvaluateConfig,
) -> tuple[dict[str, float], list[dict]]:
    """Metrics over the rows, and one object a row: id, loss, and with replies what was read there.

    `answer_loss` is the mean over rows of each row's own mean; `exact_match` the share of rows.
    Rows whose answer was cut off entirely count for neither loss (nan) but count as not matched.
    """
    encoded = chat.encode_all(records, max_length)
    losses_M = answer_losses(model, adapter, base, encoded, config.batch_tokens)
    supervised_M = np.array([example.supervised_T.any() for example in encoded])
    rows: list[dict] = [
        {"id": record.id, "loss": float(loss) if counted else None}
        for record, loss, counted in zip(records, losses_M, supervised_M, strict=True)
    ]
    metrics = {"answer_loss": float(losses_M[supervised_M].mean())}
    if config.new_tokens:
        replies = greedy_replies(model, adapter, base, chat, records, max_length, config)
        for row, record, reply in zip(rows, records, replies, strict=True):
            right = record.answer is not None and is_correct(reply, record.answer)
            row |= {"reply": reply, "read": extract_answer(reply), "correct": right}
        metrics["exact_match"] = float(np.mean([row["correct"] for row in rows]))
    return metrics, rows
