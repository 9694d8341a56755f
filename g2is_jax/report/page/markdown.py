"""A page as Markdown: the same tables and sentences, and each drawing in words."""

import re
from collections.abc import Sequence

from g2is_jax.report.page.blocks import Block, Folded, Page, Pictures, Section, Table, Text

# The last two of a bare address, which many readers make a link of.
SPECIAL = re.compile(r"([\\`*\[\]<>&~|]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.)", re.IGNORECASE)


def markdown(page: Page) -> str:
    """Writes the whole page."""
    parts = [f"# {escaped(page.title)}"]
    for section in page.sections:
        parts += _written(section, depth=2)
    return "\n\n".join(parts) + "\n"


def _written(block: Block, depth: int) -> list[str]:
    match block:
        case Text(text):
            return [escaped(text)]
        case Table():
            return ["\n".join(table_lines(block))]
        case Pictures(pictures):
            return [f"*Figure: {escaped(picture.caption)}*" for picture in pictures]
        case Section(title, blocks) | Folded(title, blocks):
            inner = [part for inner_block in blocks for part in _written(inner_block, depth + 1)]
            return [f"{'#' * depth} {escaped(title)}", *inner]


def table_lines(table: Table) -> list[str]:
    """Writes a table's lines; what is best in its column stands in bold."""
    lines = [table.head, ["---"] * len(table.head)]
    for number, cells in enumerate(table.body):
        lines.append(
            [
                f"**{escaped(cell)}**" if (number, column) in table.best else escaped(cell)
                for column, cell in enumerate(cells)
            ]
        )
    head, rule, *body = lines
    return [_line([escaped(cell) for cell in head]), _line(rule), *map(_line, body)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped(text: str) -> str:
    """Puts a text on one line and escapes the marks that Markdown or HTML would read."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
