"""The metrics of the tasks: the part of a reply that each reads, and its score."""

from collections.abc import Callable
from dataclasses import dataclass

from g2is_jax.evaluation.tasks.answers import (
    choice_letter,
    extract_answer,
    is_correct,
    last_numeral,
    own_part,
    same_answer,
    same_choice,
    same_number,
    stated_numeral,
    stated_or_all,
    strict_numeral,
)
from g2is_jax.evaluation.tasks.latex import read_mathematics
from g2is_jax.evaluation.tasks.likeness import contains, rouge_l, token_f1
from g2is_jax.evaluation.tasks.mathematics import same_mathematics

LOSS = "answer_loss"  # of every task; the only metric of which less is better
ACCURACY = "accuracy"  # of likeliest choices
SHOTS_DROPPED = "shots_dropped"  # a count, the same for every method: no column in a report


@dataclass(frozen=True)
class Metric:
    """Reads a part of a reply, and scores it from 0 to 1 against the row's answer."""

    title: str
    read: Callable[[str], str]
    score: Callable[[str, str], float]


METRICS = {
    "exact_match": Metric("exact match", extract_answer, is_correct),
    "strict": Metric("strict match", strict_numeral, same_number),
    "flexible": Metric("flexible match", last_numeral, same_number),
    "number": Metric("same number", stated_numeral, same_number),
    "choice": Metric("same choice", choice_letter, same_choice),
    "stated": Metric("same stated answer", stated_or_all, same_answer),
    "mathematics": Metric("same mathematics", read_mathematics, same_mathematics),
    "contains": Metric("contains the answer", own_part, contains),
    "f1": Metric("token F1", extract_answer, token_f1),
    "rouge_l": Metric("ROUGE-L", own_part, rouge_l),
}
TITLES = {
    LOSS: "answer loss (lower is better)",
    ACCURACY: "accuracy",
    **{name: metric.title for name, metric in METRICS.items()},
}


def title(metric: str) -> str:
    """Returns a metric's name in a table: its own where none is known, as with the harness."""
    return TITLES.get(metric, metric)
