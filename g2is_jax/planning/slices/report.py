"""All programs of a run, compiled for a slice: what each needs, in lines, as records, as a file."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from g2is_jax.planning.chips import CHIPS
from g2is_jax.planning.slices.compiler import Compiled, compiled
from g2is_jax.planning.slices.largest import largest_rows
from g2is_jax.planning.slices.programs import Program
from g2is_jax.planning.slices.topology import Slice

GB, MB = 1e9, 1e6
TITLES = (
    "program",
    "rows x tokens a chip",
    "seconds",
    "GB a chip: arguments + temporaries + outputs (+ held beside)",
    "fits",
    "largest",
    "code, MB",
    "collectives",
)


@dataclass(frozen=True)
class Found:
    """A program on a slice. largest: the rows of its largest batch; None where not looked for."""

    program: Program
    slice: Slice
    compiled: Compiled
    largest: int | None

    @property
    def fits(self) -> bool:
        """True if a chip has room for the program and what lies beside it."""
        return needed(self.compiled, self.program) <= CHIPS[self.slice.chip].memory

    @property
    def record(self) -> dict:
        """Everything as JSON; `tokens` are those of a batch on each chip."""
        return {
            "program": self.program.name,
            "topology": self.slice.name,
            "rows": self.program.rows,
            "tokens": self.program.rows * self.program.width,
            **dataclasses.asdict(self.compiled),
            "held_bytes": self.program.held,
            "fits": self.fits,
            "largest_tokens": None if self.largest is None else self.largest * self.program.width,
        }


def needed(found: Compiled, program: Program) -> float:
    """The bytes on a chip with what lies beside the program; inf where the compiler refuses it."""
    return math.inf if found.does_not_fit else found.bytes + program.held


def compile_program(program: Program, on: Slice, most_tokens: int | None) -> Found:
    """Compiles a program for the slice, and for other batches to find the largest that fits.

    most_tokens: of that batch; None where it is not looked for.
    """
    of_all_hosts = on.hosts > 1 and program.chips.devices.size == on.training.size
    chips_per_host = on.local.size if of_all_hosts else None
    done: dict[int, Compiled] = {}

    def bytes_of(rows: int) -> float:
        if rows not in done:
            done[rows] = compiled(lambda: program.lower(rows), chips_per_host)
        return needed(done[rows], program)

    bytes_of(program.rows)
    largest = None
    if most_tokens and program.fields:
        most = max(most_tokens // program.width, 1)
        largest = largest_rows(bytes_of, CHIPS[on.chip].memory, program.rows, most)
    return Found(program, on, done[program.rows], largest)


def largest_tokens(found: Sequence[Found]) -> dict[str, int]:
    """The tokens of the largest batch that all programs of a field of the config have room for."""
    fields: dict[str, int] = {}
    for one in found:
        for field in one.program.fields if one.largest else ():
            tokens = (one.largest or 0) * one.program.width
            fields[field] = min(tokens, fields.get(field, tokens))
    return fields


def title() -> str:
    """The head of the table of `line`s."""
    return f"| {' | '.join(TITLES)} |\n|{' --- |' * len(TITLES)}"


def line(found: Found) -> str:
    """A program as a line of a table."""
    program, result = found.program, found.compiled
    batch = f"{program.rows} x {program.width:,}" if program.rows else ""
    largest = "" if found.largest is None else f"{found.largest} x {program.width:,}"
    if result.does_not_fit:
        cells = (program.name, batch, "", result.does_not_fit, "no", largest, "", "")
        return f"| {' | '.join(cells)} |"
    parts = (result.argument_bytes, result.temporary_bytes, result.output_bytes)
    size = " + ".join(f"{part / GB:.3g}" for part in parts)
    if program.held:
        size += f" (+ {program.held / GB:.3g})"
    cells = (
        program.name,
        batch,
        f"{result.trace_seconds:.0f} + {result.compile_seconds:.0f}",
        size,
        "yes" if found.fits else "no",
        largest,
        f"{result.code_bytes / MB:.0f}",
        _collectives(result) or "none",
    )
    return f"| {' | '.join(cells)} |"


def _collectives(result: Compiled) -> str:
    return ", ".join(
        f"{count} {kind}"
        + (f" ({result.across_hosts[kind]} between hosts)" if kind in result.across_hosts else "")
        for kind, count in sorted(result.collectives.items())
    )
