"""What was run: the first section of the page."""

from collections.abc import Mapping

from g2is_jax.report.page.blocks import Section, Table


def section(facts: Mapping[str, str]) -> Section:
    """One line for each fact, in their order; an empty one is left out."""
    lines = [[name, told] for name, told in facts.items() if told]
    return Section("What was run", [Table(["", ""], lines, prose=frozenset({1}))])
