"""The cost of a decoder, estimated from its shapes: operations of its products, bytes of memory.

A multiplication and an addition are two operations. The base is frozen: backwards its weights are
multiplied once, for the gradient of what went in; the adapter's twice, attention's products too.
"""

import math

import jax.numpy as jnp

from g2is_jax.model.build import DTYPES, Model
from g2is_jax.model.lora import LoraConfig, Shapes, linear_layers


def size(shapes: Shapes) -> int:
    """Returns the number of values of all leaves."""
    return sum(map(math.prod, shapes.values()))


def forward_operations(model: Model, length: float) -> float:
    """Returns the operations of a token in a row of so many, without the head."""
    linear = size(linear_layers(model.base_shapes))
    return 2 * linear + 2 * size(model.adapter_shapes) + attention_operations(model, length)


def gradient_operations(model: Model, length: float, supervised: float = 1.0) -> float:
    """Returns the operations of a token: forward, and back to activations and adapter.

    4 linear + 6 adapter + 3.5 attention + 4 head; with remat the blocks' forward pass once more. On
    the way back all kernels compute the products of queries and keys again. The head is for
    supervised tokens alone. supervised: the share of the tokens that is. Of probes each side is
    multiplied once.
    """
    linear, adapter = size(linear_layers(model.base_shapes)), size(model.adapter_shapes)
    attention = attention_operations(model, length)
    again = forward_operations(model, length) if model.settings.remat else 0
    times = 6 if isinstance(model.attached, LoraConfig) else 2
    return (
        4 * linear
        + times * adapter
        + 3.5 * attention
        + 2 * supervised * head_operations(model)
        + again
    )


def attention_operations(model: Model, length: float) -> float:
    """Returns the operations of a token's queries with keys and of its weights with values, a mean
    over the row."""
    c = model.config
    seen = sum(min(layer.window or length, (length + 1) / 2) for layer in c.layers)
    return 4 * c.num_attention_heads * c.head_dim * seen


def head_operations(model: Model) -> float:
    """Returns the operations of one token's logits."""
    return 2 * model.config.vocab_size * model.config.hidden_size


def kept_bytes(model: Model, tokens: float) -> float:
    """Returns the bytes that a forward pass of so many tokens leaves for the backward pass.

    With remat the blocks' inputs, and one block at a time.
    """
    layers = len(model.config.layers)
    inputs = model.config.hidden_size * _activation_bytes(model)
    block = _kept_in_a_block(model)
    return tokens * (layers * inputs + block if model.settings.remat else layers * block)


def _kept_in_a_block(model: Model) -> float:
    """Returns the bytes a token that a block keeps.

    Two residuals and the first norm's output; queries, keys, values and what they come to; the
    MLP's gate, its activation, the other factor and the product; and the adapter's inner values. No
    kernel keeps attention weights.
    """
    c = model.config
    itemsize = _activation_bytes(model)
    queries = c.num_attention_heads * c.head_dim
    keys = c.num_key_value_heads * c.head_dim
    inner = sum(shape[0] for path, shape in model.adapter_shapes.items() if path.endswith("A"))
    values = 3 * c.hidden_size + 2 * queries + 2 * keys + 4 * c.intermediate_size
    return itemsize * (values + inner / len(c.layers))


def cache_bytes(model: Model) -> float:
    """Returns the bytes of keys and values of one token."""
    c = model.config
    return 2 * len(c.layers) * c.num_key_value_heads * c.head_dim * _activation_bytes(model)


def base_bytes(model: Model, devices: int) -> float:
    """Returns the bytes on each of so many devices; of a base that is shared out also the head and
    one layer, gathered."""
    itemsize = jnp.dtype(model.dtype).itemsize
    shapes, head = model.base_shapes, model.config.vocab_size * model.config.hidden_size
    if not model.settings.shard_base or devices == 1:
        return itemsize * size(shapes)
    matrices = size({path: shape for path, shape in shapes.items() if len(shape) > 1})
    layer = size(linear_layers(shapes)) / len(model.config.layers)
    return itemsize * (size(shapes) - matrices + matrices / devices + layer + head)


def _activation_bytes(model: Model) -> int:
    return jnp.dtype(DTYPES[model.settings.activations]).itemsize
