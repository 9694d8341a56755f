"""Training checkpoints by orbax: adapter, optimiser state and position, safe against `kill -9`.

On a disk they are orbax's folders, named by their steps. In an object store each of them is one
file, STEP.tar, of such a folder: it is there as a whole or not at all, and the client of all other
files writes it.
"""

import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from g2is_jax.model.lora import Leaves
from g2is_jax.runs.storage import in_object_store, make_folder, upload

Tree = Any


class Checkpoints:
    """The checkpoints of one training run on a disk, named by the steps before them."""

    def __init__(self, folder: epath.Path, keep: int | None):
        """`keep`: how many of the newest stay on disk; None keeps all."""
        absolute = epath.Path(Path(folder).resolve())
        make_folder(absolute)
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


class StoredCheckpoints:
    """The same in an object store; a copy is on the local disk while it is written or read."""

    def __init__(self, folder: epath.Path, keep: int | None):
        self._folder, self._keep = folder, keep

    def steps(self) -> list[int]:
        """As of `Checkpoints`."""
        return sorted(int(file.name.removesuffix(".tar")) for file in self._folder.glob("*.tar"))

    def save(self, step: int, adapter: Leaves, optimizer_state: Tree, position: dict) -> None:
        """As of `Checkpoints`."""
        with tempfile.TemporaryDirectory() as scratch:
            local = Checkpoints(epath.Path(scratch) / "checkpoints", keep=None)
            local.save(step, adapter, optimizer_state, position)
            local.close()
            archive = Path(scratch) / f"{step}.tar"
            with tarfile.open(archive, "w") as whole:
                whole.add(Path(scratch) / "checkpoints", arcname="")
            upload(archive, self._folder / archive.name)
        for old in self.steps()[: -self._keep] if self._keep else []:
            (self._folder / f"{old}.tar").unlink(missing_ok=True)

    def restore(self, step: int, adapter: Leaves, optimizer_state: Tree) -> tuple[Leaves, Tree]:
        """As of `Checkpoints`."""
        with tempfile.TemporaryDirectory() as scratch:
            with (
                (self._folder / f"{step}.tar").open("rb") as stream,
                (Path(scratch) / "whole.tar").open("w+b") as archive,
            ):
                shutil.copyfileobj(stream, archive)
                archive.seek(0)
                with tarfile.open(fileobj=archive) as whole:
                    whole.extractall(Path(scratch) / "checkpoints", filter="data")
            local = Checkpoints(epath.Path(scratch) / "checkpoints", keep=None)
            state = local.restore(step, adapter, optimizer_state)
            local.close()
            return state

    def close(self) -> None:
        """Nothing is held."""


def open_checkpoints(folder: epath.Path, keep: int | None) -> Checkpoints | StoredCheckpoints:
    """The checkpoints of a folder. `keep`: how many of the newest stay; None keeps all."""
    return (StoredCheckpoints if in_object_store(folder) else Checkpoints)(folder, keep)
