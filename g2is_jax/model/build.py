"""Builds a model: the decoder as pure functions of (adapter, base, tokens)."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from g2is_jax.model.attention import LayerCache
from g2is_jax.model.block import BlockGraph, describe_block
from g2is_jax.model.config import DecoderConfig, LayerConfig
from g2is_jax.model.decoder import Decoder, Taps
from g2is_jax.model.kernels import KERNELS
from g2is_jax.model.lora import (
    AdapterConfig,
    Leaves,
    LoraConfig,
    Shapes,
    adapter_shapes,
    init_adapter,
    linear_layers,
    matches,
)
from g2is_jax.model.stacks import Layout, Stack, stacks_of
from g2is_jax.model.weights import Sharding, read_decoder, read_weights
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.mesh import placed, replicated, shared_out

Caches = list[LayerCache]  # of each stack of layers
# On a CPU: fewer layers compile soon, and run no slower than those of a scan, which copies what the
# backward pass needs.
DEEP = 8
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class ModelConfig:
    """The settings of a decoder's execution.

    `dtype` of the base's weights and `activations` between them: keys of DTYPES. `attention`: one
    of KERNELS. `remat`: compute each block again in the backward pass instead of keeping it.
    `shard_base`: each device holds a share of every matrix and gathers one layer at a time.
    `scan`: layers that repeat are compiled once; else each of them is. None leaves it to the depth:
    from DEEP layers on they are compiled once, and computed again in the backward pass.
    """

    dtype: str
    activations: str
    attention: str
    remat: bool
    shard_base: bool
    scan: bool | None

    def __post_init__(self):
        for field, known in (("dtype", DTYPES), ("activations", DTYPES), ("attention", KERNELS)):
            if getattr(self, field) not in known:
                raise InputError(
                    f"{field} = {getattr(self, field)!r} is unknown; "
                    f"choose one of {', '.join(known)}"
                )

    def for_depth(self, layers: int) -> "ModelConfig":
        """The settings for so many layers, with nothing left open."""
        if self.scan is not None:
            return self
        deep = layers >= DEEP
        return dataclasses.replace(self, scan=deep, remat=deep or self.remat)


@dataclass(frozen=True, eq=False)
class Model:
    """A decoder without its parameters: adapter and base are arguments, never closed over.

    Both are flat dictionaries from leaf path to array, layers stacked as `adapter_layout` and
    `base_layout` say. All functions see one example.
    """

    config: DecoderConfig
    settings: ModelConfig
    attached: AdapterConfig
    decoder: Decoder
    adapter_layout: Layout
    base_layout: Layout

    @property
    def lora(self) -> LoraConfig:
        """The settings of its adapter, which must be LoRA."""
        assert isinstance(self.attached, LoraConfig), "the model has probes"
        return self.attached

    @property
    def adapter_shapes(self) -> Shapes:
        """The shapes of the adapter's parameters, by each one's own path."""
        return self.adapter_layout.shapes

    @property
    def gradient_shapes(self) -> Shapes:
        """The shapes of the adapter's parameters whose gradients features are of."""
        found = self.adapter_shapes.items()
        return {path: shape for path, shape in found if self.attached.has_gradient(path)}

    @property
    def trained_layout(self) -> Layout:
        """The parameters that training changes: the adapter's, or all of a model without one."""
        return self.adapter_layout if self.adapter_shapes else self.base_layout

    @property
    def base_shapes(self) -> Shapes:
        """The shapes of the base's parameters, by each one's own path."""
        return self.base_layout.shapes

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the base's weights."""
        return DTYPES[self.settings.dtype]

    @functools.cached_property
    def in_training(self) -> "Model":
        """The model as a gradient summed over rows takes it: none of them is seen by itself, so
        that its rounding may depend on the batch."""
        if self.settings.attention != "blocks":
            return self
        settings = dataclasses.replace(self.settings, attention="grouped_blocks")
        return build_model(self.config, self.attached, settings)

    def logits(
        self, adapter: Leaves, base: Leaves, tokens_T, dropout_key=None, segments_T=None
    ) -> jax.Array:
        """Next-token logits (T, V) in float32; for long rows of a large vocabulary see the loss.

        `segments_T`: the packed row that each token belongs to; tokens of different rows do not
        see each other. None: all tokens are one row. `dropout_key`: the row's, or that of each
        token's row (T,); None: nothing is dropped.
        """
        hidden_TD = self.hidden(adapter, base, tokens_T, dropout_key, segments_T)
        return self.head(self.head_weights(base), hidden_TD)

    def hidden(
        self,
        adapter: Leaves,
        base: Leaves,
        tokens_T,
        dropout_key=None,
        segments_T=None,
        taps: Taps | None = None,
    ) -> jax.Array:
        """Hidden states (T, D) after the last norm, input of the head; arguments as in `logits`.

        `taps`: what the adapter's leaves pass through on their way in.
        """
        self._check_length(tokens_T.shape[0])
        leaves = adapter | base
        return self.decoder.hidden(leaves, tokens_T, 0, None, dropout_key, segments_T, taps)[0]

    def step(self, adapter: Leaves, base: Leaves, tokens_T, start, caches: Caches | None):
        """Hidden states (T, D) of tokens that follow what the caches hold, and the new caches.

        Without caches the tokens start a row, and the new caches have no room for more.
        """
        return self.decoder.hidden(adapter | base, tokens_T, start, caches)

    def head_weights(self, base: Leaves) -> jax.Array:
        """The head's matrix (V, D), gathered where devices share it."""
        return self.decoder.head_weights(base)

    def head_part(self, base: Leaves) -> jax.Array:
        """The head's matrix, or the part of it that this device holds."""
        return self.decoder.head_part(base)

    def head(self, head_VD: jax.Array, hidden_TD) -> jax.Array:
        """Logits (T, V) of hidden states, in float32; of a part of the head if T is 1."""
        return self.decoder.logits(head_VD, hidden_TD)

    def empty_caches(self, length: int) -> Caches:
        """Caches of one example with room for `length` tokens."""
        self._check_length(length)
        shape = (self.config.num_key_value_heads, length, self.config.head_dim)
        dtype, caches = DTYPES[self.settings.activations], []
        for stack in self.decoder.stacks:
            zeros = jnp.zeros(shape if stack.count == 1 else (stack.count, *shape), dtype)
            caches.append((zeros, zeros))
        return caches

    def init_adapter(self, seed: int) -> Leaves:
        """A fresh adapter, which does not change the base's output."""
        return self.adapter_layout.stacked(init_adapter(self.adapter_shapes, seed))

    def zero_adapter(self) -> Leaves:
        """An adapter of zeros."""
        shapes = self.adapter_layout.leaf_shapes()
        return {path: jnp.zeros(shape) for path, shape in shapes.items()}

    def sharding(self, path: str, mesh: Mesh) -> NamedSharding:
        """The sharding of a leaf of the base over the devices of a mesh."""
        if not self.settings.shard_base:
            return replicated(mesh)
        layers = 1 if self.base_layout.is_stacked(path) else 0
        return shared_out(mesh, self.base_layout.part_shape(path), layers)

    def placed(self, base: Leaves, mesh: Mesh) -> Leaves:
        """The base with each leaf on the devices of its `sharding`; a leaf already there stays."""
        return {path: placed(x, self.sharding(path, mesh)) for path, x in base.items()}

    def over_rows(self, function: Callable, mesh: Mesh | None, out: Any = None) -> Callable:
        """The function (shared, base, *of_rows) with the rows shared out over a mesh's devices.

        function: the same, for the rows of one device. shared: what all devices have whole.
        of_rows: trees of arrays with the rows of a batch along axis 0. out: where the results have
        theirs; None: there too. A device needs from the others only the parts of the base that
        they hold.
        """
        if mesh is None:
            return function

        def run(shared, base, *of_rows):
            held = {path: self.sharding(path, mesh).spec for path in base}
            rows = PartitionSpec(mesh.axis_names)
            return jax.shard_map(
                function,
                mesh=mesh,
                in_specs=(PartitionSpec(), held, *(rows for _ in of_rows)),
                out_specs=rows if out is None else out,
                check_vma=False,
            )(shared, base, *of_rows)

        return run

    def _check_length(self, length: int) -> None:
        if length > self.config.max_position_embeddings:
            raise InputError(
                f"{length} tokens are more than the model's max_position_embeddings = "
                f"{self.config.max_position_embeddings}; lower model.max_length"
            )


