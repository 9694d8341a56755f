"""What a job reads of its files: usable rows, and a task's rows of validation and test."""

import dataclasses
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from etils import epath

from g2is_jax.data.chat import Encoded
from g2is_jax.data.records import Record


@dataclass(frozen=True)
class Dataset:
    """The usable rows of one file: those with at least one supervised token."""

    path: epath.Path
    digest: str
    records: list[Record]
    encoded: list[Encoded]
    dropped: int
    truncated: int

    def without(self, rows: Collection[int]) -> "Dataset":
        """The dataset without these of its rows; a content of its own if there are any."""
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
        """Of the file, without its suffixes."""
        return self.path.name.removesuffix(".gz").removesuffix(".jsonl")

    @property
    def tokens_N(self) -> np.ndarray:
        """Supervised tokens of each row."""
        return np.array([int(example.supervised_T.sum()) for example in self.encoded])


@dataclass(frozen=True)
class Target:
    """One task: the few examples that describe it, and the rows that measure it."""

    name: str
    validation: Dataset
    test: epath.Path
    test_records: list[Record]
    test_digest: str
