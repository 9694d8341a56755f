"""PyTorch's files: tensors, and dictionaries and lists of them; code in a file is never run."""

import io
import os
import zipfile
from types import ModuleType
from typing import Any

from etils import epath

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import in_object_store

SAFE_TORCH = (2, 6)  # before it weights_only could be got around: CVE-2025-32434


def torch_for(file: epath.PathLike, way_out: str) -> ModuleType:
    """PyTorch; where it is not installed, InputError names the file and the way out."""
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{file}: {epath.Path(file).suffix} files need PyTorch; pip install torch, or {way_out}"
        ) from error
    return torch


def load_tensors(file: epath.Path, way_out: str) -> Any:
    """What `torch.save` wrote, on the CPU and mapped where that is possible.

    way_out: what else can be done, for an InputError where PyTorch is absent or not safe. Any other
    error is of the file, which is damaged or holds more than tensors.
    """
    torch = torch_for(file, way_out)
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise InputError(
            f"{file}: PyTorch {torch.__version__} may run code that a {file.suffix} file holds; "
            f"pip install 'torch>=2.6', or {way_out}"
        )
    remote = in_object_store(file)
    return torch.load(
        io.BytesIO(file.read_bytes()) if remote else os.fspath(file),
        map_location="cpu",
        weights_only=True,
        mmap=not remote and zipfile.is_zipfile(file),
    )