def build_model(config: DecoderConfig, lora: AdapterConfig, settings: ModelConfig) -> Model:
    """Describes a model without allocating anything."""
    settings = settings.for_depth(len(config.layers))
    dtype, activations = DTYPES[settings.dtype], DTYPES[settings.activations]

    @functools.cache
    def block(
        kinds: tuple[LayerConfig, ...], targets: tuple[str, ...]
    ) -> tuple[BlockGraph, Shapes]:
        # A protocol cannot say that all its classes are dataclasses.
        within = dataclasses.replace(lora, targets=targets)  # type: ignore[type-var]  # all are
        return describe_block(config, kinds, dtype, settings.attention, within, settings.remat)

    ends = ("embed_tokens",) if config.tie_word_embeddings else ("embed_tokens", "lm_head")
    base_shapes: Shapes = {path: (config.vocab_size, config.hidden_size) for path in ends}
    base_shapes["norm.weight"] = (config.hidden_size,)
    for index, layer in enumerate(config.layers):
        base_shapes |= {f"layers.{index:03d}.{p}": x for p, x in block((layer,), ())[1].items()}
    _check_targets(lora, base_shapes)
    stacks = stacks_of(len(config.layers), bool(settings.scan))
    layout = Layout(adapter_shapes(lora, base_shapes), stacks)

    def graph(stack: Stack) -> BlockGraph:
        kinds = tuple(dict.fromkeys(config.layers[layer] for layer in stack.layers))
        return block(kinds, _adapted(layout, f"layers.{stack.name}."))[0]

    blocks = tuple(map(graph, stacks))
    decoder = Decoder(config, activations, stacks, blocks)
    return Model(config, settings, lora, decoder, layout, Layout(base_shapes, stacks))


