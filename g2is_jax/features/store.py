"""The feature matrix on disk: chunks with checksums and done-marks, so that work resumes.

store.json    dtype, rows, width (null before the first chunk), and a digest of each chunk's layout
chunk-*       the chunks, as `store_chunk` has them

Chunks hold rows in the order of the work; a reader puts them into the order of their numbers.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath

from g2is_jax.features.rows import STORED, Rows, dtype_in_memory
from g2is_jax.features.store_chunk import (
    OF_EACH_ROW,
    chunk_file,
    done_file,
    encode,
    layout,
    read_features,
    read_stored,
    whole_chunk,
    width_of,
    write_chunk,
)
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.processes import is_first
from g2is_jax.runs.storage import make_folder, write_atomic
from g2is_jax.runs.tensors import aligned_array, read_tensor

SETTINGS = "store.json"


@dataclass(frozen=True)
class StoreConfig:
    """The kind of the rows on disk, of STORED, and how many (at least) between two done-marks."""

    dtype: str
    chunk_rows: int

    def __post_init__(self):
        if self.dtype not in STORED:
            raise InputError(
                f"grads.dtype = {self.dtype!r} is unknown; choose one of {', '.join(STORED)}"
            )


@dataclass(frozen=True)
class Store:
    """A finished store. Its rows stay on disk; its arrays follow the file that the rows came from.

    dtype, width      of the rows on disk, which have unit length
    rows_N            their numbers in that file (rows without a supervised token are absent)
    norms_N           their lengths before they were normalised, float32
    gradient_norms_N  |g|, float32
    tokens_N          their supervised tokens
    finite_N          False where the feature or the gradient was not finite; such a row is zero and
                      stands for nothing
    positions         for each chunk, the places of its rows in the arrays over N
    """

    folder: epath.Path
    dtype: str
    width: int
    rows_N: np.ndarray
    norms_N: np.ndarray
    gradient_norms_N: np.ndarray
    tokens_N: np.ndarray
    finite_N: np.ndarray
    positions: tuple[np.ndarray, ...]

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (positions_B, features_BP) of each chunk, float32, one chunk at a time."""
        for index, positions_B in enumerate(self.positions):
            yield positions_B, read_features(self.folder, index)

    def read(self) -> Rows:
        """All rows in memory, in the store's dtype; no copy in float32 is made."""
        dtype = dtype_in_memory(self.dtype)
        values_NP = aligned_array((len(self.rows_N), self.width), dtype)
        scales_N = np.empty(len(self.rows_N), np.float32) if dtype == np.int8 else None
        for index, positions_B in enumerate(self.positions):
            values_BP, scales_B = read_stored(self.folder, index)
            values_NP[positions_B] = values_BP
            if scales_N is not None:
                scales_N[positions_B] = scales_B
        return Rows(values_NP, scales_N, self.norms_N[:, None], self.finite_N)

    def read_into(self, features_NP: np.ndarray) -> None:
        """Fills a float32 matrix that is already there, such as a memory map."""
        for positions_B, features_BP in self.blocks():
            features_NP[positions_B] = features_BP
            del features_BP  # else it lives on while the next one is read


