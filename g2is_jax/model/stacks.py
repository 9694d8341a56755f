"""Stacks of layers: a parameter of consecutive layers is one array, with the layers along axis 0.

One compiled layer then serves them all. A stacked leaf's path names its layers as Python's slice
does: `layers.000:032.mlp.up_proj.weight` are layers 0 to 31. Elsewhere, in files, reports and the
keys of projections, every layer has its own path: `layers.007.mlp.up_proj.weight`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from g2is_jax.model.lora import Leaves, Shapes


@dataclass(frozen=True)
class Stack:
    """Consecutive layers: so many, from layer `first` on."""

    first: int
    count: int

    @property
    def layers(self) -> range:
        """The numbers of its layers."""
        return range(self.first, self.first + self.count)

    @property
    def name(self) -> str:
        """The part of a leaf's path that stands for the layer's number."""
        if self.count == 1:
            return f"{self.first:03d}"
        return f"{self.first:03d}:{self.first + self.count:03d}"


def stacks_of(layers: int, scan: bool) -> tuple[Stack, ...]:
    """Puts all layers into one stack, which is scanned over, or each into one of its own."""
    if scan:
        return (Stack(0, layers),)
    return tuple(Stack(layer, 1) for layer in range(layers))


class Layout:
    """Which parameters, by their own paths, each leaf in memory holds, in order.

    None: a layer of the stack that has no such parameter, and holds zeros in its place.
    """

    def __init__(self, shapes: Shapes, stacks: Iterable[Stack]):
        """Lays out the parameters of these paths and shapes."""
        self.shapes = shapes
        self.parts: dict[str, tuple[str | None, ...]] = {
            path: (path,) for path in shapes if not path.startswith("layers.")
        }
        for stack in stacks:
            self.parts |= self._parts(stack)
        self.parts = dict(sorted(self.parts.items()))
        self._places = {
            part: (path, index)
            for path, parts in self.parts.items()
            for index, part in enumerate(parts)
            if part is not None
        }

    def _parts(self, stack: Stack) -> dict[str, tuple[str | None, ...]]:
        layers = [f"layers.{layer:03d}." for layer in stack.layers]
        names = {
            path.removeprefix(layer)
            for layer in layers
            for path in self.shapes
            if path.startswith(layer)
        }
        return {
            f"layers.{stack.name}.{name}": tuple(
                layer + name if layer + name in self.shapes else None for layer in layers
            )
            for name in names
        }

    def part_shape(self, path: str) -> tuple[int, ...]:
        """Returns the shape of one parameter of a leaf."""
        return next(self.shapes[part] for part in self.parts[path] if part is not None)

    def is_stacked(self, path: str) -> bool:
        """Returns True if the leaf has an axis of layers in front."""
        return ":" in path

    def leaf_shapes(self) -> Shapes:
        """Returns the shapes of the leaves in memory."""
        return {
            path: (len(parts), *self.part_shape(path))
            if self.is_stacked(path)
            else self.part_shape(path)
            for path, parts in self.parts.items()
        }

    def place(self, part: str) -> tuple[str, int | None]:
        """Returns the leaf that holds a parameter, and the layer's place in it, None if alone."""
        path, index = self._places[part]
        return path, index if self.is_stacked(path) else None

    def take(self, leaves: Mapping[str, jax.Array], part: str) -> jax.Array:
        """Returns one parameter out of the leaves in memory."""
        path, index = self.place(part)
        if index is None:
            return leaves[path]
        return jax.lax.dynamic_index_in_dim(leaves[path], index, axis=0, keepdims=False)

    def stacked(self, leaves: Mapping[str, jax.Array]) -> Leaves:
        """Returns the leaves in memory of parameters by their own paths."""
        return {path: self._joined(leaves, path) for path in self.parts}

    def by_layer(self, leaves: Mapping[str, jax.Array]) -> Leaves:
        """Returns the parameters by their own paths, in the canonical order."""
        return {part: self.take(leaves, part) for part in sorted(self.shapes)}

    def _joined(self, leaves: Mapping[str, jax.Array], path: str) -> jax.Array:
        parts = self.parts[path]
        if not self.is_stacked(path):
            return leaves[str(parts[0])]
        like = next(leaves[part] for part in parts if part is not None)
        nothing = jnp.zeros_like(like)
        return jnp.stack([nothing if part is None else leaves[part] for part in parts])