@functools.cache
def with_adapter(model: Model, adapter: AdapterConfig | None) -> Model:
    """Returns the same decoder with another adapter; the model itself where there is none."""
    return model if adapter is None else build_model(model.config, adapter, model.settings)


def _adapted(layout: Layout, prefix: str) -> tuple[str, ...]:
    """Returns the linear layers, by their paths within a block, that the prefix's leaves adapt."""
    leaves = [path.removeprefix(prefix) for path in layout.parts if path.startswith(prefix)]
    return tuple(sorted({leaf.rpartition(".")[0] for leaf in leaves}))


def mesh_of(base: Leaves) -> Mesh | None:
    """Returns the mesh whose devices hold the base, and share the rows of a forward pass.

    None where it is on one device alone.
    """
    held = getattr(next(iter(base.values())), "sharding", None)
    if not isinstance(held, NamedSharding) or held.mesh.size == 1:
        return None
    assert isinstance(held.mesh, Mesh), "weights lie on devices"
    return held.mesh


def devices_of(mesh: Mesh | None) -> int:
    """Returns the number of devices that have to divide the rows of a batch."""
    return 1 if mesh is None else mesh.size


def _check_targets(lora: AdapterConfig, base_shapes: Shapes) -> None:
    linear = linear_layers(base_shapes)
    for target in lora.targets:
        if not any(matches(target, path) for path in linear):
            names = sorted({path.rpartition(".")[2] for path in linear})
            raise InputError(
                f"{lora.FIELD}: {target!r} matches no linear layer; there are {', '.join(names)}, "
                f"under paths such as {next(iter(linear))}"
            )


def load_model(
    folder: epath.Path,
    lora: AdapterConfig,
    settings: ModelConfig,
    sharding: Callable[[str], Sharding | None] = lambda path: None,
) -> tuple[Model, Leaves]:
    """Loads model and base from a Hugging Face folder; `sharding` as in `read_weights`."""
    model = build_model(read_decoder(folder)[0], lora, settings)
    return model, read_weights(folder, model.base_layout, model.dtype, sharding)