class StoreWriter:
    """Writes one store, in the background; `rows_N` are the file's row numbers of the examples.

        with StoreWriter(folder, rows_N, config) as writer:
            done = writer.start(chunks)
            ... writer.write(index, features_BP, gradient_norms_B, tokens_B)

    While the caller computes a chunk, the one before it is normalised, hashed and written. A kill
    costs these two at most. `seconds` counts that work, `waited` how long the caller stood still
    for it.
    """

    def __init__(self, folder: epath.Path, rows_N: Sequence[int] | np.ndarray, config: StoreConfig):
        self._folder, self._rows_N, self._dtype = folder, np.asarray(rows_N), config.dtype
        self.chunk_rows = config.chunk_rows
        self.seconds = self.waited = 0.0
        self._chunks: list[np.ndarray] = []
        self._width: int | None = None
        self._open = False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> "StoreWriter":
        self._open = True
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Waits for the chunk being written; its error is raised unless another is on its way."""
        self._open = False
        self._wait()
        if error is None:
            self._raise_error()

    def start(self, chunks: Sequence[np.ndarray]) -> list[bool]:
        """Lays out the chunks (positions of examples); returns which of them are already written.

        A chunk of an earlier layout (other batches) counts as not written.
        """
        self._require_open()
        self._chunks = [self._rows_N[positions].astype(np.int64) for positions in chunks]
        make_folder(self._folder)
        if is_first():
            self._remove_surplus(len(chunks))
        tables = [
            whole_chunk(self._folder, index, layout(rows_B, self._dtype))
            for index, rows_B in enumerate(self._chunks)
        ]
        self._width = next((width_of(table) for table in tables if table is not None), None)
        self._write_settings()
        return [table is not None for table in tables]

    def write(self, index: int, features_BP, gradient_norms_B, tokens_B) -> None:
        """Hands over a chunk, whose arrays are the writer's from then on; its done-mark comes last.

        Waits while the chunk before it is still being written, and raises what went wrong with it.
        A row whose feature or gradient norm is not finite is stored as zeros and marked.
        """
        self._require_open()
        self._wait()
        self._raise_error()
        chunk = (index, features_BP, gradient_norms_B, tokens_B)
        # A daemon: a process that is asked to stop does not stay for it.
        self._thread = threading.Thread(target=self._work, args=chunk, daemon=True)
        self._thread.start()

    def _work(self, index: int, features_BP, gradient_norms_B, tokens_B) -> None:
        """Writes a chunk; what goes wrong is kept for the caller."""
        started = time.perf_counter()
        try:
            tensors = encode(features_BP, gradient_norms_B, tokens_B, self._dtype)
            self._agree_on_width(width_of(tensors))
            write_chunk(self._folder, index, tensors | {"rows": self._chunks[index]})
        except BaseException as error:
            self._error = error
        self.seconds += time.perf_counter() - started

    def _wait(self) -> None:
        started = time.perf_counter()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.waited += time.perf_counter() - started

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _require_open(self) -> None:
        if not self._open:
            raise RuntimeError("a StoreWriter works inside its `with` block alone")

    def _agree_on_width(self, width: int) -> None:
        if self._width not in (None, width):
            raise ValueError(f"{self._folder}: rows of {width} values among rows of {self._width}")
        if self._width is None:
            self._width = width
            self._write_settings()

    def _write_settings(self) -> None:
        """Writes store.json: the process that has the first chunk does, as it knows the width."""
        if not is_first():
            return
        settings = {
            "dtype": self._dtype,
            "rows": len(self._rows_N),
            "width": self._width,
            "chunks": [layout(rows_B, self._dtype) for rows_B in self._chunks],
        }
        write_atomic(self._folder / SETTINGS, json.dumps(settings) + "\n")

    def _remove_surplus(self, count: int) -> None:
        """Deletes what an earlier layout left beyond the last of `count` chunks."""
        files = (of(self._folder, i) for of in (chunk_file, done_file) for i in range(count))
        kept = {file.name for file in files}
        for file in self._folder.glob("chunk-*"):
            if file.name not in kept:
                file.unlink(missing_ok=True)


def open_store(folder: epath.Path) -> Store:
    """Checks every byte of a finished store, and reads all but its rows.

    InputError names a chunk that is missing or damaged.
    """
    settings, chunks = _read_settings(folder), []
    for index, digest in enumerate(settings["chunks"]):
        file, table = chunk_file(folder, index), whole_chunk(folder, index, digest)
        if table is None or width_of(table) != settings["width"]:
            raise InputError(
                f"{file}: the chunk is missing, damaged or holds other rows; "
                f"delete {folder} and run the same command"
            )
        chunks.append({name: read_tensor(file, table[name]) for name in OF_EACH_ROW})
    joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in OF_EACH_ROW}
    order = np.argsort(joined["rows"])
    if len(order) != settings["rows"]:
        raise ValueError(f"{folder}: {len(order)} of {settings['rows']} rows were laid out")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    ends = np.cumsum([len(chunk["rows"]) for chunk in chunks])
    return Store(
        folder=folder,
        dtype=settings["dtype"],
        width=settings["width"],
        positions=tuple(np.split(places, ends[:-1])),
        **{f"{name}_N": joined[name][order] for name in OF_EACH_ROW},
    )


def store_digest(folder: epath.Path) -> str:
    """The content hash of a finished store: that of its layout and of its chunks' own hashes."""
    digest = hashlib.sha256()
    for file in (folder / SETTINGS, *sorted(folder.glob("chunk-*.done"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _read_settings(folder: epath.Path) -> dict:
    """The contents of store.json; InputError if they are not what a StoreWriter leaves."""
    file = folder / SETTINGS
    if not file.exists():
        raise InputError(f"{file}: no such file; delete {folder} and run the same command")
    try:
        settings = json.loads(file.read_text())
        rows, dtype, chunks, _ = (settings[key] for key in ("rows", "dtype", "chunks", "width"))
        if not (rows and chunks and dtype in STORED):
            raise ValueError(f"{rows} rows of {dtype} in {len(chunks)} chunks")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise InputError(
            f"{file}: not that of a finished store ({reason}); "
            f"delete {folder} and run the same command"
        ) from error
    return settings
