"""Markdown tables."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[object], body: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table."""
    return [
        "| " + " | ".join(escaped(str(field)) for field in line) + " |"
        for line in (head, ["---"] * len(head), *body)
    ]


def escaped(text: str) -> str:
    """On one line, with no bar that would end a cell."""
    return " ".join(text.split()).replace("|", "\\|")
