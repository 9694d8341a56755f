"""Bad rows of a file: dropped and counted by reason, or all named in one error."""

import re
from dataclasses import dataclass, field

from g2is_jax.runs.errors import InputError

POLICIES = ("drop", "stop")
MOST_BAD = 0.05  # share of a file's rows that may be dropped
MOST_SHOWN = 20  # reasons
MOST_LINES = 5  # of each reason whose numbers are kept
VARYING = re.compile(r"'[^']*'|0x[0-9a-f]+|\d+")  # in reasons that are the same but for these


@dataclass
class Reason:
    """A reason for bad rows: the first one's message, the numbers of the first lines, and of all
    rows."""

    message: str
    lines: list[int] = field(default_factory=list)
    rows: int = 0

    @property
    def first(self) -> str:
        """The place of the first row, and what is wrong with it."""
        return f"{self.lines[0]}: {self.message}"

    def counts(self) -> dict[str, str | int]:
        """Returns the reason as a manifest has it."""
        return {"reason": self.message, "first_line": self.lines[0], "rows": self.rows}


@dataclass
class BadRows:
    """The bad rows of a file by reason."""

    file: str
    _reasons: dict[str, Reason] = field(default_factory=dict)

    def add(self, line: int, message: str) -> None:
        """Counts a bad row."""
        reason = self._reasons.setdefault(VARYING.sub("*", message), Reason(message))
        reason.rows += 1
        if len(reason.lines) < MOST_LINES:
            reason.lines.append(line)

    def __len__(self) -> int:
        return sum(reason.rows for reason in self._reasons.values())

    @property
    def reasons(self) -> list[Reason]:
        """All reasons, the most frequent first."""
        return sorted(self._reasons.values(), key=lambda reason: (-reason.rows, reason.lines[0]))

    def check(self, rows: int, policy: str) -> None:
        """Raises InputError where the policy is to stop, or over MOST_BAD of the rows are bad."""
        if len(self) == 0 or (policy == "drop" and len(self) <= MOST_BAD * rows):
            return
        lines = self.lines()
        if policy == "drop":
            lines.append(
                f"{self.file}: {len(self):,} of {rows:,} rows are bad, over the "
                f"{MOST_BAD:.0%} that may be dropped; mend the file, or name its fields by "
                "data.columns"
            )
        raise InputError(*lines)

    def lines(self) -> list[str]:
        """Returns a line for each reason, the most frequent first: its first place and its rows."""
        reasons = self.reasons
        lines = []
        for reason in reasons[:MOST_SHOWN]:
            more = f" ({reason.rows:,} rows)" if reason.rows > 1 else ""
            lines.append(f"{self.file}:{reason.first}{more}")
        hidden = len(reasons) - MOST_SHOWN
        return [*lines, f"{self.file}: {hidden:,} more reasons"] if hidden > 0 else lines
