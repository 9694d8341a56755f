"""What a training run saves: adapter and optimiser state, each layer under its own path."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from g2is_jax.model.build import Model
from g2is_jax.model.lora import Leaves
from g2is_jax.model.stacks import Layout
from g2is_jax.training.checkpoints import open_checkpoints
from g2is_jax.training.optimizer import OptimizerConfig, adam_direction

State = tuple[Leaves, Any]  # of a run: what it trains, and what the optimiser knows


def fresh(model: Model, optimizer: OptimizerConfig, seed: int, base: Leaves) -> State:
    """Returns a fresh adapter, or the base in float32 where the model has none, and the optimiser's
    state."""
    leaves = model.init_adapter(seed)
    if not leaves:
        leaves = {path: jnp.array(leaf, jnp.float32) for path, leaf in base.items()}  # copies
    return leaves, adam_direction(optimizer).init(leaves)


class Saved:
    """The checkpoints of a training run, which do not depend on how layers lie in memory."""

    def __init__(self, layout: Layout, folder: epath.Path, keep: int | None):
        """Opens the folder. `keep`: how many of the newest stay; None keeps all."""
        self._layout = layout
        self._checkpoints = open_checkpoints(folder, keep)

    def steps(self) -> list[int]:
        """Returns the steps of the finished checkpoints, oldest first."""
        return self._checkpoints.steps()

    def save(self, step: int, state: State) -> None:
        """Writes one checkpoint; returns when it is complete. Only one process may call it."""
        adapter, of_optimizer = self._by_layer(state)
        self._checkpoints.save(step, adapter, of_optimizer, {"step": step})

    def restore(self, step: int, like: State, stage: epath.Path | None = None) -> State:
        """Returns the state of a step, in the form of `like`; errors as `Checkpoints.restore`."""
        adapter, of_optimizer = jax.eval_shape(self._by_layer, like)
        held = self._checkpoints.restore(step, adapter, of_optimizer, stage)
        return _changed(self._layout.stacked, held)

    def close(self) -> None:
        """Releases the threads that write."""
        self._checkpoints.close()

    def _by_layer(self, state: State) -> State:
        return _changed(self._layout.by_layer, state)


def _changed(change: Callable[[Leaves], Leaves], state: State) -> State:
    """Returns the state with its dictionaries of leaves changed."""

    def is_leaves(node: Any) -> bool:
        return isinstance(node, dict)

    return jax.tree.map(lambda x: change(x) if is_leaves(x) else x, state, is_leaf=is_leaves)


def newest(places: list[Saved], state: State) -> tuple[int, State]:
    """Returns the steps done and the state after them, from the newest checkpoint of all places.

    Without one: 0 and the state as it is.
    """
    place = max(places, key=lambda place: max(place.steps(), default=0))
    done = max(place.steps(), default=0)
    return done, place.restore(done, state) if done else state
