"""Builds a model: the decoder as pure functions of (adapter, base, tokens)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from g2is_jax.model.attention import KERNELS, LayerCache
from g2is_jax.model.config import DecoderConfig
from g2is_jax.model.decoder import Decoder
from g2is_jax.model.families import read_config
from g2is_jax.model.lora import (
    Leaves,
    LoraConfig,
    Shapes,
    init_adapter,
    leaf_path,
    linear_layers,
    matches,
)
from g2is_jax.model.weights import Sharding, read_weights
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.mesh import DATA, placed, replicated, shared_out

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class ModelConfig:
    """The settings of a decoder's execution.

    `dtype` of the base's weights and `activations` between them: keys of DTYPES. `attention`: one
    of KERNELS. `remat`: compute each block again in the backward pass instead of keeping it.
    `shard_base`: each device holds a share of the linear layers and gathers one layer at a time.
    """

    dtype: str
    activations: str
    attention: str
    remat: bool
    shard_base: bool

    def __post_init__(self):
        for field, known in (("dtype", DTYPES), ("activations", DTYPES), ("attention", KERNELS)):
            if getattr(self, field) not in known:
                raise InputError(
                    f"{field} = {getattr(self, field)!r} is unknown; "
                    f"choose one of {', '.join(known)}"
                )


@dataclass(frozen=True, eq=False)
class Model:
    """A decoder split once into adapter and base; both are arguments, never closed over.

    Adapter and base are flat dictionaries from leaf path to array. All functions see one example.
    """

    config: DecoderConfig
    settings: ModelConfig
    lora: LoraConfig
    graph: nnx.GraphDef
    adapter_shapes: Shapes
    base_shapes: Shapes
    paths: dict[str, tuple]

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the base's weights."""
        return DTYPES[self.settings.dtype]

    def logits(
        self, adapter: Leaves, base: Leaves, tokens_T, dropout_key=None, segments_T=None
    ) -> jax.Array:
        """Next-token logits (T, V) in float32.

        `segments_T`: the packed row that each token belongs to; tokens of different rows do not
        see each other. None: all tokens are one row. `dropout_key`: the row's, or that of each
        token's row (T,); None: nothing is dropped.
        """
        return self.head(base, self.hidden(adapter, base, tokens_T, dropout_key, segments_T))

    def hidden(
        self, adapter: Leaves, base: Leaves, tokens_T, dropout_key=None, segments_T=None
    ) -> jax.Array:
        """Hidden states (T, D) after the last norm, input of the head; arguments as in `logits`."""
        self._check_length(tokens_T.shape[0])
        decoder = self._merge(adapter, base)
        return decoder(tokens_T, key=dropout_key, segments_T=segments_T)[0]

    def step(self, adapter: Leaves, base: Leaves, tokens_T, start, caches: list[LayerCache] | None):
        """Hidden states (T, D) of tokens that follow what the caches hold, and the new caches.

        Without caches the tokens start a row, and the new caches have no room for more.
        """
        return self._merge(adapter, base)(tokens_T, start, caches)

    def head(self, base: Leaves, hidden_TD) -> jax.Array:
        """Logits (T, V) of hidden states."""
        return self._merge(self.zero_adapter(), base).logits(hidden_TD)

    def empty_caches(self, length: int) -> list[LayerCache]:
        """Caches of one example with room for `length` tokens."""
        self._check_length(length)
        shape = (self.config.num_key_value_heads, length, self.config.head_dim)
        zeros = jnp.zeros(shape, DTYPES[self.settings.activations])
        return [(zeros, zeros) for _ in self.config.layers]

    def init_adapter(self, seed: int) -> Leaves:
        """A fresh adapter, which does not change the base's output."""
        return init_adapter(self.adapter_shapes, seed)

    def zero_adapter(self) -> Leaves:
        """An adapter of zeros."""
        return {path: jnp.zeros(shape) for path, shape in self.adapter_shapes.items()}

    def sharding(self, path: str, mesh: Mesh) -> NamedSharding:
        """The sharding of a leaf of the base over the devices of a mesh."""
        if self.settings.shard_base and path.endswith("_proj.weight"):
            return shared_out(mesh, self.base_shapes[path])
        return replicated(mesh)

    def placed(self, base: Leaves, mesh: Mesh) -> Leaves:
        """The base with each leaf on the devices of its `sharding`; a leaf already there stays."""
        return {path: placed(x, self.sharding(path, mesh)) for path, x in base.items()}

    def row_devices(self, base: Leaves) -> int:
        """The number of devices that share the rows of a forward pass, and have to divide them.

        Devices that each have the whole base share the rows. Where each holds a share of the base,
        they work on every row together, as the compiler finds best, and the number is 1.
        """
        sharding = self._row_sharding(base)
        return 1 if sharding is None else sharding.num_devices

    def spread(self, base: Leaves, arrays: Any) -> Any:
        """The arrays over a batch's rows (axis 0), on the devices that share the rows."""
        sharding = self._row_sharding(base)
        return arrays if sharding is None else jax.device_put(arrays, sharding)

    def _row_sharding(self, base: Leaves) -> NamedSharding | None:
        held = getattr(next(iter(base.values())), "sharding", None)
        if self.settings.shard_base or not isinstance(held, NamedSharding):
            return None
        return NamedSharding(held.mesh, PartitionSpec(DATA))

    def _merge(self, adapter: Leaves, base: Leaves) -> Decoder:
        leaves = {self.paths[path]: leaf for path, leaf in (adapter | base).items()}
        return nnx.merge(self.graph, nnx.from_flat_state(leaves), copy=True)

    def _check_length(self, length: int) -> None:
        if length > self.config.max_position_embeddings:
            raise InputError(
                f"{length} tokens are more than the model's max_position_embeddings = "
                f"{self.config.max_position_embeddings}; lower model.max_length"
            )


def build_model(config: DecoderConfig, lora: LoraConfig, settings: ModelConfig) -> Model:
    """Describes a model without allocating anything."""
    dtype, activations = DTYPES[settings.dtype], DTYPES[settings.activations]
    abstract = nnx.eval_shape(
        lambda: Decoder(config, dtype, activations, settings.attention, lora, settings.remat)
    )
    graph, *states = nnx.split(abstract, nnx.LoRAParam, nnx.Param)
    flat = [dict(nnx.to_flat_state(state)) for state in states]
    adapter_shapes, base_shapes = (
        {leaf_path(path): tuple(leaf.shape) for path, leaf in leaves.items()} for leaves in flat
    )
    _check_targets(lora, base_shapes)
    paths = {leaf_path(path): path for leaves in flat for path in leaves}
    return Model(config, settings, lora, graph, adapter_shapes, base_shapes, paths)


def _check_targets(lora: LoraConfig, base_shapes: Shapes) -> None:
    linear = linear_layers(base_shapes)
    for target in lora.targets:
        if lora.rank > 0 and not any(matches(target, path) for path in linear):
            names = sorted({path.rpartition(".")[2] for path in linear})
            raise InputError(
                f"lora.targets: {target!r} matches no linear layer; there are {', '.join(names)}, "
                f"under paths such as {next(iter(linear))}"
            )


def load_model(
    folder: epath.Path,
    lora: LoraConfig,
    settings: ModelConfig,
    sharding: Callable[[str], Sharding | None] = lambda path: None,
) -> tuple[Model, Leaves]:
    """Loads model and base from a Hugging Face folder; `sharding` as in `read_weights`."""
    model = build_model(read_config(folder), lora, settings)
    return model, read_weights(folder, model.base_shapes, model.dtype, sharding)
