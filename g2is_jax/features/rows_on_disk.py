"""Unit rows that stay on disk, and their products, from inside a compiled program.

A program calls back to the host, which reads the file block by block, the next block while one is
multiplied; so a walk is the same program as on rows in memory, and one read serves as many rows.
"""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from g2is_jax.features.rows import Rows, check_finite, divisors

BLOCK_BYTES = 2**23  # of float32 values, that are in memory at a time; twice that with the next


class RowFile:
    """The rows of a memory map, read for a program; two of them are never equal."""

    def __init__(self, rows: Rows):
        self.rows = rows

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (N, P)."""
        return self.rows.shape

    def taken(self, chosen_L) -> np.ndarray:
        """The rows of these numbers as they are stored, [L, P]; a number past the end is the
        last."""
        places_L = np.clip(np.asarray(chosen_L), 0, len(self.rows) - 1)
        return np.array(self.rows.values_NP[places_L])

    def products(self, directions_LP) -> np.ndarray:
        """The products of directions with the values of all rows, in float32, [L, N]."""
        directions_LP = np.asarray(directions_LP, np.float32)
        products_LN = np.empty((len(directions_LP), len(self.rows)), np.float32)
        for block, values_BP in self._blocks():
            np.matmul(directions_LP, values_BP.T, out=products_LN[:, block])
        return products_LN

    def extremes(self, directions_LP, inverse_N, first, end) -> tuple[np.ndarray, ...]:
        """The cosines of the last of some directions to all rows, and of all of these the smallest,
        the largest and the sum, each [N]; the directions are those from `first` until `end`."""
        directions_LP = np.asarray(directions_LP, np.float32)[int(first) : int(end)]
        inverse_N = np.asarray(inverse_N)
        found = tuple(np.empty(len(self.rows), np.float32) for _ in range(4))
        for block, values_BP in self._blocks():
            cosines_LB = directions_LP @ values_BP.T * inverse_N[block]
            of_block = cosines_LB[-1], cosines_LB.min(0), cosines_LB.max(0), cosines_LB.sum(0)
            for of_N, of_B in zip(found, of_block, strict=True):
                of_N[block] = of_B
        return found

    def lengths(self) -> np.ndarray:
        """The lengths of the rows' values, in float32, [N]."""
        lengths_N = np.empty(len(self.rows), np.float32)
        for block, values_BP in self._blocks():
            lengths_N[block] = np.sqrt(np.einsum("bp,bp->b", values_BP, values_BP))
        return lengths_N

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields blocks of values in float32, the next one being read meanwhile."""
        count, width = self.shape
        size = max(1, BLOCK_BYTES // (4 * width))
        blocks = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self._read, blocks[0])
            for block, following in zip(blocks, [*blocks[1:], None], strict=True):
                values_BP = coming.result()
                if following is not None:
                    coming = reader.submit(self._read, following)
                yield block, values_BP

    def _read(self, block: slice) -> np.ndarray:
        return np.array(self.rows.values_NP[block], np.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UnitRowsOnDisk:
    """As `unit_rows.UnitRows`, but that the values are in a file."""

    inverse_length_N: jax.Array
    squared_N: jax.Array
    file: RowFile = field(metadata={"static": True})


@functools.lru_cache(maxsize=2)
def on_disk(rows: Rows) -> UnitRowsOnDisk:
    """The rows of a memory map as unit rows; InputError names a row that is not finite.

    Asked again for the same rows it reads nothing, and programs that are compiled for them fit.
    """
    file = RowFile(rows)
    lengths_N = file.lengths()
    if rows.scales_N is not None:
        lengths_N *= rows.scales_N > 0
    check_finite(np.isfinite(lengths_N), "pool row")
    inverse_N = np.where(lengths_N > 0, 1 / divisors(lengths_N), 0).astype(np.float32)
    return UnitRowsOnDisk(
        jnp.asarray(inverse_N), jnp.asarray((lengths_N > 0).astype(np.float32)), file
    )


def taken(rows: UnitRowsOnDisk, chosen_L) -> jax.Array:
    """The rows of these numbers as they are stored, [L, P]."""
    dtype = rows.file.rows.values_NP.dtype
    shape = jax.ShapeDtypeStruct((len(chosen_L), rows.file.shape[1]), dtype)
    return jax.pure_callback(rows.file.taken, shape, chosen_L)


def cosines(rows: UnitRowsOnDisk, directions_LP) -> jax.Array:
    """Cosines of float32 unit directions to all rows, [L, N]; one read of the file."""
    shape = jax.ShapeDtypeStruct((len(directions_LP), rows.file.shape[0]), np.float32)
    products_LN = jax.pure_callback(rows.file.products, shape, directions_LP)
    return products_LN * rows.inverse_length_N[None]


def extremes(rows: UnitRowsOnDisk, directions_LP, first, end) -> tuple[jax.Array, ...]:
    """Cosines of float32 unit directions to all rows, put together as `RowFile.extremes` does; one
    read of the file, and no [L, N] in memory."""
    shape = jax.ShapeDtypeStruct((rows.file.shape[0],), np.float32)
    return jax.pure_callback(
        rows.file.extremes, (shape,) * 4, directions_LP, rows.inverse_length_N, first, end
    )
