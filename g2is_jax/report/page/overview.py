"""The first section of the page: facts about the run."""

from collections.abc import Mapping

from g2is_jax.report.page.blocks import Section, Table


def section(facts: Mapping[str, str]) -> Section:
    """Makes a line for each fact, in their order; an empty fact is left out."""
    lines = [[name, fact] for name, fact in facts.items() if fact]
    return Section("What was run", [Table(["", ""], lines, prose=frozenset({1}))])
