"""Safetensors files, read and written one tensor at a time; bfloat16 and float8 included.

8 bytes    length of the header, little-endian
header     JSON: name -> dtype, shape, [begin, end) within the data; spaces up to 8 bytes
data       the tensors, without holes
"""

import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from etils import epath

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import atomic_stream

# In the order in which files hold them: aligned, and the safetensors library's own.
DTYPES = {
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
HEADER_BYTES = 100_000_000  # a longer header is refused, as by the safetensors library
READ_BYTES = 64 * 2**20  # remote files are read into memory once more, in pieces of this size

Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]


@dataclass(frozen=True)
class TensorEntry:
    """A tensor and where it lies: bytes [begin, end) of its file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def tensor_table(file: epath.Path) -> dict[str, TensorEntry]:
    """Lists what a safetensors file holds, from its header; InputError if any byte is missing."""
    with file.open("rb") as stream:
        return _table(stream, file.stat().length, str(file))


def read_tensor(file: epath.Path, entry: TensorEntry, rows: slice | None = None) -> np.ndarray:
    """Reads one tensor, or some rows of its leading axis; no other byte is read or kept."""
    begin, shape = entry.begin, entry.shape
    if rows is not None:
        start, stop, step = rows.indices(shape[0])
        if step != 1:
            raise ValueError(f"{rows} is not contiguous")
        begin += start * math.prod(shape[1:]) * entry.dtype.itemsize
        shape = (max(stop - start, 0), *shape[1:])
    array = aligned_array(shape, entry.dtype)
    with file.open("rb") as stream:
        stream.seek(begin)
        _fill(stream, _bytes_of(array).data, str(file))
    return array


def read_tensors(file: epath.Path) -> dict[str, np.ndarray]:
    """Reads every array of a safetensors file; InputError if it is damaged."""
    return {name: read_tensor(file, entry) for name, entry in tensor_table(file).items()}


def from_bytes(data: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of a file's bytes, not copied; InputError if they are damaged."""
    return {
        name: np.frombuffer(data, entry.dtype, math.prod(entry.shape), entry.begin).reshape(
            entry.shape
        )
        for name, entry in _table(io.BytesIO(data), len(data), "bytes").items()
    }


def to_bytes(tensors: dict[str, np.ndarray]) -> bytes:
    """Returns the file's bytes; marked as PyTorch's layout, which Hugging Face loaders ask for."""
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    return b"".join(_pieces(shapes, tensors.__getitem__))


def write_tensors(file: epath.Path, shapes: Shapes, produce: Callable[[str], np.ndarray]) -> None:
    """Writes a file of any size; whoever looks sees the old file or all of the new.

    shapes: name -> (shape, dtype) of every tensor. produce: returns the tensor of that name; called
    once for each, in the file's order, and its result is dropped before the next call.
    """
    with atomic_stream(file) as stream:
        for piece in _pieces(shapes, produce):
            stream.write(piece)
            del piece  # else it lives on while the next one is produced


def _pieces(shapes: Shapes, produce: Callable[[str], np.ndarray]) -> Iterator[Any]:
    """Yields the header, then the bytes of each tensor."""
    for name, (_, dtype) in shapes.items():
        if np.dtype(dtype) not in NAMES:
            raise ValueError(f"tensor {name}: safetensors files have no dtype {dtype}")
    order = {dtype: place for place, dtype in enumerate(NAMES)}
    names = sorted(shapes, key=lambda name: (order[np.dtype(shapes[name][1])], name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        shape, dtype = shapes[name][0], np.dtype(shapes[name][1])
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield _as_announced(name, np.asarray(produce(name)), *shapes[name])


def _as_announced(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    if array.shape != tuple(shape) or array.dtype != dtype:
        raise ValueError(
            f"tensor {name}: announced as {np.dtype(dtype)} {tuple(shape)}, "
            f"produced as {array.dtype} {array.shape}"
        )
    return _bytes_of(array)


def aligned_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array that jax on a CPU takes over without a copy: it starts at 64 bytes times n.

    It is not made by np.empty, which asks for huge pages: in fragmented memory each one is slow.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.frombuffer(bytearray(size + 64), np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def _bytes_of(array: np.ndarray) -> np.ndarray:
    """Returns the bytes in C order, the same memory where it is so; bfloat16 has no own buffer."""
    return array.reshape(-1).view(np.uint8)


def _fill(stream: Any, target: memoryview, place: str) -> None:
    """Reads the stream into the memory, directly where the stream can."""
    while target:
        piece = target[:READ_BYTES]
        if hasattr(stream, "readinto"):
            got = stream.readinto(piece)
        else:
            data = stream.read(len(piece))
            got = len(data)
            piece[:got] = data
        if not got:
            raise _damaged(place, f"it ends {len(target)} bytes early")
        target = target[got:]


def _table(stream: BinaryIO, size: int, place: str) -> dict[str, TensorEntry]:
    """Reads the header's entries, checked to cover the file's bytes without holes."""
    if size < 8:
        raise _damaged(place, f"{size} bytes are too few for one")
    length = int.from_bytes(stream.read(8), "little")
    if length > min(HEADER_BYTES, size - 8):
        raise _damaged(place, f"a header of {length} bytes does not fit its {size} bytes")
    fields = _fields(stream.read(length), place)
    table, reached, start = {}, 0, 8 + length
    for name, (dtype, shape, begin, end) in sorted(fields.items(), key=lambda item: item[1][2:]):
        if dtype not in DTYPES:
            raise InputError(
                f"{place}: tensor {name} is of dtype {dtype!r}; only {', '.join(DTYPES)} can be "
                "read: give a checkpoint in one of them"
            )
        if end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
            raise _damaged(place, f"tensor {name}, {dtype} {shape}, has {end - begin} bytes")
        if begin != reached:
            raise _damaged(place, f"tensor {name} begins at byte {begin}, not at {reached}")
        reached = end
        table[name] = TensorEntry(DTYPES[dtype], shape, start + begin, start + end)
    if start + reached != size:
        raise _damaged(place, f"it has {size} bytes and should have {start + reached}")
    return table


def _fields(text: bytes, place: str) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """Reads dtype, shape, begin and end of each tensor from the header's text."""
    fields = {}
    try:
        header = json.loads(text.decode())
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            numbers = [*shape, begin, end]
            if type(dtype) is not str or any(type(n) is not int or n < 0 for n in numbers):
                raise ValueError(f"tensor {name}: {entry}")
            fields[name] = (dtype, shape, begin, end)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise _damaged(place, f"unreadable header, {reason}") from error
    return fields


def _damaged(place: str, reason: str) -> InputError:
    return InputError(f"{place}: not a whole safetensors file ({reason}); copy it again")
