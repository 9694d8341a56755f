"""How an answer is read out of a reply, and when it is right."""

import re
from decimal import Decimal

MARK = re.compile(r"\banswer is\b:?|####", re.IGNORECASE)
NUMBER = re.compile(r"(?<![\w./])-?\d+(?:\.\d+)?(?!\d|/\d)")
CHOICE = re.compile(r"\(([a-z])\)|([a-z])(?:[.:),]|$)")


def extract_answer(reply: str) -> str:
    """The rest of the line after the last "answer is" or "####"; where there is neither, all."""
    parts = MARK.split(reply)
    return parts[-1].partition("\n")[0].strip() if len(parts) > 1 else reply.strip()


def normalise(answer: str) -> str:
    """Case, blanks, a final full stop, dollar signs, bold marks and thousands separators go."""
    text = " ".join(re.sub(r"\$|\*\*", "", answer).lower().split()).rstrip(". ")
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)


def is_correct(reply: str, answer: str) -> bool:
    """Whether what the reply says is the answer, of the answer's own kind.

    A number: the last number there has the same value (3.50 is 3.5, and a unit may follow). One
    letter, in brackets or not: the choice that comes first. Anything else: the same text.
    """
    found, wanted = normalise(extract_answer(reply)), normalise(answer)
    if NUMBER.fullmatch(wanted):
        numbers = NUMBER.findall(found)
        return bool(numbers) and Decimal(numbers[-1]) == Decimal(wanted)
    if CHOICE.fullmatch(wanted):
        choice = CHOICE.match(found)
        return choice is not None and choice[choice.lastindex or 0] == wanted.strip("().:,")
    return found == wanted
