"""Who holds what: devices of this process, and shares of a weight."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from g2is_jax.runs.mesh import (
    DATA,
    data_mesh,
    free_memory,
    replicated,
    shared_out,
    whole,
)


def mesh_of(devices: int) -> AbstractMesh:
    return AbstractMesh((devices,), (DATA,))


def test_mesh_of_this_process():
    mesh = data_mesh()
    assert (mesh.axis_names, mesh.size) == ((DATA,), jax.local_device_count())
    assert mesh.axis_types == (jax.sharding.AxisType.Auto,)
    assert mesh.devices.tolist() == jax.local_devices()


def test_replicated():
    assert replicated(mesh_of(8)).spec == PartitionSpec()
    placed = jax.device_put(jnp.ones((3, 5)), replicated(data_mesh()))
    assert placed.sharding.is_fully_replicated


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((16, 24), (None, DATA)),
        ((24, 16), (DATA, None)),
        ((16, 16), (DATA, None)),
        ((16, 27), (DATA, None)),  # the longer side does not divide
        ((27, 16), (None, DATA)),
        ((27, 9), ()),
        ((64,), ()),  # a vector
        ((8, 3, 40), (None, None, DATA)),
    ],
)
def test_a_matrix_is_cut_along_its_longest_side_that_divides(shape, spec):
    assert shared_out(mesh_of(8), shape).spec == PartitionSpec(*spec)


def test_one_device_shares_nothing():
    assert shared_out(mesh_of(1), (16, 24)).spec == PartitionSpec()


def test_a_whole_weight_is_not_gathered():
    """So that it works outside of shard_map as well."""
    leaf = jnp.ones((16, 24))
    assert whole(leaf, (16, 24)) is leaf


def test_free_memory(monkeypatch):
    assert 2**20 < free_memory() < 2**50  # of this machine
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 1000, "bytes_in_use": 300})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert free_memory() == 700
