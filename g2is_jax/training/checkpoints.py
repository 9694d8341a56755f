"""Training checkpoints by orbax: adapter, optimiser state and position, safe against `kill -9`."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from g2is_jax.model.lora import Leaves
from g2is_jax.runs.storage import in_object_store

Tree = Any


class Checkpoints:
    """The checkpoints of one training run, named by the steps that were finished before them."""

    def __init__(self, folder: epath.Path, keep: int | None):
        """`keep`: how many of the newest stay on disk; None keeps all."""
        absolute = folder if in_object_store(folder) else epath.Path(Path(folder).resolve())
        absolute.mkdir(parents=True, exist_ok=True)
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(),
            active_processes={jax.process_index()},
            barrier_sync_key_prefix=f"of process {jax.process_index()}",
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=False,
            enable_async_checkpointing=False,
            multiprocessing_options=alone,
        )
        self._manager = ocp.CheckpointManager(absolute, options=options)

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, adapter: Leaves, optimizer_state: Tree, position: dict) -> None:
        """Write one checkpoint; returns when it is complete. One process alone may do it."""
        state = jax.tree.map(np.asarray, {"adapter": adapter, "optimizer": optimizer_state})
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position)
            ),
        )
        self._manager.wait_until_finished()

    def restore(self, step: int, adapter: Leaves, optimizer_state: Tree) -> tuple[Leaves, Tree]:
        """Adapter and optimiser state of a step; the arguments give structure and shapes.

        Bound to no device, as fresh ones are: they go where the weights are.
        """
        target = jax.tree.map(
            lambda leaf: np.empty(leaf.shape, leaf.dtype),
            {"adapter": adapter, "optimizer": optimizer_state},
        )
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        )
        state = jax.tree.map(jnp.asarray, restored["state"])
        return state["adapter"], state["optimizer"]

    def close(self) -> None:
        """Release the manager's threads."""
        self._manager.close()
