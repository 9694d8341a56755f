"""Overlap between a pool and a target, against a plain comparison of all runs."""

import random

import pytest

from g2is_jax.data.files import Record
from g2is_jax.data.messages import Message
from g2is_jax.data.overlap import WORD, Overlap, OverlapIndex


def record(row: int, prompt: str, reply: str) -> Record:
    messages = (Message("user", prompt), Message("assistant", reply))
    return Record(row, f"id-{row}", "source", "task", "subtask", None, messages, "{}")


def runs(text: str, run: int) -> set[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return {tuple(words[start : start + run]) for start in range(len(words) - run + 1)}


@pytest.mark.parametrize("run", [2, 3, 4])
def test_the_same_rows_as_a_plain_comparison(run):
    """Texts of few different words, so that runs meet often; pool words that no target has."""
    draw = random.Random(run)

    def text(words: str) -> str:
        return " ".join(draw.choice(words) for _ in range(draw.randrange(1, 12)))

    pool = [record(row, text("abcdefxyz"), text("abcdxyz")) for row in range(120)]
    target = [record(row, text("abcdef"), text("abcd")) for row in range(12)]
    held = set().union(*(held_by(row, run) for row in target))
    prompts = {row.messages[0].content for row in target}
    expected = [
        row.row for row in pool if row.messages[0].content in prompts or held_by(row, run) & held
    ]
    assert 3 < len(expected) < 117
    index = OverlapIndex(target, run)
    assert [row.row for row in pool if index.find(row)] == expected


def held_by(row: Record, run: int) -> set[tuple[str, ...]]:
    return set().union(*(runs(message.content, run) for message in row.messages))


def test_the_words_in_common_are_reported():
    """With the row that they are of; a run never goes from one message into the next."""
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    target = [record(0, "Name a colour.", "Red"), record(1, f"Count: {long}?", "Done it is")]
    pool = [
        record(0, "name a colour", "blue"),
        record(1, f"zero {long}", "yes"),
        record(2, "one two three four five six seven", "eight nine ten eleven twelve thirteen"),
        record(3, "Name a colour, please.", "Red"),
    ]
    first_13 = " ".join(["count", *long.split()[:12]])
    assert first_13 not in long
    assert [OverlapIndex(target).find(row) for row in pool] == [
        Overlap(0, True, "name a colour"),
        Overlap(1, False, " ".join(long.split()[:13])),
        None,
        None,
    ]


def test_case_and_punctuation_do_not_hide_a_copy():
    text = "The quick, brown fox -- jumps over the lazy dog; then it sleeps all day."
    row = record(0, "Tell a story", text.upper().replace(",", " ,"))
    assert OverlapIndex([record(0, "Another", text)]).find(row)
    assert OverlapIndex([record(0, "Another", text.replace("lazy", "old"))]).find(row) is None
