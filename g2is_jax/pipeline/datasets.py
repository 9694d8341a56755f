"""The rows of a file that can be used, and a target's rows of validation and test."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from etils import epath

from g2is_jax.data.chat import ROWS_PER_CALL, ChatFormat
from g2is_jax.data.encoded_rows import EncodedRows, Encoder
from g2is_jax.data.files import FileRows, RowReader, file_stem
from g2is_jax.data.hub_sets import Place, place_of_rows
from g2is_jax.data.records import Record, Records
from g2is_jax.pipeline.fields import BUILT_IN
from g2is_jax.pipeline.settings import DataSettings
from g2is_jax.runs.errors import InputError

Row = TypeVar("Row")


@dataclass(frozen=True)
class Dataset:
    """The usable rows of one file: those with at least one supervised token."""

    file: FileRows
    digest: str
    records: Records
    encoded: EncodedRows
    dropped: int
    truncated: int

    @property
    def path(self) -> Place:
        """The file, or the data set of the hub."""
        return self.file.path

    def without(self, rows: Collection[int]) -> "Dataset":
        """The dataset without some of its rows, which is a content of its own if there are any."""
        if not rows:
            return self
        left = [row for row in range(len(self.records)) if row not in rows]
        taken = hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()
        return dataclasses.replace(
            self,
            digest=f"{self.digest} without {taken}",
            records=self.records.take(left),
            encoded=self.encoded.take(left),
        )

    @property
    def name(self) -> str:
        """The file's name, without its suffixes."""
        return file_stem(self.path)

    @property
    def counts(self) -> dict:
        """The numbers of its rows and the reasons for bad ones, as a stage's manifest has them."""
        bad = self.file.bad
        counts: dict = {
            "rows": len(self.records),
            "bad": len(bad),
            "dropped": self.dropped,
            "truncated": self.truncated,
        }
        return counts | ({"bad_rows": [r.counts() for r in bad.reasons]} if len(bad) else {})

    @property
    def ids(self) -> list[str]:
        """The id of each row."""
        return self.records.ids_N.tolist()

    @property
    def sources(self) -> list[str]:
        """The source of each row."""
        return self.records.sources_N.tolist()

    @property
    def tokens_N(self) -> np.ndarray:
        """The supervised tokens of each row."""
        return self.encoded.supervised_N


@dataclass(frozen=True)
class Target:
    """A task: the few examples that describe it, and the rows that measure it."""

    name: str
    validation: Dataset
    test: Place | None  # None where nothing is measured
    test_records: list[Record]
    test_digest: str


def read_dataset(
    reader: RowReader,
    bad_rows: str,
    chat: ChatFormat,
    max_length: int,
    look: Callable[[Record], object] = lambda record: None,
) -> Dataset:
    """Reads a file once, and encodes its rows as they come; InputError if none can be used.

    bad_rows: as of `RowReader.found`. look: gets each good row.
    """
    encoder = Encoder()
    for rows in batched(reader.written(chat.written), ROWS_PER_CALL):
        encoder.add(chat.encode_written([text for _, text in rows], max_length))
        for record, _ in rows:
            look(record)
    file, encoded = reader.found(bad_rows), encoder.rows()
    kept_N = np.flatnonzero(encoded.supervised_N)
    if not len(kept_N):
        raise InputError(
            f"{reader.path}: no row has a supervised token within {max_length} "
            "tokens; raise model.max_length or check the assistant messages"
        )
    return Dataset(
        file,
        file.digest,
        file.records.take(kept_N),
        encoded.take(kept_N),
        dropped=len(encoded) - len(kept_N),
        truncated=int(encoded.truncated_N.sum()),
    )


def batched(rows: Iterator[Row], count: int) -> Iterator[list[Row]]:
    """Yields rows so many at a time."""
    while batch := list(itertools.islice(rows, count)):
        yield batch


def read_target(
    name: str, validation: RowReader, test: RowReader | None, chat: ChatFormat, max_length: int
) -> tuple[Target, list[FileRows]]:
    """A task's two files; not all of its test rows are cut off."""
    shown = read_dataset(validation, "stop", chat, max_length)
    if test is None:
        return Target(name, shown, None, [], ""), [shown.file]
    measured = read_dataset(test, "stop", chat, max_length).file
    target = Target(name, shown, measured.path, list(measured.records), measured.digest)
    return target, [shown.file, measured]


def target_files(
    data: DataSettings, world: Callable[[], epath.Path]
) -> tuple[Place, list[Place], list[Place]]:
    """The pool's file, and those of validation and of test, one of each for each target.

    world: makes the built-in world, and returns its folder; called where it is the pool.
    """
    if not data.targets_of_world:
        pool = world() / "pool.jsonl" if data.pool == BUILT_IN else place_of_rows(data.pool)
        return pool, list(map(place_of_rows, data.validation)), list(map(place_of_rows, data.test))
    folder = world()
    validation, test = (
        [folder / f"{part}_{name}.jsonl" for name in data.world.targets] for part in ("val", "test")
    )
    return folder / "pool.jsonl", validation, test
