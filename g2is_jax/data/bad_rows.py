"""Bad rows of a file: dropped and counted by reason, or all named in one error."""

import re
from dataclasses import dataclass, field

from g2is_jax.runs.errors import InputError

POLICIES = ("drop", "stop")
MOST_BAD = 0.05  # share of a file's rows that may be dropped
MOST_SHOWN = 20  # reasons
VARYING = re.compile(r"'[^']*'|0x[0-9a-f]+|\d+")  # in reasons that are the same but for these


@dataclass
class BadRows:
    """The bad rows of a file by reason: the first one's line and message, and their number."""

    file: str
    first: dict[str, tuple[int, str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, line: int, message: str) -> None:
        """Counts a bad row."""
        reason = VARYING.sub("*", message)
        self.first.setdefault(reason, (line, message))
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def __len__(self) -> int:
        return sum(self.counts.values())

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
        raise InputError("\n".join(lines))

    def lines(self) -> list[str]:
        """Returns a line for each reason, the most frequent first: its first place and its rows."""
        reasons = sorted(self.counts, key=lambda reason: (-self.counts[reason], self.first[reason]))
        lines = []
        for reason in reasons[:MOST_SHOWN]:
            number, message = self.first[reason]
            more = f" ({self.counts[reason]:,} rows)" if self.counts[reason] > 1 else ""
            lines.append(f"{self.file}:{number}: {message}{more}")
        hidden = len(reasons) - MOST_SHOWN
        return [*lines, f"{self.file}: {hidden:,} more reasons"] if hidden > 0 else lines
