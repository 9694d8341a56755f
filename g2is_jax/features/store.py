"""The feature matrix on disk: chunks with checksums and done-marks, so that work resumes.

store.json              dtype, number of rows, and of each chunk a digest of its row numbers
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
        """Lay out the chunks (positions of examples); tell which of them are already written.

        A chunk of an earlier layout (other batches) counts as not written.
        """
        self._chunks = [self._rows_N[positions].astype(np.int64) for positions in chunks]
        layouts = [_layout(rows, self._dtype) for rows in self._chunks]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._remove_surplus(len(chunks))
        settings = {"rows": len(self._rows_N), "dtype": self._dtype, "chunks": layouts}
        write_atomic(self._folder / "store.json", json.dumps(settings) + "\n")
        return [
            _load_chunk(self._folder, index, layout) is not None
            for index, layout in enumerate(layouts)
        ]

    def write(self, index: int, features_BP, gradient_norms_B, tokens_B) -> None:
        """Normalise and write a chunk; its done-mark comes last.

        InputError names the row of a feature or gradient that is not finite.
        """
        rows_B = self._chunks[index]
        norms_B = np.linalg.norm(features_BP.astype(np.float64), axis=1).astype(np.float32)
        odd_B = rows_B[~(np.isfinite(norms_B) & np.isfinite(gradient_norms_B))]
        if len(odd_B):
            raise InputError(
                f"row {odd_B.min()} (counted from 0; {len(odd_B)} of {len(rows_B)} in its chunk): "
                "the gradient is not finite; leave the row out, or if there are many, warm up "
                "with a smaller learning rate"
            )
        divisors_B = np.maximum(norms_B, SMALLEST_NORM)
        data = to_bytes(
            {
                "features": (features_BP / divisors_B[:, None]).astype(DTYPES[self._dtype]),
                "norms": norms_B,
                "gradient_norms": gradient_norms_B.astype(np.float32),
                "tokens": tokens_B.astype(np.int32),
                "rows": rows_B,
            }
        )
        write_atomic(_chunk_file(self._folder, index), data)
        write_atomic(_done_file(self._folder, index), hashlib.sha256(data).hexdigest())

    def _remove_surplus(self, count: int) -> None:
        """Delete what an earlier layout left beyond the last of `count` chunks."""
        files = (of(self._folder, i) for of in (_chunk_file, _done_file) for i in range(count))
        kept = {file.name for file in files}
        for file in self._folder.glob("chunk-*"):
            if file.name not in kept:
                file.unlink()


def read_store(folder: epath.Path) -> Features:
    """Read a finished store; InputError names a chunk that is missing or damaged."""
    file = folder / "store.json"
    if not file.exists():
        raise InputError(f"{file}: no such file; delete {folder} and run the same command")
    chunks = []
    for index, layout in enumerate(json.loads(file.read_text())["chunks"]):
        chunk = _load_chunk(folder, index, layout)
        if chunk is None:
            raise InputError(
                f"{_chunk_file(folder, index)}: the chunk is missing, damaged or holds other rows; "
                f"delete {folder} and run the same command"
            )
        chunks.append(chunk)
    joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    order = np.argsort(joined["rows"])
    return Features(
        rows_N=joined["rows"][order],
        features_NP=joined["features"][order].astype(np.float32),
        norms_N=joined["norms"][order],
        gradient_norms_N=joined["gradient_norms"][order],
        tokens_N=joined["tokens"][order],
    )


def _load_chunk(folder: epath.Path, index: int, layout: str) -> dict[str, np.ndarray] | None:
    """The chunk's tensors if it is whole and of this layout, else None."""
    file, mark = _chunk_file(folder, index), _done_file(folder, index)
    if not (file.exists() and mark.exists()):
        return None
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest().encode() != mark.read_bytes():
        return None
    chunk = from_bytes(data)
    return chunk if _layout(chunk["rows"], chunk["features"].dtype.name) == layout else None


def _layout(rows_B: np.ndarray, dtype: str) -> str:
    """Digest of what a chunk should hold: these row numbers (int64), in this order and dtype."""
    return hashlib.sha256(dtype.encode() + rows_B.tobytes()).hexdigest()


def _chunk_file(folder: epath.Path, index: int) -> epath.Path:
    return folder / f"chunk-{index:05d}.safetensors"


def _done_file(folder: epath.Path, index: int) -> epath.Path:
    return folder / f"chunk-{index:05d}.done"
