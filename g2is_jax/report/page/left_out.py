"""The pool's bad rows, which were left out: their reasons, each with its first line."""

from collections.abc import Mapping, Sequence

from g2is_jax.report.page.blocks import Section, Table, Text


def section(file: str, reasons: Sequence[Mapping]) -> Section | None:
    """Makes a line for each reason, as a manifest has it; None where no row is bad."""
    if not reasons:
        return None
    rows = sum(reason["rows"] for reason in reasons)
    note = f"{rows:,} rows of {file} cannot be learned from and were left out."
    body = [[f"{r['first_line']:,}", f"{r['rows']:,}", r["reason"]] for r in reasons]
    head = ["first line", "rows", "reason"]
    return Section("Bad rows", [Text(note), Table(head, body, prose=frozenset({2}))])
