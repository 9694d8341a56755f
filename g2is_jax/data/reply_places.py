"""Finds the replies of a conversation in its text, by a second text with marks in their place."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from g2is_jax.data.messages import Message
from g2is_jax.data.templates import Span

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Marked:
    """Messages with marks in place of the replies' texts and thoughts, and what each stands for.

    replies: the places of the replies among the messages; the mark of the text of reply number n
    has the number 2 n, that of its thought 2 n + 1.
    """

    messages: list[Message]
    replies: list[int]
    texts: dict[int, str]
    letter: str  # a mark is its number between two of these

    def pieces(self, text: str) -> list[str]:
        """Splits a text at its marks: piece, number, piece, ..., piece."""
        return re.split(f"{self.letter}([0-9]+){self.letter}", text)


@dataclass(frozen=True)
class Place:
    """The places of one reply in a text; None: it is not written there."""

    reply: Span | None
    thought: Span | None
    thought_left_out: bool


def with_marks(messages: Sequence[Message]) -> Marked:
    """Returns the messages with a mark in place of each reply's text, and of its thought."""
    whole = "".join(message.content for message in messages)
    letter = next(letter for letter in map(chr, range(0xE010, 0xF8FF)) if letter not in whole)
    found = Marked([], [], {}, letter)
    for index, message in enumerate(messages):
        if message.role != "assistant":
            found.messages.append(message)
            continue
        number = 2 * len(found.replies)
        opening, thought, closing, reply = split_thought(message.content)
        found.texts[number] = reply
        if thought.strip():
            found.texts[number + 1] = thought
            thought = f"{letter}{number + 1}{letter}"
        content = f"{opening}{thought}{closing}{letter}{number}{letter}"
        found.messages.append(dataclasses.replace(message, content=content))
        found.replies.append(index)
    return found


def split_thought(content: str) -> tuple[str, str, str, str]:
    """Splits a reply: what opens its thought, the thought, what closes it, and the rest.

    All but the last are empty where there is none.
    """
    before, close, reply = content.rpartition(CLOSE)
    opening, tag, thought = before.rpartition(OPEN)
    if not close or opening.strip():
        return "", "", "", content
    rest = reply.lstrip()
    return opening + tag, thought, close + reply[: len(reply) - len(rest)], rest


def find_places(text: str, pattern: str, marked: Marked) -> list[Place] | None:
    """Returns the place of each reply in a text; None where text and pattern differ otherwise.

    pattern: the text of the same conversation, with the marks. What stands between the marks has to
    stand in the text too, and in place of each mark what it stands for, but for blanks around it.
    """
    first, *others = marked.pieces(pattern)
    numbers, pieces = list(map(int, others[::2])), others[1::2]
    if len(set(numbers)) < len(numbers) or not text.startswith(first):
        return None
    spans: dict[int, Span] = {}
    place = len(first)
    for count, (number, piece) in enumerate(zip(numbers, pieces, strict=True), start=1):
        end = _end(text, place, marked.texts[number].strip(), piece, count == len(numbers))
        if end is None:
            return None
        spans[number] = (place, end)
        place = end + len(piece)
    if place != len(text):
        return None
    found = []
    for number in range(0, 2 * len(marked.replies), 2):
        reply, thought = spans.get(number), spans.get(number + 1)
        left_out = thought is None and number + 1 in marked.texts
        found.append(Place(reply, thought, left_out))
    return found


def _end(text: str, place: int, wanted: str, piece: str, last: bool) -> int | None:
    """Returns where a reply ends that begins at `place` and is followed by a piece; None if not."""
    if wanted:
        while text[place : place + 1].isspace():
            place += 1
    if not text.startswith(wanted, place):
        return None
    place += len(wanted)
    while not (text[place:] == piece if last else text.startswith(piece, place)):
        if not text[place : place + 1].isspace():
            return None
        place += 1
    return place
