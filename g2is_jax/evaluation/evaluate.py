"""Answer loss of a model on test rows, and the metrics of their task."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from g2is_jax.data.chat import ChatFormat, Encoded
from g2is_jax.data.files import Record
from g2is_jax.evaluation.choices import letter_likelihoods
from g2is_jax.evaluation.likelihood import likelihoods
from g2is_jax.evaluation.replies import replies
from g2is_jax.evaluation.tasks.prompts import answer_letter, fitted
from g2is_jax.evaluation.tasks.reply_metrics import ACCURACY, LOSS, METRICS, SHOTS_DROPPED
from g2is_jax.evaluation.tasks.table import EvalSet, Task
from g2is_jax.model.build import Model
from g2is_jax.model.generate import Stops
from g2is_jax.model.lora import Leaves
from g2is_jax.model.sampling import GenerateConfig
from g2is_jax.runs.errors import InputError


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of an evaluation.

    batch_tokens: tokens, padding included, that go through the model at once.
    new_tokens: the longest reply; 0 generates none, so that a task of replies has its loss alone.
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
    """Returns each example's mean negative log-likelihood of a supervised token, in nats (M,)."""
    scored = likelihoods(model, adapter, base, encoded, batch_tokens)
    return -scored.sums_M / np.maximum(scored.counts_M, 1)


def encode_prompts(
    chat: ChatFormat, eval_set: EvalSet, max_length: int, new_tokens: int
) -> tuple[list[np.ndarray], int]:
    """Encodes prompts that leave room for their replies; counts the shots that did not fit."""
    room = max_length - new_tokens
    if room < 1:
        raise InputError(
            f"evaluate.new_tokens = {new_tokens} leaves no room for a prompt within "
            f"model.max_length = {max_length}; lower the one or raise the other"
        )
    prompts, dropped = [], 0
    for record, worked in zip(eval_set.records, eval_set.shots, strict=True):
        turns, shots = eval_set.task.turns(record), [eval_set.task.turns(row) for row in worked]
        (prompt,), left_out = fitted(
            turns, shots, lambda asked: [chat.encode_prompt(asked, sys.maxsize)], room
        )
        prompts.append(prompt if len(prompt) <= room else chat.encode_prompt(turns, room))
        dropped += left_out
    return prompts, dropped


def greedy_replies(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    chat: ChatFormat,
    prompts: Sequence[np.ndarray],
    config: EvaluateConfig,
) -> list[str]:
    """Returns the reply of greedy decoding to each prompt."""
    greedy = GenerateConfig(config.new_tokens, temperature=0.0, top_p=1.0, seed=0)
    stops = Stops(chat.end_tokens(), chat.stop_strings())
    return replies(model, adapter, base, chat, prompts, greedy, stops, config.batch_tokens)


def evaluate(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    chat: ChatFormat,
    eval_set: EvalSet,
    max_length: int,
    config: EvaluateConfig,
) -> tuple[dict[str, float], list[dict]]:
    """Returns metrics over the rows, and an object for each row: id, loss, answer and scores.

    `answer_loss` is the mean over rows of each row's own mean, without shots; the task's metrics
    are means of its scores. Rows whose answer was cut off entirely count for no loss (None).
    """
    encoded = chat.encode_all(eval_set.records, max_length)
    losses_M = answer_losses(model, adapter, base, encoded, config.batch_tokens)
    supervised_M = np.array([example.supervised_T.any() for example in encoded])
    rows: list[dict] = [
        {"id": record.id, "loss": float(loss) if counted else None}
        for record, loss, counted in zip(eval_set.records, losses_M, supervised_M, strict=True)
    ]
    metrics = {LOSS: float(losses_M[supervised_M].mean())}
    if eval_set.task.letters:
        sums_ML, dropped = letter_likelihoods(
            model, adapter, base, chat, eval_set, max_length, config.batch_tokens
        )
        pairs = zip(eval_set.records, sums_ML, strict=True)
        judged = [judge_letters(eval_set.task, record, sums_L) for record, sums_L in pairs]
    elif config.new_tokens:
        prompts, dropped = encode_prompts(chat, eval_set, max_length, config.new_tokens)
        texts = greedy_replies(model, adapter, base, chat, prompts, config)
        judged = [
            judge_reply(eval_set.task, record, reply)
            for record, reply in zip(eval_set.records, texts, strict=True)
        ]
    else:
        return metrics, rows
    rows = [row | judgement for row, judgement in zip(rows, judged, strict=True)]
    for name in eval_set.task.metrics:
        metrics[name] = float(np.mean([row["scores"][name] for row in rows]))
    if eval_set.task.shots:
        metrics[SHOTS_DROPPED] = dropped
    return metrics, rows


def judge_reply(task: Task, record: Record, reply: str) -> dict:
    """Returns the reply, the answer that the main metric reads in it, and its scores."""
    read = {name: METRICS[name].read(reply) for name in task.metrics}
    scores = {
        name: float(METRICS[name].score(text, record.answer)) if record.answer else 0.0
        for name, text in read.items()
    }
    main = task.metrics[0]
    return {"reply": reply, "read": read[main], "correct": scores[main] == 1.0, "scores": scores}


def judge_letters(task: Task, record: Record, sums_L: np.ndarray) -> dict:
    """Returns the log-likelihoods of the letters, the likeliest, and whether it is right."""
    likeliest = task.letters[int(np.argmax(sums_L))]
    right = likeliest == answer_letter(record)
    return {
        "log_likelihoods": dict(zip(task.letters, sums_L.tolist(), strict=True)),
        "read": likeliest,
        "correct": right,
        "scores": {ACCURACY: float(right)},
    }
