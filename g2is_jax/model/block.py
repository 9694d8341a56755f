"""A block of the decoder, attention and MLP: what one layer computes, for one example."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from g2is_jax.model.attention import Attention, Slot
from g2is_jax.model.config import DecoderConfig, LayerConfig, RopeConfig
from g2is_jax.model.lora import AdapterConfig, Leaves, Linear, Shapes, leaf_path
from g2is_jax.model.norm import RmsNorm
from g2is_jax.model.rope import Tables, tables_of_kind

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class Mlp(nnx.Module):
    """The gated MLP: down(activation(gate(x)) * up(x))."""

    def __init__(self, c: DecoderConfig, path: str, dtype: jnp.dtype, lora: AdapterConfig):
        d, f = c.hidden_size, c.intermediate_size
        self.activation = c.activation
        self.gate_proj = Linear(f"{path}.gate_proj", d, f, c.mlp_bias, dtype, lora)
        self.up_proj = Linear(f"{path}.up_proj", d, f, c.mlp_bias, dtype, lora)
        self.down_proj = Linear(f"{path}.down_proj", f, d, c.mlp_bias, dtype, lora)

    def __call__(self, x_TD, keys):
        gate_TF = ACTIVATIONS[self.activation](self.gate_proj(x_TD, keys[0]))
        return self.down_proj(gate_TF * self.up_proj(x_TD, keys[1]), keys[2])


class Block(nnx.Module):
    """Attention and MLP, each with a residual and the norms of the family.

    kinds: of the layers that it may be, which differ in rope and window alone; a call says which.
    The targets of `lora` are paths within the block.
    """

    def __init__(
        self,
        c: DecoderConfig,
        kinds: tuple[LayerConfig, ...],
        dtype: jnp.dtype,
        kernel: str,
        lora: AdapterConfig,
    ):
        self.norms = c.norms
        windows = tuple(layer.window for layer in kinds)
        self.self_attn = Attention(c, windows, "self_attn", dtype, kernel, lora)
        self.mlp = Mlp(c, "mlp", dtype, lora)
        for name in vars(c.norms).values():
            if name is not None:
                setattr(self, name, RmsNorm(c.hidden_size, c, dtype))

    def __call__(
        self, x_TD, start, kind, tables: Tables | None, segments_T, slot: Slot | None, keys_T
    ):
        keys = [None] * 7 if keys_T is None else list(jax.vmap(_seven, out_axes=1)(keys_T))
        y_TD, cache = self.self_attn(
            self._norm(self.norms.before_attention, x_TD),
            start,
            kind,
            tables,
            segments_T,
            slot,
            keys[:4],
        )
        x_TD = x_TD + self._norm(self.norms.after_attention, y_TD)
        y_TD = self.mlp(self._norm(self.norms.before_mlp, x_TD), keys[4:])
        return x_TD + self._norm(self.norms.after_mlp, y_TD), cache

    def _norm(self, name: str | None, x_TD: jax.Array) -> jax.Array:
        return x_TD if name is None else getattr(self, name)(x_TD)


def _seven(key: jax.Array) -> jax.Array:
    return jax.random.split(key, 7)


_of_layer = jax.vmap(jax.random.fold_in, in_axes=(0, None))


class Pass(NamedTuple):
    """Holds what all layers of a forward pass share."""

    start: Any
    tables: dict[RopeConfig | None, Tables]
    segments_T: jax.Array | None
    keys_T: jax.Array | None
    through: Callable | None


def _is_kept(primitive, *_, **__) -> bool:
    """A policy of `jax.checkpoint`: keeps all but gathered weights, cast or transposed."""
    return primitive.name not in ("all_gather", "convert_element_type", "transpose")


@dataclass(frozen=True)
class BlockGraph:
    """A block without its parameters, for any layer of a stack.

    paths: of its parameters, such as `mlp.up_proj.weight`. adapted: those of the adapter's, sorted.
    kinds: of the layers, without repeats.
    """

    graph: nnx.GraphDef
    paths: dict[str, tuple]
    adapted: tuple[str, ...]
    kinds: tuple[LayerConfig, ...]
    remat: bool

    def __call__(self, shared: Pass, leaves: Leaves, states: dict, x_TD, sums, slot, layer, kind):
        """Runs layer number `layer`, which is of a kind by its number: (x_TD, sums), and the keys
        and values it made or wrote to."""
        run: Callable = functools.partial(self._run, shared)
        if self.remat:
            run = jax.checkpoint(run, prevent_cse=False)
        elif self._block(leaves).mlp.down_proj.is_sharded:
            run = jax.checkpoint(run, prevent_cse=False, policy=_is_kept)
        return run(leaves, states, x_TD, sums, slot, layer, kind)

    def _run(self, shared: Pass, leaves: Leaves, states: dict, x_TD, sums, slot, layer, kind):
        if shared.through is not None:
            for path in [path for path in self.adapted if path in states]:
                leaf, sums = shared.through(leaves[path], sums, states[path])
                leaves = leaves | {path: leaf}
        keys_T = None if shared.keys_T is None else _of_layer(shared.keys_T, layer)
        block = self._block(leaves)
        tables = tables_of_kind(shared.tables, [layer.rope for layer in self.kinds], kind)
        x_TD, cache = block(x_TD, shared.start, kind, tables, shared.segments_T, slot, keys_T)
        return x_TD, sums, cache

    def _block(self, leaves: Leaves) -> Block:
        flat = {self.paths[path]: leaf for path, leaf in leaves.items()}
        return nnx.merge(self.graph, nnx.from_flat_state(flat), copy=True)


def describe_block(
    c: DecoderConfig,
    kinds: tuple[LayerConfig, ...],
    dtype: jnp.dtype,
    kernel: str,
    lora: AdapterConfig,
    remat: bool,
) -> tuple[BlockGraph, Shapes]:
    """Describes a block, and its base's shapes by paths such as `mlp.up_proj.weight`.

    The targets of `lora` are paths within the block.
    """
    abstract = nnx.eval_shape(functools.partial(Block, c, kinds, dtype, kernel, lora))
    graph, *states = nnx.split(abstract, nnx.LoRAParam, nnx.Param)
    adapter, base = (
        {leaf_path(path): (path, leaf) for path, leaf in dict(nnx.to_flat_state(state)).items()}
        for state in states
    )
    paths = {name: path for name, (path, _) in (adapter | base).items()}
    shapes = {name: tuple(leaf.shape) for name, (_, leaf) in base.items()}
    return BlockGraph(graph, paths, tuple(sorted(adapter)), kinds, remat), shapes
