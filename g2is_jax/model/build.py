"""From settings to a model: pure functions of (adapter, base, tokens)."""

import fnmatch
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx

from g2is_jax.model.decoder import Decoder, DecoderConfig, LayerCache
from g2is_jax.model.lora import Leaves, LoraConfig, init_adapter, leaf_path
from g2is_jax.model.weights import read_config, read_weights
from g2is_jax.runs.errors import InputError

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True, eq=False)
class Model:
    """A decoder split once into adapter and base; both are arguments, never closed over.

    Adapter and base are flat dictionaries from leaf path to array. All functions see one example.
    """

    config: DecoderConfig
    lora: LoraConfig
    dtype: jnp.dtype
    graph: nnx.GraphDef
    adapter_shapes: dict[str, tuple[int, ...]]
    base_shapes: dict[str, tuple[int, ...]]
    paths: dict[str, tuple]

    def logits(self, adapter: Leaves, base: Leaves, tokens_T, dropout_key=None) -> jax.Array:
        """Next-token logits (T, V) in float32."""
        decoder = self._merge(adapter, base)
        hidden_TD, _ = decoder(tokens_T, key=dropout_key)
        return decoder.logits(hidden_TD)

    def step(self, adapter: Leaves, base: Leaves, tokens_T, start, caches: list[LayerCache]):
        """Hidden states (T, D) of tokens that follow what the caches hold, and the new caches."""
        return self._merge(adapter, base)(tokens_T, start, caches)

    def head(self, base: Leaves, hidden_TD) -> jax.Array:
        """Logits (T, V) of hidden states."""
        return self._merge(self.zero_adapter(), base).logits(hidden_TD)

    def empty_caches(self, length: int) -> list[LayerCache]:
        """Caches of one example with room for `length` tokens."""
        shape = (length, self.config.num_key_value_heads, self.config.head_dim)
        zeros = jnp.zeros(shape, self.dtype)
        return [(zeros, zeros) for _ in range(self.config.num_hidden_layers)]

    def init_adapter(self, seed: int) -> Leaves:
        """A fresh adapter, which leaves the base's output as it is."""
        return init_adapter(self.adapter_shapes, seed)

    def zero_adapter(self) -> Leaves:
        """An adapter of zeros."""
        return {path: jnp.zeros(shape) for path, shape in self.adapter_shapes.items()}

    def _merge(self, adapter: Leaves, base: Leaves) -> Decoder:
        leaves = {self.paths[path]: leaf for path, leaf in (adapter | base).items()}
        return nnx.merge(self.graph, nnx.from_flat_state(leaves), copy=True)


def build_model(config: DecoderConfig, lora: LoraConfig, dtype: str, remat: bool) -> Model:
    """Describe a model without allocating anything."""
    kind = DTYPES[dtype]
    abstract = nnx.eval_shape(lambda: Decoder(config, kind, lora, remat))
    graph, *states = nnx.split(abstract, nnx.LoRAParam, nnx.Param)
    flat = [dict(nnx.to_flat_state(state)) for state in states]
    adapter_shapes, base_shapes = (
        {leaf_path(path): tuple(leaf.shape) for path, leaf in leaves.items()} for leaves in flat
    )
    _check_targets(lora, base_shapes)
    paths = {leaf_path(path): path for leaves in flat for path in leaves}
    return Model(config, lora, kind, graph, adapter_shapes, base_shapes, paths)


def _check_targets(lora: LoraConfig, base_shapes: dict[str, tuple[int, ...]]) -> None:
    linear = {path.split(".")[-2] for path in base_shapes if path.endswith("_proj.weight")}
    for target in lora.targets:
        if lora.rank > 0 and not fnmatch.filter(linear, target):
            raise InputError(
                f"lora.targets: {target!r} matches no linear layer; there are "
                f"{', '.join(sorted(linear))}"
            )


def load_model(
    folder: epath.Path, lora: LoraConfig, dtype: str, remat: bool
) -> tuple[Model, Leaves]:
    """Model and base weights of a Hugging Face folder."""
    model = build_model(read_config(folder), lora, dtype, remat)
    return model, read_weights(folder, model.base_shapes, model.dtype)
