"""Answer loss and exact match of a model on test rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from g2is_jax.data.chat import ChatFormat, Encoded
from g2is_jax.data.records import Record
from g2is_jax.evaluation.likelihood import likelihoods
from g2is_jax.evaluation.replies import replies
from g2is_jax.evaluation.tasks import extract_answer, is_correct
from g2is_jax.model.build import Model
from g2is_jax.model.generate import Stops
from g2is_jax.model.lora import Leaves
from g2is_jax.model.sampling import GenerateConfig
from g2is_jax.runs.errors import InputError


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
    found = likelihoods(model, adapter, base, encoded, batch_tokens)
    return -found.sums_M / np.maximum(found.counts_M, 1)


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
    greedy = GenerateConfig(config.new_tokens, temperature=0.0, top_p=1.0, seed=0)
    stops = Stops(chat.end_tokens(), chat.stop_strings())
    return replies(model, adapter, base, chat, prompts, greedy, stops, config.batch_tokens)


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
        texts = greedy_replies(model, adapter, base, chat, records, max_length, config)
        for row, record, reply in zip(rows, records, texts, strict=True):
            right = record.answer is not None and is_correct(reply, record.answer)
            row |= {"reply": reply, "read": extract_answer(reply), "correct": right}
        metrics["exact_match"] = float(np.mean([row["correct"] for row in rows]))
    return metrics, rows
