"""Prompts of a task: worked rows of the same subtask, then the row without its reply."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath

from g2is_jax.data.files import Record
from g2is_jax.data.messages import Message
from g2is_jax.runs.errors import InputError

ANSWER = "Answer:"
Turns = tuple[Message, ...]


def replied(record: Record) -> Turns:
    """Returns a row's turns with its own reply."""
    return record.messages


def lettered(record: Record) -> Turns:
    """Returns a row's turns, its question ending in "Answer:", its reply the answer's letter."""
    *before, question = unanswered(record.messages)
    if not question.content.rstrip().endswith(ANSWER):
        text = f"{question.content.rstrip()}\n{ANSWER}"
        question = dataclasses.replace(question, content=text)
    return (*before, question, Message("assistant", answer_letter(record)))


def answer_letter(record: Record) -> str:
    """Returns the letter that a row's answer is, with or without brackets."""
    return (record.answer or "").strip().strip("().").upper()


def unanswered(turns: Turns) -> Turns:
    """Returns the turns up to where the model is to reply."""
    return turns[:-1] if turns[-1].role == "assistant" else turns


def choose_shots(
    records: Sequence[Record], worked: Sequence[Record], count: int, file: epath.PathLike
) -> list[list[Record]]:
    """Chooses for each record the first `count` worked rows of its subtask that ask another thing.

    Where neither side has more than one subtask, all worked rows serve. Raises InputError where
    there are too few; `file` is where the worked rows stand.
    """
    if count == 0:
        return [[] for _ in records]
    alone = all(len({row.subtask for row in rows}) == 1 for rows in (records, worked))
    chosen = []
    for record in records:
        asked = unanswered(record.messages)
        usable = (
            row
            for row in worked
            if (alone or row.subtask == record.subtask) and unanswered(row.messages) != asked
        )
        found = list(itertools.islice(usable, count))
        if len(found) < count:
            raise InputError(
                f"{os.fspath(file)}: {len(found)} worked rows of the subtask {record.subtask!r} "
                f'for the test row "{record.id}", the task shows {count}; add rows with that '
                '"subtask", or name another file in evaluate.shots_files'
            )
        chosen.append(found)
    return chosen


def check_letters(records: Sequence[Record], letters: str, file: epath.PathLike) -> None:
    """Raises InputError, which names the first row whose answer is none of the letters."""
    for record in records:
        if record.answer is None or answer_letter(record) not in tuple(letters):
            raise InputError(
                f'{os.fspath(file)}: row "{record.id}": the answer {record.answer!r} is none of '
                f"{', '.join(letters)}, which the task compares; write the letter of the right "
                "choice, or name another task in evaluate.tasks"
            )


def conversation(turns: Turns, shots: Sequence[Turns]) -> Turns:
    """Joins the row's own system message, the shots without theirs, then the row's turns."""
    first = 1 if turns[0].role == "system" else 0
    shown = [message for shot in shots for message in shot if message.role != "system"]
    return (*turns[:first], *shown, *turns[first:])


def fitted(
    turns: Turns,
    shots: Sequence[Turns],
    render: Callable[[Turns], list[np.ndarray]],
    room: int,
) -> tuple[list[np.ndarray], int]:
    """Renders the longest conversation whose rows of tokens all fit into `room`.

    Returns also how many of the first shots are left out. Without any it may still be too long.
    """
    for dropped in range(len(shots) + 1):
        rows = render(conversation(turns, shots[dropped:]))
        if max(len(row) for row in rows) <= room:
            break
    return rows, dropped
