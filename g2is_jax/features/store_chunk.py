"""One chunk of a store: its two files, what they hold, and how rows become numbers on disk.

chunk-00000.safetensors features (unit rows), norms, gradient_norms, tokens, rows, finite, scales
chunk-00000.done        the chunk's sha256, written after it

Rows are rounded by `rows.quantised`: int8 rows and those of bits, which are bytes here, have a
float32 scale each in `scales`, float32 and bfloat16 rows have none.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from etils import epath

from g2is_jax.features.bits import packed, unpacked
from g2is_jax.features.rows import BITS, divisors, quantised
from g2is_jax.runs.storage import in_object_store, write_atomic
from g2is_jax.runs.tensors import TensorEntry, read_tensor, tensor_table, to_bytes

OF_EACH_ROW = ("rows", "norms", "gradient_norms", "tokens", "finite")
SMALLEST_NORM = 1e-10  # a shorter row is divided by this, and stays short
HASH_BYTES = 2**20  # read at a time


def layout(rows_B: np.ndarray, dtype: str) -> str:
    """The digest of what a chunk should hold: row numbers (int64) in their order, and the dtype."""
    return hashlib.sha256(dtype.encode() + rows_B.tobytes()).hexdigest()


def encode(features_BP, gradient_norms_B, tokens_B, dtype: str) -> dict[str, np.ndarray]:
    """A chunk's tensors, all but its row numbers.

    A row whose feature or gradient norm is not finite becomes zero, in its norms too.
    """
    features_BP = np.asarray(features_BP)
    with np.errstate(over="ignore"):  # what is beyond float32 is not finite
        squares_B = np.einsum("bp,bp->b", features_BP, features_BP, dtype=np.float64)
        norms_B = np.sqrt(squares_B).astype(np.float32)
        gradient_norms_B = np.asarray(gradient_norms_B).astype(np.float32)
    finite_B = np.isfinite(norms_B) & np.isfinite(gradient_norms_B)
    norms_B = np.where(finite_B, norms_B, 0)
    units_BP = features_BP / np.maximum(divisors(norms_B), SMALLEST_NORM)[:, None]
    units_BP[~finite_B] = 0
    values_BP, scales_B = quantised(units_BP, dtype)
    tensors = {
        "features": packed(values_BP) if dtype == BITS else values_BP,
        "norms": norms_B,
        "gradient_norms": np.where(finite_B, gradient_norms_B, 0),
        "tokens": np.asarray(tokens_B).astype(np.int32),
        "finite": finite_B,
    }
    return tensors if scales_B is None else tensors | {"scales": scales_B}


def write_chunk(folder: epath.Path, index: int, tensors: dict[str, np.ndarray]) -> None:
    """Writes the chunk's two files; the done-mark comes last."""
    data = to_bytes(tensors)
    write_atomic(chunk_file(folder, index), data)
    write_atomic(done_file(folder, index), hashlib.sha256(data).hexdigest())


def whole_chunk(folder: epath.Path, index: int, expected: str) -> dict[str, TensorEntry] | None:
    """The table of the chunk's tensors, if it is whole and of the expected layout, else None."""
    file, mark = chunk_file(folder, index), done_file(folder, index)
    if not (file.exists() and mark.exists()) or _sha256(file).encode() != mark.read_bytes():
        return None
    table = tensor_table(file)
    if not {"features", *OF_EACH_ROW} <= set(table):  # of an earlier edition of this file
        return None
    dtype = table["features"].dtype
    found = layout(read_tensor(file, table["rows"]), BITS if dtype == np.uint8 else dtype.name)
    return table if found == expected else None


def width_of(tensors: Mapping[str, TensorEntry] | Mapping[str, np.ndarray]) -> int:
    """The values of a row, by the tensors of its chunk or their table."""
    features = tensors["features"]
    return features.shape[1] * (8 if features.dtype == np.uint8 else 1)


def read_features(folder: epath.Path, index: int) -> np.ndarray:
    """A chunk's rows, features_BP in float32; read from disk as they are converted."""
    values_BP, scales_B = read_stored(folder, index)
    features_BP = values_BP.astype(np.float32)
    if scales_B is not None:
        features_BP *= scales_B[:, None]
    return features_BP


def read_stored(folder: epath.Path, index: int) -> tuple[np.ndarray, np.ndarray | None]:
    """A chunk's rows as they are in memory, and the scales_B of int8 rows; but for rows of bits
    they are read as they are used."""
    file = chunk_file(folder, index)
    table = tensor_table(file)
    scales_B = read_tensor(file, table["scales"]) if "scales" in table else None
    values_BP = _mapped(file, table["features"])
    return unpacked(values_BP) if values_BP.dtype == np.uint8 else values_BP, scales_B


def chunk_file(folder: epath.Path, index: int) -> epath.Path:
    """The file of the chunk's tensors."""
    return folder / f"chunk-{index:05d}.safetensors"


def done_file(folder: epath.Path, index: int) -> epath.Path:
    """The chunk's done-mark."""
    return folder / f"chunk-{index:05d}.done"


def _mapped(file: epath.Path, entry: TensorEntry) -> np.ndarray:
    """The tensor as a memory map; in memory where the file is not on a disk of this machine."""
    if in_object_store(file):
        return read_tensor(file, entry)
    memory = np.memmap(file, np.uint8, "r", entry.begin, (entry.end - entry.begin,))
    return np.asarray(memory).view(entry.dtype).reshape(entry.shape)


def _sha256(file: epath.Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()
