"""Slices of TPU chips that need not be there: `libtpu` describes them, and compiles for them."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.mesh import DATA, PROCESS

# What a cloud calls a slice of so many chips.
FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
SHAPES = {
    "v5e": FLAT,
    "v6e": FLAT,
    "v5p": {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"},
}
ONE_HOST, OTHERS = 8, 4  # chips that the host of a flat slice of one has at most; all others'
# Read when libtpu is loaded, which else asks a cloud for the slice that it is on, lets a lock admit
# one process alone, and complains of the missing host.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
INSTALL = "`pip install 'jax[tpu]'` brings the compiler (linux, x86-64)"


@dataclass(frozen=True)
class Slice:
    """A slice by its name, such as v5e:2x4, its kind of chip, and its devices as a run meshes them.

    local: the devices of one process, as `runs.mesh.data_mesh`. training: those of all processes,
    as `training_mesh`.
    """

    name: str
    chip: str
    local: Mesh
    training: Mesh

    def __str__(self) -> str:
        return f"{self.name} ({self.training.size} chips, {self.hosts} host(s))"

    @property
    def hosts(self) -> int:
        """The number of processes."""
        return self.training.size // self.local.size


def has_compiler() -> bool:
    """True where libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def slice_name(chip: str, devices: int) -> str:
    """The slice of so many chips; InputError where there is none."""
    shapes = SHAPES[chip]
    if devices not in shapes:
        known = ", ".join(map(str, shapes))
        raise InputError(f"--devices={devices}: no {chip} slice has as many; one of {known}")
    return f"{chip}:{shapes[devices]}"


def chips_of(name: str) -> tuple[str, int]:
    """The kind of chip and their number in a slice of this name; InputError where it is none."""
    chip, _, shape = name.partition(":")
    if chip not in SHAPES or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise InputError(
            f"--topology={name} is no slice of {', '.join(SHAPES)}; name one such as v5e:2x4"
        )
    return chip, math.prod(_sides(shape))


def hosts_of(chip: str, devices: int) -> int:
    """The hosts of a slice of so many chips."""
    of_one = ONE_HOST if SHAPES[chip] is FLAT else OTHERS
    return 1 if devices <= of_one else devices // OTHERS


def read_slice(name: str) -> Slice:
    """A slice by its name; InputError where it has none, or where libtpu is not installed."""
    chip, _ = chips_of(name)
    if not has_compiler():
        raise InputError(f"--topology={name}: libtpu is not installed; {INSTALL}")
    devices = _devices(name)
    hosts = sorted({device.process_index for device in devices})
    local = devices
    if len(hosts) > 1:  # a program of one process is compiled for the chips of one host
        first = [device for device in devices if device.process_index == hosts[0]]
        local = _devices(f"{chip}:{_extent(chip, first)}")
    return Slice(name, chip, _row(local), _grid(devices, len(hosts)))


def _devices(name: str) -> Sequence[Any]:
    """The chips of a slice, by process."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    sides, settings = _sides(name.partition(":")[2]), {}
    if len(sides) == 2 and math.prod(sides) <= ONE_HOST:
        settings["chips_per_host_bounds"] = (*sides, 1)
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **settings)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--topology={name}: {reason}; name one such as v5e:2x4") from error
    return sorted(topology.devices, key=lambda device: (device.process_index, device.id))


def _sides(shape: str) -> list[int]:
    return list(map(int, shape.split("x")))


def _extent(chip: str, devices: Sequence[Any]) -> str:
    """The sides of the block that these chips are, as a slice is named."""
    places = np.array([device.coords for device in devices])
    sides = places.max(axis=0) - places.min(axis=0) + 1
    return "x".join(map(str, sides[:2] if SHAPES[chip] is FLAT else sides))


def _row(devices: Sequence[Any]) -> Mesh:
    return Mesh(np.array(devices), (DATA,), axis_types=(AxisType.Auto,))


def _grid(devices: Sequence[Any], hosts: int) -> Mesh:
    if hosts == 1:
        return _row(devices)
    grid = np.array(devices).reshape(hosts, -1)
    return Mesh(grid, (PROCESS, DATA), axis_types=(AxisType.Auto,) * 2)
