"""A store's rows as one file in the order of the pool: what a selection reads that cannot hold them
in memory.

    rows.bin    the rows as they are in memory, one after another
    scales.npy  of int8 rows alone
    rows.json   rows, width, dtype
"""

import json
from collections.abc import Sequence

import numpy as np
from etils import epath

from g2is_jax.features.rows import DTYPES, Rows, dtype_in_memory, of_checkpoints
from g2is_jax.features.store import Store
from g2is_jax.features.store_chunk import read_stored
from g2is_jax.runs.host_memory import available_bytes
from g2is_jax.runs.storage import write_atomic

MEMORY = ("auto", "memory", "disk")
SHARE = 0.5  # of the memory there is, that features may fill


def stays_on_disk(memory: str, stores: Sequence[Store]) -> bool:
    """True if rows are to be left on disk: as `memory` says, or because they are too large.

    memory: one of MEMORY.
    """
    if memory != "auto":
        return memory == "disk"
    return bytes_in_memory(stores) > SHARE * available_bytes()


def bytes_in_memory(stores: Sequence[Store]) -> int:
    """The bytes of the rows of a store, or of those of several checkpoints side by side."""
    return len(stores[0].rows_N) * sum(store.width for store in stores) * _dtype(stores).itemsize


def write_ordered(folder: epath.Path, stores: Sequence[Store], weights: Sequence[float]) -> dict:
    """Writes the rows of one store, or of several checkpoints side by side, chunk by chunk.

    Returns the counts of the stage.
    """
    count, width, dtype = len(stores[0].rows_N), sum(s.width for s in stores), _dtype(stores)
    shape = {"rows": count, "width": width, "dtype": dtype.name}
    values_NW = np.memmap(folder / "rows.bin", dtype, "w+", shape=(count, width))
    scales_N, start = np.zeros(count, np.float32), 0
    for store, weight in zip(stores, weights, strict=True):
        columns = slice(start, start + store.width)
        for index, positions_B in enumerate(store.positions):
            values_BP, scales_B = read_stored(store.folder, index)
            if len(stores) > 1:
                own_B1 = 1 if scales_B is None else scales_B[:, None]
                values_BP = np.float32(weight**0.5) * values_BP.astype(np.float32) * own_B1
            elif scales_B is not None:
                scales_N[positions_B] = scales_B
            values_NW[positions_B, columns] = values_BP
            values_NW.flush()
        start = columns.stop
    if dtype == np.int8:
        np.save(folder / "scales.npy", scales_N)
    write_atomic(folder / "rows.json", json.dumps(shape) + "\n")
    return {"rows": count, "bytes": count * width * dtype.itemsize}


def open_ordered(folder: epath.Path, stores: Sequence[Store]) -> Rows:
    """The rows of a finished file, left on disk."""
    shape = json.loads((folder / "rows.json").read_text())
    size, dtype = (shape["rows"], shape["width"]), DTYPES[shape["dtype"]]
    values_NW = np.memmap(folder / "rows.bin", dtype, "r", shape=size)
    scales_N = np.load(folder / "scales.npy") if dtype == np.int8 else None
    norms_NK, finite_N = of_checkpoints([(s.norms_N[:, None], s.finite_N) for s in stores])
    return Rows(values_NW, scales_N, norms_NK, finite_N)


def _dtype(stores: Sequence[Store]) -> np.dtype:
    return dtype_in_memory(stores[0].dtype) if len(stores) == 1 else np.dtype(np.float32)
