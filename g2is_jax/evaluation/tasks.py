"""How an answer is read out of a reply, and when it is right."""

import re

MARKED = re.compile(r"(?:the answer is|####)[ \t]*:?[ \t]*([^\n]*)", re.IGNORECASE)


def extract_answer(reply: str) -> str:
    """What follows the last "The answer is" or "####"; the whole reply where there is neither."""
    marked = MARKED.findall(reply)
    return marked[-1] if marked else reply


def normalise(answer: str) -> str:
    """Case, blanks, a final full stop, dollar signs and thousands separators do not matter."""
    text = " ".join(answer.lower().split()).rstrip(".").strip()
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.replace("$", ""))


def is_correct(reply: str, answer: str) -> bool:
    """Exact match of the extracted answer."""
    return normalise(extract_answer(reply)) == normalise(answer)
