"""The log-likelihoods of the letters that may answer a multiple-choice question."""

import sys
from collections.abc import Sequence

import numpy as np

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.messages import Message
from g2is_jax.evaluation.likelihood import Tokens, continuations, likelihoods
from g2is_jax.evaluation.tasks.prompts import Turns, fitted, unanswered
from g2is_jax.evaluation.tasks.table import EvalSet
from g2is_jax.model.build import Model
from g2is_jax.model.lora import Leaves

Pair = tuple[Tokens, Tokens]


def letter_likelihoods(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    chat: ChatFormat,
    eval_set: EvalSet,
    max_length: int,
    batch_tokens: int,
) -> tuple[np.ndarray, int]:
    """Sums the log-likelihood of each letter, (M, letters); counts the shots that did not fit."""
    pairs: list[Pair] = []
    dropped = 0
    for record, worked in zip(eval_set.records, eval_set.shots, strict=True):
        turns = unanswered(eval_set.task.turns(record))
        shots = [eval_set.task.turns(row) for row in worked]

        def render(conversation: Turns) -> list[np.ndarray]:
            return [
                chat.encode((*conversation, Message("assistant", letter)), sys.maxsize).tokens_T
                for letter in eval_set.task.letters
            ]

        rows, left_out = fitted(turns, shots, render, max_length)
        pairs += differing(rows)
        dropped += left_out
    encoded = continuations(pairs, max_length)
    scored = likelihoods(model, adapter, base, encoded, batch_tokens)
    return scored.sums_M.reshape(len(eval_set.records), -1), dropped


def differing(rows: Sequence[np.ndarray]) -> list[Pair]:
    """Splits rows of tokens into the beginning that all share and what each has of its own.

    The end that all share, such as the mark that ends a turn, is left out.
    """
    before = _common(rows)
    after = _common([row[before:][::-1] for row in rows])
    return [(row[:before], row[before : len(row) - after]) for row in rows]


def _common(rows: Sequence[np.ndarray]) -> int:
    """Returns the length of the longest beginning that all rows share."""
    shortest = min(len(row) for row in rows)
    cut_LT = np.array([row[:shortest] for row in rows])
    same_T = np.all(cut_LT == cut_LT[0], axis=0)
    return shortest if same_T.all() else int(np.argmin(same_T))
