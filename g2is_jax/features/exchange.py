"""Feature matrices of other programs: read into a store, and written from one.

.npy         the matrix (N, P) alone, as NumPy saves it
.safetensors `features`, and of each row, where known: norms, gradient_norms, tokens, rows, finite
.pt          one tensor (N, P) saved by PyTorch, as LESS's released code leaves its gradients

Nothing is unpickled: neither object arrays nor a .pt file that holds more than tensors.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from etils import epath

from g2is_jax.features.rows import divisors
from g2is_jax.features.store import Store, StoreConfig, StoreWriter, open_store
from g2is_jax.features.store_chunk import OF_EACH_ROW
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import in_object_store, make_folder, naming_failures
from g2is_jax.runs.tensors import NAMES, read_tensor, tensor_table, write_tensors
from g2is_jax.runs.torch_files import load_tensors, torch_for

A_NPY_FILE = "exchange a .npy file"  # the way out


@dataclass(frozen=True)
class Summary:
    """The rows read or written, their width, and how many of them are not finite."""

    rows: int
    width: int
    not_finite: int


@dataclass(frozen=True)
class Matrix:
    """A matrix that is read in slices of rows, and what its file says of each row (`known`)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[slice], np.ndarray]
    known: dict[str, np.ndarray] = field(default_factory=dict)


def open_matrix(source: epath.Path) -> Matrix:
    """Opens a .npy, .safetensors or .pt file; InputError if it holds no matrix of numbers."""
    return _checked(_reader(source)(source), source)


def import_features(source: epath.Path, folder: epath.Path, config: StoreConfig) -> Summary:
    """Writes a store of a file's rows, in chunks of `config.chunk_rows`.

    Norms are those of the rows in the file, unless it says what they were before; gradient norms
    equal them, tokens are 0 and rows are counted from 0 where the file does not say.
    InputError if the file is not a matrix of numbers, or `folder` is not empty.
    """
    matrix = open_matrix(source)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is not empty; give another folder, or delete it")
    count = matrix.shape[0]
    rows_N = matrix.known.get("rows", np.arange(count))
    starts = range(0, count, config.chunk_rows)
    slices = [slice(start, min(start + config.chunk_rows, count)) for start in starts]
    with naming_failures(folder), StoreWriter(folder, rows_N, config) as writer:
        writer.start([np.arange(rows.start, rows.stop) for rows in slices])
        for index, rows in enumerate(slices):
            writer.write(index, *_chunk(matrix, rows))
    return _summary(open_store(folder))


def export_features(folder: epath.Path, destination: epath.Path) -> Summary:
    """Writes a store's unit rows to one file, float32 and in the order of their numbers.

    They lie in a second, temporary file first, so that memory holds one chunk at a time.
    InputError if `destination` exists, or its suffix is unknown.
    """
    finish = _writer(destination)
    if destination.exists():
        raise InputError(f"{destination}: exists; give another file, or delete it")
    store = open_store(folder)
    local = not in_object_store(destination)
    with naming_failures(destination):
        make_folder(destination.parent)
        with tempfile.TemporaryDirectory(dir=destination.parent if local else None) as place:
            finished = finish(store, _features_file(store, Path(place)))
            if local:
                finished.replace(destination)
            else:
                epath.Path(finished).copy(destination)
    return _summary(store)


def _summary(store: Store) -> Summary:
    return Summary(len(store.rows_N), store.width, int(np.sum(~store.finite_N)))


# Reading.


def _reader(source: epath.Path) -> Callable[[epath.Path], Matrix]:
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors, ".pt": _read_pt}
    reader = _by_suffix(source, readers)
    if not source.is_file():
        raise InputError(f"{source}: no such file; check the path")
    return reader


def _read_npy(source: epath.Path) -> Matrix:
    try:
        if in_object_store(source):
            with source.open("rb") as stream:
                array = np.lib.format.read_array(stream, allow_pickle=False)
        else:
            array = np.lib.format.open_memmap(os.fspath(source), mode="r")
    except Exception as error:  # of a damaged header it can be any
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise InputError(
            f"{source}: not a whole .npy file of numbers ({reason}); save the matrix by np.save"
        ) from error
    return Matrix(array.shape, array.dtype, array.__getitem__)


def _read_safetensors(source: epath.Path) -> Matrix:
    table = tensor_table(source)
    matrices = [name for name, entry in table.items() if len(entry.shape) == 2]
    name = "features" if "features" in table else matrices[0] if len(matrices) == 1 else None
    if name is None:
        raise InputError(
            f'{source}: holds {", ".join(table) or "nothing"}; name the matrix "features"'
        )
    entry = table[name]
    there = [key for key in OF_EACH_ROW if key in table]
    for key in there:
        if table[key].shape != entry.shape[:1]:
            raise InputError(
                f"{source}: {key} is of shape {table[key].shape}; expected {entry.shape[:1]}, "
                "a value of each row"
            )
    known = {key: read_tensor(source, table[key]) for key in there}
    return Matrix(entry.shape, entry.dtype, lambda rows: read_tensor(source, entry, rows), known)


