"""The rows of a file that can be used, and a target's rows of validation and test."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from etils import epath

from g2is_jax.data.chat import ChatFormat, Encoded
from g2is_jax.data.files import FileRows, Record, file_stem
from g2is_jax.pipeline.fields import BUILT_IN
from g2is_jax.pipeline.settings import DataSettings
from g2is_jax.runs.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """The usable rows of one file: those with at least one supervised token."""

    path: epath.Path
    digest: str
    records: list[Record]
    encoded: list[Encoded]
    bad: dict[str, int]  # rows dropped as bad, by reason
    dropped: int
    truncated: int

    def without(self, rows: Collection[int]) -> "Dataset":
        """The dataset without some of its rows, which is a content of its own if there are any."""
        if not rows:
            return self
        left = [row for row in range(len(self.records)) if row not in rows]
        taken = hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()
        return dataclasses.replace(
            self,
            digest=f"{self.digest} without {taken}",
            records=[self.records[row] for row in left],
            encoded=[self.encoded[row] for row in left],
        )

    @property
    def name(self) -> str:
        """The file's name, without its suffixes."""
        return file_stem(self.path)

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of its rows, as the manifest of a stage has them."""
        counts = {
            "rows": len(self.records),
            "bad": sum(self.bad.values()),
            "dropped": self.dropped,
            "truncated": self.truncated,
        }
        return counts | {f"bad: {reason}": count for reason, count in self.bad.items()}

    @functools.cached_property
    def tokens_N(self) -> np.ndarray:
        """The supervised tokens of each row."""
        return np.array([int(example.supervised_T.sum()) for example in self.encoded])


@dataclass(frozen=True)
class Target:
    """A task: the few examples that describe it, and the rows that measure it."""

    name: str
    validation: Dataset
    test: epath.Path | None  # None where nothing is measured
    test_records: list[Record]
    test_digest: str


def usable_rows(rows: FileRows, chat: ChatFormat, max_length: int) -> Dataset:
    """The rows of a file that have a supervised token; InputError if none has."""
    path, records = rows.path, rows.records
    encoded = chat.encode_all(records, max_length)
    kept = [i for i, example in enumerate(encoded) if example.supervised_T.any()]
    if not kept:
        raise InputError(
            f"{path}: no row has a supervised token within {max_length} "
            "tokens; raise model.max_length or check the assistant messages"
        )
    return Dataset(
        path,
        rows.digest,
        [records[i] for i in kept],
        [encoded[i] for i in kept],
        bad=rows.bad.counts,
        dropped=len(records) - len(kept),
        truncated=sum(example.truncated for example in encoded),
    )


def read_target(
    name: str, validation: FileRows, test: FileRows | None, chat: ChatFormat, max_length: int
) -> Target:
    """A task's two files; not all of its test rows are cut off."""
    shown = usable_rows(validation, chat, max_length)
    if test is None:
        return Target(name, shown, None, [], "")
    usable_rows(test, chat, max_length)
    return Target(name, shown, test.path, test.records, test.digest)


def target_files(
    data: DataSettings, world: Callable[[], epath.Path]
) -> tuple[epath.Path, list[epath.Path], list[epath.Path]]:
    """The pool's file, and those of validation and of test, one of each for each target.

    world: makes the built-in world, and returns its folder; called where it is the pool.
    """
    pool = world() / "pool.jsonl" if data.pool == BUILT_IN else epath.Path(data.pool)
    if not data.targets_of_world:
        return pool, list(map(epath.Path, data.validation)), list(map(epath.Path, data.test))
    validation, test = (
        [pool.parent / f"{part}_{name}.jsonl" for name in data.world.targets]
        for part in ("val", "test")
    )
    return pool, validation, test
