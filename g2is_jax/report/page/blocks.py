"""The blocks that a page is made of; HTML and Markdown both write them, so they cannot differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup


@dataclass(frozen=True)
class Text:
    """Holds a paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Holds lines of text under a head, the first column naming the line.

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
    """Holds a drawing, and a caption: all that Markdown and a screen reader get of it."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Pictures:
    """Holds drawings, side by side where there is room."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Folded:
    """Holds blocks that are shown on demand."""

    title: str
    blocks: Sequence["Block"]


@dataclass(frozen=True)
class Section:
    """Holds blocks under a title, which is smaller in a section inside a section."""

    title: str
    blocks: Sequence["Block"]


Block = Text | Table | Pictures | Folded | Section


@dataclass(frozen=True)
class Page:
    """Holds the title and the sections of a whole page."""

    title: str
    sections: Sequence[Section]
