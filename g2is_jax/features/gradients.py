"""Per-example gradients of the adapter, their direction under the optimiser, and its projection.

A full per-example gradient is never kept: each adapter leaf passes through a tap, whose backward
pass turns the leaf's gradient into its direction, projects that, and adds it to the sum of the
leaves that came before.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jax.stages import Wrapped

from g2is_jax.features.projection import (
    Bits,
    ProjectionConfig,
    add_leaf,
    empty_sum,
    finished,
    random_bits,
)
from g2is_jax.model.build import Model
from g2is_jax.model.decoder import Taps
from g2is_jax.model.lora import Leaves
from g2is_jax.runs.mesh import DATA, replicated
from g2is_jax.training.loss import example_loss
from g2is_jax.training.optimizer import Moments

KINDS = ("sgd", "adam", "adam_less", "rms", "sign")
WITH_MOMENTUM = ("adam", "adam_less")
WITH_MOMENTS = (*WITH_MOMENTUM, "rms")

Array = jax.Array | np.ndarray


@dataclass(frozen=True)
class DirectionConfig:
    """The kind of feature, one of KINDS, and the constants of the Adam that left the moments."""

    kind: str
    b1: float
    b2: float
    eps: float


class FeatureBatch(NamedTuple):
    """The result of one batch: features before normalisation, one set for each of K directions;
    gradient norms |g|; supervised tokens."""

    features_KBP: Array
    gradient_norms_B: Array
    tokens_B: Array


class PassInputs(NamedTuple):
    """The inputs that all batches share. bits: the projection's, stacked as the leaves are."""

    adapter: Leaves
    base: Leaves
    first: Leaves
    second: Leaves
    step: jax.Array
    bits: Bits


def direction(
    config: DirectionConfig, g: jax.Array, m: jax.Array, v: jax.Array, step: jax.Array
) -> jax.Array:
    """Returns the step that gradient g would add to the adapter, up to the learning rate.

    Elementwise. `adam` is a textbook step with bias correction after `step` earlier ones (LESS,
    Eq. 1-2); `adam_less` is what LESS's released code computes: no correction, eps inside the root.
    """
    if config.kind == "sgd":
        return g
    if config.kind == "sign":
        return jnp.sign(g)
    u = config.b1 * m + (1 - config.b1) * g
    w = config.b2 * v + (1 - config.b2) * g**2
    if config.kind == "adam_less":
        return u / jnp.sqrt(w + config.eps)
    after = step.astype(jnp.float32) + 1
    correction_1, correction_2 = 1 / (1 - config.b1**after), 1 / (1 - config.b2**after)
    root = jnp.sqrt(w * correction_2) + config.eps
    return {"rms": g, "adam": u * correction_1}[config.kind] / root


def shared_inputs(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    moments: Moments,
    projection: ProjectionConfig,
    seed: int,
    mesh: Mesh | None = None,
) -> PassInputs:
    """Places a pass's inputs on all devices of the mesh; a base that is shared out stays so."""
    bits = stacked_bits(model, projection, seed)
    step = jnp.asarray(moments.step)
    inputs = PassInputs(adapter, base, moments.first, moments.second, step, bits)
    if mesh is None:
        return inputs
    placed = jax.device_put(inputs._replace(base={}), replicated(mesh))
    return placed._replace(base=model.placed(base, mesh))


@functools.cache
def feature_function(
    model: Model,
    directions: tuple[DirectionConfig, ...],
    projection: ProjectionConfig,
    mesh: Mesh | None = None,
) -> Wrapped:
    """Returns a jitted (inputs, tokens_BT, supervised_BT) -> FeatureBatch.

    On a mesh each device computes its own rows and needs from the others only the weights that they
    share: the devices run one program each, so no gradient can be summed over them.
    """
    of_example = functools.partial(_of_example, model, directions, projection)

    def of_rows(shared: PassInputs, base: Leaves, tokens_BT, supervised_BT):
        batched = jax.vmap(of_example, in_axes=(None, 0, 0), out_axes=_of_rows(1, 0))
        return batched(shared._replace(base=base), tokens_BT, supervised_BT)

    found = _of_rows(PartitionSpec(None, DATA), PartitionSpec(DATA))
    run = model.over_rows(of_rows, mesh, found)

    def on_devices(inputs: PassInputs, tokens_BT, supervised_BT):
        return run(inputs._replace(base={}), inputs.base, tokens_BT, supervised_BT)

    return jax.jit(on_devices)


def _of_rows(features, rest) -> Any:
    """Makes a FeatureBatch that says where its parts have their rows."""
    return FeatureBatch(features, rest, rest)


def _of_example(
    model: Model,
    directions: tuple[DirectionConfig, ...],
    projection: ProjectionConfig,
    inputs: PassInputs,
    tokens_T,
    supervised_T,
) -> FeatureBatch:
    states = {
        path: (inputs.first[path], inputs.second[path], _of_layers(model, path, inputs.step), bits)
        for path, bits in inputs.bits.items()
    }

    def mean_loss(sums):
        taps = Taps(_tap(directions, projection), states, sums)
        total, count = example_loss(
            model, inputs.adapter, inputs.base, tokens_T, supervised_T, taps=taps
        )
        return total / jnp.maximum(count, 1), count

    nothing = [empty_sum(projection, model.gradient_shapes) for _ in directions]
    (totals, square), tokens = jax.grad(mean_loss, has_aux=True)((nothing, jnp.zeros(())))
    features_KP = jnp.stack([finished(projection, total) for total in totals])
    return FeatureBatch(features_KP, jnp.sqrt(square), tokens)


def stacked_bits(model: Model, projection: ProjectionConfig, seed: int) -> Bits:
    """The projection's random bits of each leaf; those of a stack have its axis of layers."""
    bits, layout = random_bits(projection, seed, model.gradient_shapes), model.adapter_layout
    stacked: Bits = {}
    for path, parts in layout.parts.items():
        if not model.attached.has_gradient(path):
            continue
        if not layout.is_stacked(path):
            stacked[path] = bits[path]
            continue
        # The values of an absent layer are zeros: any bits will do.
        some = next(part for part in parts if part is not None)
        of_layers = [bits[some if part is None else part] for part in parts]
        stacked[path] = jax.tree.map(lambda *layers: jnp.stack(layers), *of_layers)
    return stacked


def _of_layers(model: Model, path: str, value: jax.Array) -> jax.Array:
    """The value, once for each layer of a stacked leaf."""
    if not model.adapter_layout.is_stacked(path):
        return value
    return jnp.broadcast_to(value, (len(model.adapter_layout.parts[path]),))


@functools.cache
def _tap(directions: tuple[DirectionConfig, ...], projection: ProjectionConfig) -> Callable:
    """Returns (leaf, sums, state) -> (leaf, sums), which changes nothing on the way forward.

    Backwards, where the leaf's gradient arrives with the sums over later leaves, it adds the leaf's
    features and square to them and drops the gradient.

    The sums have no value of their own; what passes through them is their "gradient".
    """
    add = add_leaf(projection)

    @jax.custom_vjp
    def tap(leaf, sums, state):
        return leaf, sums

    def forward(leaf, sums, state):
        return (leaf, sums), state

    def backward(state, arriving):
        g, (totals, square) = arriving
        m, v, step, bits = state
        rows = [direction(config, g, m, v, step).reshape(-1) for config in directions]
        totals = [add(bits, x_G, total) for x_G, total in zip(rows, totals, strict=True)]
        return None, (totals, square + jnp.sum(g**2)), None

    tap.defvjp(forward, backward)
    return tap