def _read_pt(source: epath.Path) -> Matrix:
    torch = torch_for(source, A_NPY_FILE)
    try:
        tensor = load_tensors(source, A_NPY_FILE)
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise TypeError(f"a {type(tensor).__name__}")
        dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
    except InputError:
        raise
    except Exception as error:  # of a damaged file it can be any
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise InputError(
            f"{source}: does not hold one dense tensor ({reason}); save the matrix alone, by "
            "torch.save(tensor, file)"
        ) from error
    tensor = tensor.detach()
    if dtype.kind == "V":  # bfloat16 and the like, which NumPy has not
        return Matrix(tuple(tensor.shape), dtype, lambda rows: tensor[rows].float().numpy())
    return Matrix(tuple(tensor.shape), dtype, lambda rows: tensor[rows].numpy())


def _checked(matrix: Matrix, source: epath.Path) -> Matrix:
    if len(matrix.shape) != 2 or 0 in matrix.shape:
        raise InputError(
            f"{source}: its shape is {tuple(matrix.shape)}; expected (rows, values), none of them 0"
        )
    if matrix.dtype.newbyteorder("=") not in NAMES or matrix.dtype == np.bool_:
        raise InputError(f"{source}: of dtype {matrix.dtype}; save it as float32")
    rows_N = matrix.known.get("rows", np.arange(1))
    if rows_N.dtype.kind not in "iu" or len(np.unique(rows_N)) < len(rows_N):
        raise InputError(f"{source}: rows must be whole numbers that differ; number them anew")
    return matrix


def _chunk(matrix: Matrix, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns features_BP at the length of their norms, gradient norms and tokens of some rows."""
    known = {name: values_N[rows] for name, values_N in matrix.known.items()}
    features_BP = matrix.read(rows).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # the writer marks what is not finite
        norms_B = np.linalg.norm(features_BP, axis=1)
        if "norms" in known:
            factors_B = known["norms"].astype(np.float64) / divisors(norms_B)
            features_BP, norms_B = features_BP * factors_B[:, None], known["norms"]
    if "finite" in known:
        features_BP[~known["finite"].astype(bool)] = np.nan
    tokens_B = known.get("tokens", np.zeros(len(features_BP)))
    return features_BP, known.get("gradient_norms", norms_B), tokens_B


# Writing.


def _writer(destination: epath.Path) -> Callable[[Store, Path], Path]:
    writers = {".npy": _write_npy, ".safetensors": _write_safetensors, ".pt": _write_pt}
    writer = _by_suffix(destination, writers)
    if writer is _write_pt:
        torch_for(destination, A_NPY_FILE)  # before the long work
    return writer


def _features_file(store: Store, place: Path) -> Path:
    """Writes a .npy file of the store's rows, block by block."""
    file, shape = place / "features.npy", (len(store.rows_N), store.width)
    features_NP = np.lib.format.open_memmap(file, "w+", np.float32, shape)
    with file.open("r+b") as stream, contextlib.suppress(AttributeError):
        # A full disk is an error here, but the end of the process in a memory map.
        os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
    store.read_into(features_NP)
    features_NP.flush()
    return file


def _write_npy(_: Store, features_file: Path) -> Path:
    return features_file


def _write_safetensors(store: Store, features_file: Path) -> Path:
    tensors = {name: getattr(store, f"{name}_N") for name in OF_EACH_ROW}
    tensors["features"] = np.load(features_file, mmap_mode="r", allow_pickle=False)
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    file = features_file.with_suffix(".safetensors")
    write_tensors(epath.Path(file), shapes, tensors.__getitem__)
    return file


def _write_pt(_: Store, features_file: Path) -> Path:
    torch = torch_for(features_file, A_NPY_FILE)
    file = features_file.with_suffix(".pt")
    # "c": changes would stay in memory; PyTorch warns of arrays that cannot be written to.
    features_NP = np.load(features_file, mmap_mode="c", allow_pickle=False)
    torch.save(torch.from_numpy(np.asarray(features_NP)), file)
    return file


def _by_suffix(file: epath.Path, known: dict[str, Callable]) -> Callable:
    if file.suffix not in known:
        raise InputError(f"{file}: its suffix is unknown; known are {', '.join(known)}")
    return known[file.suffix]
