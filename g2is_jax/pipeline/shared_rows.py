"""Pool rows that stand, whole or in part, in the files that describe and measure the targets."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from etils import epath

from g2is_jax.data.overlap import RUN, Overlap, OverlapIndex
from g2is_jax.data.records import Record
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


class Finder:
    """Finds the pool rows that share words with a target's, whose test rows are looked at first."""

    def __init__(self, targets: Sequence[Target]):
        files = [(target.test, target.test_records) for target in targets if target.test]
        files += [(target.validation.path, list(target.validation.records)) for target in targets]
        self._there = [(path.name, record) for path, records in files for record in records]
        self._index = OverlapIndex([record for _, record in self._there])
        self._found: dict[int, Overlap] = {}

    def look(self, record: Record) -> None:
        """Looks at a row of the pool."""
        if overlap := self._index.find(record):
            self._found[record.row] = overlap

    def found(self, pool: Dataset) -> list[Shared]:
        """The rows found among the usable ones of the pool, all of which were looked at."""
        rows = enumerate(pool.records.numbers_N.tolist())
        return [
            self._shared(row, pool.records.ids_N[row], self._found[number])
            for row, number in rows
            if number in self._found
        ]

    def _shared(self, row: int, row_id: str, overlap: Overlap) -> Shared:
        file, there = self._there[overlap.target_row]
        return Shared(row, row_id, file, there.id, overlap.is_prompt, overlap.words)


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
