"""Devices: which of them share the work of this process, and who holds what."""

import os

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"  # the mesh's only axis: rows of a batch, and shares of a sharded weight


def data_mesh() -> Mesh:
    """All devices of this process in a row. Processes do not wait for each other's devices."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shared_out(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """A matrix cut along its longest side that the devices divide; anything else is replicated."""
    sides = [n if len(shape) > 1 and n % mesh.size == 0 else 0 for n in shape]
    if mesh.size == 1 or max(sides, default=0) == 0:
        return replicated(mesh)
    cut = sides.index(max(sides))
    spec = [DATA if side == cut else None for side in range(len(shape))]
    return NamedSharding(mesh, PartitionSpec(*spec))


def whole(leaf: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A weight of this shape, gathered (inside `shard_map`) if this device holds a share of it."""
    if leaf.shape == shape:
        return leaf
    axis = next(
        i for i, (part, full) in enumerate(zip(leaf.shape, shape, strict=True)) if part != full
    )
    return jax.lax.all_gather(leaf, DATA, axis=axis, tiled=True)


def process_share() -> tuple[int, int]:
    """(index of this process, number of processes)."""
    return jax.process_index(), jax.process_count()


def free_memory() -> int:
    """Bytes that a device of this process has left; on a CPU, what the machine has."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
