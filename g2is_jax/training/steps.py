"""One optimiser step: summed gradients of its microbatches, and what AdamW makes of them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jax.stages import Wrapped

from g2is_jax.data.batches import Batch
from g2is_jax.model.build import Model
from g2is_jax.model.lora import Leaves
from g2is_jax.runs.mesh import placed, replicated
from g2is_jax.training.loss import batch_loss
from g2is_jax.training.optimizer import OptimizerConfig, adam_direction
from g2is_jax.training.saved import State


class Outcome(NamedTuple):
    """A step's mean loss over its supervised tokens, their number, and whether loss and gradient
    are finite; on the device, and there once the step is computed."""

    loss: jax.Array
    tokens: jax.Array
    finite: jax.Array


def step_function(
    model: Model,
    base: Leaves,
    optimizer: OptimizerConfig,
    seed: int,
    rates: Mapping[int, float],
    mesh: Mesh | None,
) -> Callable[[Leaves, Any, int, Sequence[Batch]], tuple[Leaves, Any, Outcome]]:
    """Returns (adapter, state, step, microbatches) -> adapter, state, Outcome, which waits for
    nothing; the arrays of the adapter and the state that it is given are gone afterwards."""
    update = update_function(optimizer)

    def take(adapter: Leaves, state: Any, step: int, microbatches: Sequence[Batch]):
        key = jax.random.fold_in(jax.random.key(seed), step)
        summed = accumulate(model, adapter, base, microbatches, key, mesh)
        return update(adapter, state, *summed, rates[step])

    return take


def accumulate(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    microbatches: Sequence[Batch],
    key: jax.Array,
    mesh: Mesh | None = None,
) -> tuple[Leaves, jax.Array, jax.Array]:
    """Returns summed gradient, summed loss and token count of one optimiser step.

    Dropout is drawn from the step's key, the row, and the token's place in it, so that no choice of
    microbatches, nor packing, changes it.
    """
    total: Any = None
    for batch in microbatches:
        part = gradient_function(model, mesh)(adapter, base, vars(batch), key)
        total = part if total is None else _added(total, part)
    return total


@functools.partial(jax.jit, donate_argnums=0)
def _added(total: Any, part: Any) -> Any:
    """Adds two trees in one program; one for each leaf would keep the host busy."""
    return jax.tree.map(jnp.add, total, part)


@functools.cache
def gradient_function(model: Model, mesh: Mesh | None = None) -> Wrapped:
    """Returns jitted (adapter, base, fields of a Batch, key) -> summed gradient, loss, tokens.

    On a mesh each device computes its own rows, and each one has the sums over all devices. Of a
    model without an adapter it takes all weights in its place, as `_of_weights` says.
    """
    if not model.adapter_shapes:
        return _of_weights(model, mesh)

    def gradient(shared, base, batch):
        adapter, key = shared
        rows_B, tokens_BT = batch["rows_B"], batch["tokens_BT"]
        keys = None
        if model.attached.dropout > 0:
            rows = rows_B if batch["segments_BT"] is None else batch["segments_BT"]
            keys = jax.vmap(functools.partial(jax.random.fold_in, key))(rows.reshape(-1))
            keys = keys.reshape(rows.shape)
        loss = functools.partial(batch_loss, model.in_training)
        (total, count), gradients = jax.value_and_grad(loss, has_aux=True)(
            adapter, base, tokens_BT, batch["supervised_BT"], keys, batch["segments_BT"]
        )
        return gradients, total, count

    def summed(*arguments):
        found = gradient(*arguments)
        return found if mesh is None else jax.lax.psum(found, mesh.axis_names)

    run = model.over_rows(summed, mesh, PartitionSpec())
    return jax.jit(lambda adapter, base, batch, key: run((adapter, key), base, batch))


def _of_weights(model: Model, mesh: Mesh | None) -> Wrapped:
    """As `gradient_function`, of all weights: these are in float32, and computed with in the dtype
    of the base. Where devices share a weight each one has the sums of its own part."""

    def gradient(_, weights, batch):
        def loss(weights):
            base = {path: leaf.astype(model.dtype) for path, leaf in weights.items()}
            rows = batch["tokens_BT"], batch["supervised_BT"], None, batch["segments_BT"]
            return batch_loss(model.in_training, {}, base, *rows, of_base=True)

        (total, count), gradients = jax.value_and_grad(loss, has_aux=True)(weights)
        return gradients, total, count

    if mesh is None:
        return jax.jit(lambda weights, base, batch, key: gradient(None, weights, batch))
    specs = {path: model.sharding(path, mesh).spec for path in model.base_layout.parts}

    def summed(*arguments):
        gradients, *sums = gradient(*arguments)
        for path, leaf in gradients.items():
            # Gathering a weight adds up the gradients of its part on the way back.
            axes = tuple(axis for axis in mesh.axis_names if axis not in specs[path])
            gradients[path] = jax.lax.psum(leaf, axes) if axes else leaf
        return gradients, *jax.lax.psum(sums, mesh.axis_names)

    out = (specs, PartitionSpec(), PartitionSpec())
    run = model.over_rows(summed, mesh, out)
    return jax.jit(lambda weights, base, batch, key: run(key, weights, batch))


def on_devices(model: Model, state: State, mesh: Mesh) -> State:
    """The state on all devices of a mesh: an adapter whole on each, weights as the base lies."""
    if model.adapter_shapes:
        return jax.device_put(state, replicated(mesh))
    leaves, of_optimizer = state

    def place(part: Any) -> Any:
        return (
            model.placed(part, mesh) if isinstance(part, dict) else placed(part, replicated(mesh))
        )

    return place(leaves), jax.tree.map(place, of_optimizer, is_leaf=lambda x: isinstance(x, dict))


@functools.cache
def update_function(config: OptimizerConfig) -> Wrapped:
    """Returns jitted (adapter, state, summed gradients, summed loss, token count, rate) -> adapter,
    state, Outcome. The arrays of the adapter and the state that it is given are gone afterwards.
    """
    direction = adam_direction(config)

    def update(adapter, state, gradients, loss, tokens, rate):
        count = jnp.maximum(tokens, 1)
        mean = jax.tree.map(lambda leaf: leaf / count, gradients)
        steps, state = direction.update(mean, state, adapter)
        adapter = optax.apply_updates(adapter, jax.tree.map(lambda s: -rate * s, steps))
        loss = loss / count
        sound = [jnp.all(jnp.isfinite(leaf)) for leaf in (loss, *gradients.values())]
        return adapter, state, Outcome(loss, tokens, jnp.all(jnp.stack(sound)))

    return jax.jit(update, donate_argnums=(0, 1))
