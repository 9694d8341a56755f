"""Devices: meshes that share a piece of work, and the placement of arrays on them."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from g2is_jax.runs.processes import process_share

DATA = "data"  # devices of one process: rows of a batch, and shares of a sharded weight
PROCESS = "process"  # of a mesh over all processes: rows of a batch alone


def data_mesh() -> Mesh:
    """Returns this process's devices in a row; processes do not wait for each other's devices."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def training_mesh() -> Mesh:
    """Returns all devices of all processes; with one process, `data_mesh`.

    A sharded weight is whole in each process, so that gathering it stays within the process.
    """
    processes = jax.process_count()
    if processes == 1:
        return data_mesh()
    shape = (processes, jax.local_device_count())
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices).reshape(shape), (PROCESS, DATA), axis_types=(AxisType.Auto,) * 2)


def shared_mesh() -> Mesh | None:
    """Returns `data_mesh`; None where there is but one device, which shares with no other."""
    mesh = data_mesh()
    return mesh if mesh.size > 1 else None


def selection_mesh() -> Mesh | None:
    """Returns the devices, in a row, of all processes that share the work at hand; None where there
    is but one device."""
    if process_share()[1] == 1:
        return shared_mesh()
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (DATA,), axis_types=(AxisType.Auto,))


def spans_processes(mesh: Mesh | None) -> bool:
    """Tells whether devices of other processes are in the mesh too."""
    return mesh is not None and mesh.is_multi_process


def on_host(array: jax.Array) -> np.ndarray:
    """Returns the whole array, whichever devices of whichever processes hold it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def shared_training_mesh() -> Mesh | None:
    """Returns `training_mesh`; None where there is but one device."""
    mesh = training_mesh()
    return mesh if mesh.size > 1 else None


def placed(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    """Places a weight that each process has on the devices of a mesh, unless it lies there already.

    Processes send each other nothing: each of them has all shares on its own devices.
    """
    if not sharding.mesh.is_multi_process:
        return jax.device_put(leaf, sharding)
    here = jax.device_put(leaf, NamedSharding(data_mesh(), sharding.spec))
    shares = [shard.data for shard in here.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, shares)


def at_home(tree: Any) -> Any:
    """Brings arrays that are the same on all devices to this process's first device alone."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), tree)


def any_says_soon(question: Callable[[], bool]) -> Callable[[], bool]:
    """Asks all processes as `any_says` does, but does not wait: the function it returns does.

    The answer comes when the devices have done what was dispatched before. One process alone is
    asked when that function is called.
    """
    if process_share()[1] == 1:
        return question
    mesh = training_mesh()
    of_processes = NamedSharding(mesh, PartitionSpec(PROCESS))
    answers_P = jax.make_array_from_process_local_data(of_processes, np.array([question()]))
    told = _any_function(mesh)(answers_P)
    return lambda: bool(told)


@functools.cache
def _any_function(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(jnp.any, out_shardings=replicated(mesh))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shared_out(mesh: Mesh, shape: tuple[int, ...], layers: int = 0) -> NamedSharding:
    """Returns the sharding that cuts a matrix along its longest side that the devices divide.

    Anything else is replicated. layers: axes of layers in front of that shape, which stay whole.
    """
    parts = mesh.shape[DATA]
    sides = [n if len(shape) > 1 and n % parts == 0 else 0 for n in shape]
    if parts == 1 or max(sides, default=0) == 0:
        return replicated(mesh)
    cut = sides.index(max(sides))
    spec = [None] * layers + [DATA if side == cut else None for side in range(len(shape))]
    return NamedSharding(mesh, PartitionSpec(*spec))


def whole(leaf: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Gathers a weight of this shape (inside `shard_map`) if this device holds a share of it."""
    axis = share_axis(leaf, shape)
    return leaf if axis is None else jax.lax.all_gather(leaf, DATA, axis=axis, tiled=True)


def share_axis(leaf: jax.Array, shape: tuple[int, ...]) -> int | None:
    """Returns the axis along which this device holds but a share; None: it holds the whole."""
    sides = enumerate(zip(leaf.shape, shape, strict=True))
    return next((axis for axis, (part, full) in sides if part != full), None)


def free_memory() -> int:
    """Returns the bytes that a device of this process has left; on a CPU, the machine's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
