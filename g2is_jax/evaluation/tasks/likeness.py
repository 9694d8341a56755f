"""Measures of how much of a text another one shares: phrases, words, words in order."""

import re
from collections import Counter
from collections.abc import Sequence


def words(text: str) -> list[str]:
    """Splits into lower-case words and numbers, without punctuation and English articles."""
    found = re.findall(r"\w+(?:[.,'’]\w+)*", text.lower())
    return [word for word in found if word not in ("a", "an", "the")]


def contains(found: str, wanted: str) -> bool:
    """Tells whether the words of `wanted` stand in `found`, side by side and in order."""
    own, asked = words(found), words(wanted)
    places = range(len(own) - len(asked) + 1)
    return bool(asked) and any(own[place : place + len(asked)] == asked for place in places)


def token_f1(found: str, wanted: str) -> float:
    """Returns the harmonic mean of precision and recall of the words, counted with repeats."""
    own, asked = words(found), words(wanted)
    shared = sum((Counter(own) & Counter(asked)).values())
    return _f_measure(shared, len(own), len(asked))


def rouge_l(found: str, wanted: str) -> float:
    """Returns the F-measure of the longest common subsequence of words.

    Source: Lin (2004), with equal weights of precision and recall.
    """
    own, asked = words(found), words(wanted)
    return _f_measure(_common_subsequence(own, asked), len(own), len(asked))


def _f_measure(shared: int, found: int, wanted: int) -> float:
    return 2 * shared / (found + wanted) if shared else 0.0


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Returns the length of the longest sequence of words that both have in this order."""
    longest = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for place, other in enumerate(b, start=1):
            above = longest[place]
            longest[place] = diagonal + 1 if word == other else max(above, longest[place - 1])
            diagonal = above
    return longest[-1]
