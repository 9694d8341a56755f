"""Finds pool rows that hold a prompt of a target's file, or a long run of its words.

Words are compared in lower case and without punctuation. A run lies within one message.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from g2is_jax.data.files import Record

RUN = 13  # words, as GPT-3's and most later reports count a contamination
WORD = re.compile(r"\w+")
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it loses no bit of a word's number


@dataclass(frozen=True)
class Overlap:
    """The first row of a target's file that a pool row overlaps with.

    words: what they have in common: the whole prompt (`is_prompt`), or a run.
    """

    target_row: int
    is_prompt: bool
    words: str


class OverlapIndex:
    """The prompts of a target's rows, and their runs by hash.

    Time grows with the words of both sides; memory with the target's.
    """

    def __init__(self, target: Sequence[Record], run: int = RUN):
        self._run = run
        self._numbers: dict[str, int] = {}
        powers = [1]
        for _ in range(run - 1):
            powers.append(powers[-1] * int(BASE) % 2**64)
        self._powers = np.array(powers, np.uint64)
        self._prompts: dict[str, int] = {}
        self._runs: dict[int, tuple[int, str]] = {}
        for row, record in enumerate(target):
            self._prompts.setdefault(_prompt(record), row)
            for words in _messages(record):
                for word in words:
                    self._numbers.setdefault(word, len(self._numbers) + 1)
                for start, key in enumerate(self._hashes(words).tolist()):
                    self._runs.setdefault(key, (row, " ".join(words[start : start + run])))

    def find(self, record: Record) -> Overlap | None:
        """Returns the overlap of a pool row with the prompt, or a run of words, of a target."""
        prompt = _prompt(record)
        if prompt in self._prompts:
            return Overlap(self._prompts[prompt], True, prompt)
        for words in _messages(record):
            for start, key in enumerate(self._hashes(words).tolist()):
                row, text = self._runs.get(key, (0, ""))
                if text and text == " ".join(words[start : start + self._run]):
                    return Overlap(row, False, text)
        return None

    def _hashes(self, words: Sequence[str]) -> np.ndarray:
        """Hashes each run of a message's words; a word that no target has is 0."""
        if len(words) < self._run:
            return np.zeros(0, np.uint64)
        numbers = np.array([self._numbers.get(word, 0) for word in words], np.uint64)
        return np.lib.stride_tricks.sliding_window_view(numbers, self._run) @ self._powers


def _prompt(record: Record) -> str:
    """Joins the words of all that comes before the last reply."""
    return " ".join(word for words in list(_messages(record))[:-1] for word in words)


def _messages(record: Record) -> Iterator[list[str]]:
    for message in record.messages:
        yield WORD.findall(message.content.lower())
