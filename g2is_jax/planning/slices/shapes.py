"""Shapes of a program's arguments, each with the chips that it lies on."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from g2is_jax.model.build import Model


@dataclass(frozen=True)
class Chips:
    """The chips of a program, and the mesh that its function is made for: None for one chip."""

    devices: Mesh

    @property
    def mesh(self) -> Mesh | None:
        return self.devices if self.devices.size > 1 else None

    def everywhere(self, tree: Any) -> Any:
        """Shapes of arrays that every chip has whole."""
        on_each = self._sharding(PartitionSpec())
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_each), tree
        )

    def of_rows(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        """The shape of an array with so many rows on each chip."""
        whole = (shape[0] * self.devices.size, *shape[1:])
        shared = self._sharding(PartitionSpec(self.devices.axis_names))
        return jax.ShapeDtypeStruct(whole, dtype, sharding=shared)

    def adapter(self, model: Model) -> dict:
        """The shapes of the adapter's leaves."""
        return self.everywhere(jax.eval_shape(model.zero_adapter))

    def base(self, model: Model) -> dict:
        """The shapes of the base's leaves, each where it is to lie."""
        return {
            path: jax.ShapeDtypeStruct(shape, model.dtype, sharding=self._place(model, path))
            for path, shape in model.base_layout.leaf_shapes().items()
        }

    def _place(self, model: Model, path: str) -> Sharding:
        if self.mesh is None:
            return self._sharding(PartitionSpec())
        return model.sharding(path, self.mesh)

    def _sharding(self, spec: PartitionSpec) -> Sharding:
        if self.mesh is None:
            return SingleDeviceSharding(self.devices.devices.item())
        return NamedSharding(self.mesh, spec)


def scalar(dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), dtype)


def bytes_on_a_chip(tree: Any) -> int:
    """The bytes of arrays of these shapes on each chip."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )
