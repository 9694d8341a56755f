"""The feature matrix on disk: chunks with checksums and done-marks, so that work resumes.

store.json              rows, width, dtype, ids
chunk-00000.safetensors features (unit rows), norms, gradient norms, tokens, rows
chunk-00000.done        the chunk's checksum, written after it
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from etils import epath

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import write_atomic
from g2is_jax.runs.tensors import from_bytes, to_bytes

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
SMALLEST_NORM = 1e-10  # divisor of a zero row


@dataclass(frozen=True)
class StoreConfig:
    """dtype of the rows on disk, and how many rows (at least) stand between two done-marks."""

    dtype: str
    chunk_rows: int

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise InputError(
                f"grads.dtype = {self.dtype!r} is unknown; choose one of {', '.join(DTYPES)}"
            )


@dataclass(frozen=True)
class Features:
    """A store in memory, in the order of the file the rows came from.

    rows_N: row numbers in that file (rows without a supervised token are absent).
    features_NP: unit rows, float32. norms_N: their norms before. gradient_norms_N: |g|.
    tokens_N: supervised tokens.
    """

    rows_N: np.ndarray
    features_NP: np.ndarray
    norms_N: np.ndarray
    gradient_norms_N: np.ndarray
    tokens_N: np.ndarray


class StoreWriter:
    """Writes one store; `rows_N` are the file's row numbers of the examples, in their order."""

    def __init__(self, folder: epath.Path, rows_N: Sequence[int], config: StoreConfig):
        self._folder, self._rows_N, self._dtype = folder, np.asarray(rows_N), config.dtype
        self.chunk_rows = config.chunk_rows
        self._chunks: list[np.ndarray] = []

    def start(self, chunks: Sequence[np.ndarray]) -> list[bool]:
        """Lay out the chunks (positions of examples); tell which of them are already written."""
        self._chunks = [self._rows_N[positions] for positions in chunks]
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = {"rows": len(self._rows_N), "dtype": self._dtype, "chunks": len(chunks)}
        write_atomic(self._folder / "store.json", json.dumps(settings) + "\n")
        return [self._is_done(index, rows) for index, rows in enumerate(self._chunks)]

    def write(self, index: int, features_BP, gradient_norms_B, tokens_B) -> None:
        """Normalise and write a chunk; its done-mark comes last."""
        norms_B = np.linalg.norm(features_BP.astype(np.float64), axis=1).astype(np.float32)
        divisors_B = np.maximum(norms_B, SMALLEST_NORM)
        data = to_bytes(
            {
                "features": (features_BP / divisors_B[:, None]).astype(DTYPES[self._dtype]),
                "norms": norms_B,
                "gradient_norms": gradient_norms_B.astype(np.float32),
                "tokens": tokens_B.astype(np.int32),
                "rows": self._chunks[index].astype(np.int64),
            }
        )
        write_atomic(_chunk_file(self._folder, index), data)
        write_atomic(_done_file(self._folder, index), hashlib.sha256(data).hexdigest())

    def _is_done(self, index: int, rows: np.ndarray) -> bool:
        """Whether the chunk is whole and holds just these rows (the layout may have changed)."""
        file, mark = _chunk_file(self._folder, index), _done_file(self._folder, index)
        if not (file.exists() and mark.exists()):
            return False
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != mark.read_text():
            return False
        return np.array_equal(from_bytes(data)["rows"], rows)


def read_store(folder: epath.Path) -> Features:
    """Read a finished store; InputError names a chunk that is missing or damaged."""
    settings = json.loads((folder / "store.json").read_text())
    chunks = [_read_chunk(folder, index) for index in range(settings["chunks"])]
    joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    order = np.argsort(joined["rows"])
    return Features(
        rows_N=joined["rows"][order],
        features_NP=joined["features"][order].astype(np.float32),
        norms_N=joined["norms"][order],
        gradient_norms_N=joined["gradient_norms"][order],
        tokens_N=joined["tokens"][order],
    )


def _read_chunk(folder: epath.Path, index: int) -> dict[str, np.ndarray]:
    file, mark = _chunk_file(folder, index), _done_file(folder, index)
    data = file.read_bytes() if file.exists() and mark.exists() else b""
    if not data or hashlib.sha256(data).hexdigest() != mark.read_text():
        raise InputError(
            f"{file}: the chunk is missing or damaged; delete {folder} and run the same command"
        )
    return from_bytes(data)


def _chunk_file(folder: epath.Path, index: int) -> epath.Path:
    return folder / f"chunk-{index:05d}.safetensors"


def _done_file(folder: epath.Path, index: int) -> epath.Path:
    return folder / f"chunk-{index:05d}.done"
