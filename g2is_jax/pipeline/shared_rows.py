"""Pool rows that stand, whole or in part, in the files that describe and measure the targets."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from etils import epath

from g2is_jax.data.overlap import RUN, overlaps
from g2is_jax.pipeline.datasets import Dataset, Target
from g2is_jax.runs.storage import make_folder, write_atomic


@dataclass(frozen=True)
class Shared:
    """A pool row that shares its whole prompt, or a run of words, with a row of a target's file.

    row: its number among the usable rows of the pool.
    """

    row: int
    id: str
    file: str
    id_there: str
    whole_prompt: bool
    words: str


def find(pool: Dataset, targets: Sequence[Target]) -> list[Shared]:
    """The pool rows that share words with a target's, whose test rows are looked at first."""
    files = [(target.test, target.test_records) for target in targets if target.test]
    files += [(target.validation.path, target.validation.records) for target in targets]
    there = [(path.name, record) for path, records in files for record in records]
    return [
        Shared(
            row=found.pool_row,
            id=pool.records[found.pool_row].id,
            file=there[found.target_row][0],
            id_there=there[found.target_row][1].id,
            whole_prompt=found.is_prompt,
            words=found.words,
        )
        for found in overlaps(pool.records, [record for _, record in there])
    ]


def summary(shared: Sequence[Shared], rows: int, removed: bool) -> str:
    """A line on the rows that are shared."""
    if not shared:
        return f"overlap: no pool row has a prompt or {RUN} words in a row of the targets' files"
    files = Counter(row.file for row in shared)
    return (
        f"overlap: {len(shared):,} of {rows:,} pool rows have a prompt or {RUN} words in a row of "
        + ", ".join(f"{file} ({count:,})" for file, count in files.items())
        + ("; removed" if removed else "; kept, --config.data.overlap=remove takes them out")
    )


def write(shared: Sequence[Shared], file: epath.Path) -> None:
    """Write the shared rows as JSON."""
    make_folder(file.parent)
    write_atomic(file, json.dumps([dataclasses.asdict(row) for row in shared], indent=2) + "\n")
