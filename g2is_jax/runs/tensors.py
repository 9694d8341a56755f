"""Named arrays as safetensors bytes, bfloat16 included (which safetensors.numpy does not read)."""

import ml_dtypes
import numpy as np
from etils import epath
from safetensors import deserialize
from safetensors.numpy import save

from g2is_jax.runs.errors import InputError

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
}


def to_bytes(tensors: dict[str, np.ndarray]) -> bytes:
    """The file's bytes; marked as PyTorch's layout, which Hugging Face loaders ask for."""
    whole = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    return save(whole, metadata={"format": "pt"})


def from_bytes(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file; ValueError says what is wrong with a damaged one."""
    try:
        parts = dict(deserialize(data))
        return {
            name: np.frombuffer(part["data"], DTYPES[part["dtype"]]).reshape(part["shape"])
            for name, part in parts.items()
        }
    except KeyError as error:
        raise ValueError(f"tensors of dtype {error} are not supported") from error
    except Exception as error:  # safetensors raises its own type, which is not a ValueError
        raise ValueError(str(error)) from error


def read_tensors(file: epath.Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file; InputError if it is damaged."""
    try:
        return from_bytes(file.read_bytes())
    except ValueError as error:
        raise InputError(
            f"{file}: not a whole safetensors file ({error}); copy it again"
        ) from error
