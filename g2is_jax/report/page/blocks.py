"""What a page is made of. Both ways of writing it hold the same blocks, so they cannot differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Lines of text under a head, the first column naming the line.

    best: cells (line, column) that are marked. shades: how dark a cell is, from 0 to 1. prose:
    columns of sentences, which may be broken.
    """

    head: Sequence[str]
    body: Sequence[Sequence[str]]
    best: frozenset[tuple[int, int]] = frozenset()
    shades: Mapping[tuple[int, int], float] = field(default_factory=dict)
    prose: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A drawing, and in words what it shows: all that Markdown and a screen reader get of it."""

    svg: Markup
    told: str


@dataclass(frozen=True)
class Pictures:
    """Drawings side by side where there is room."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown on demand."""

    title: str
    blocks: Sequence["Block"]


@dataclass(frozen=True)
class Section:
    """Blocks under a title; a section inside another one has a smaller title."""

    title: str
    blocks: Sequence["Block"]


Block = Text | Table | Pictures | Folded | Section


@dataclass(frozen=True)
class Page:
    """All of it."""

    title: str
    sections: Sequence[Section]
