"""Pool rows that a question found, each with its cosine, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from g2is_jax.report.page.blocks import Block, Section, Table, Text
from g2is_jax.report.page.reasons import shortened


@dataclass(frozen=True)
class FoundRow:
    """Holds a pool row and the cosine that it was found by.

    position: among the usable rows of the pool. tokens: supervised ones.
    """

    position: int
    id: str
    source: str
    tokens: int
    cosine: float
    prompt: str
    reply: str


@dataclass(frozen=True)
class FoundList:
    """Holds the rows that answer one question, the nearest first."""

    title: str
    rows: Sequence[FoundRow]


def section(title: str, about: str, lists: Sequence[FoundList]) -> Section:
    """Makes a part of the page: what was asked, and a table for each list."""
    blocks: list[Block] = [Text(about)]
    for found in lists:
        blocks += [Text(f"{found.title}:"), table(found.rows)]
    return Section(title, blocks)


def table(rows: Sequence[FoundRow]) -> Table:
    """Makes a line for each row, with the beginning of its prompt and of its reply."""
    body = [
        [
            f"{row.cosine:+.3f}",
            row.id,
            row.source,
            f"{row.tokens:,}",
            shortened(row.prompt),
            shortened(row.reply),
        ]
        for row in rows
    ]
    head = ["cosine", "row", "source", "tokens", "prompt", "reply"]
    return Table(head, body, prose=frozenset({4, 5}))
