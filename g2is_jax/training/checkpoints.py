"""Training checkpoints by orbax: adapter, optimiser state and position, safe against `kill -9`.

On a disk they are orbax's folders, named by their steps. In an object store each one is a file,
STEP.tar, of such a folder: it is there as a whole or not at all, and the client of all other files
writes it. The position holds a digest of the values, as orbax does not notice bytes that changed.
"""

import hashlib
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
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import in_object_store, make_folder, upload

Tree = Any
REASON_LETTERS = 160  # kept of orbax's messages, which are long


class Checkpoints:
    """The checkpoints of one training run on a disk, named by the number of steps done."""

    def __init__(self, folder: epath.Path, keep: int | None):
        """Opens the folder. `keep`: how many of the newest stay; None keeps all."""
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
        self._folder = absolute
        self._manager = ocp.CheckpointManager(absolute, options=options)

    def steps(self) -> list[int]:
        """Returns the steps of the finished checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, adapter: Leaves, optimizer_state: Tree, position: dict) -> None:
        """Writes one checkpoint; returns when it is complete. Only one process may call it."""
        state = jax.tree.map(np.asarray, {"adapter": adapter, "optimizer": optimizer_state})
        position = position | {"sha256": _digest(state)}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position)
            ),
        )
        self._manager.wait_until_finished()

    def restore(
        self, step: int, adapter: Leaves, optimizer_state: Tree, stage: epath.Path | None = None
    ) -> tuple[Leaves, Tree]:
        """Returns adapter and optimiser state of a step; the arguments give structure and shapes.

        They are bound to no device, as fresh ones: they go where the weights are. InputError for a
        damaged checkpoint says to delete it, or the folder of the finished `stage` it belongs to.
        """
        target = jax.tree.map(
            lambda leaf: np.empty(leaf.shape, leaf.dtype),
            {"adapter": adapter, "optimizer": optimizer_state},
        )
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target), position=ocp.args.JsonRestore()
                ),
            )
            # Absent from checkpoints of earlier versions.
            expected = restored["position"].get("sha256")
            if expected not in (None, _digest(restored["state"])):
                raise ValueError("its values are not those that were saved")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(self._folder / str(step), stage, error) from error
        state = jax.tree.map(jnp.asarray, restored["state"])
        return state["adapter"], state["optimizer"]

    def close(self) -> None:
        """Releases the manager's threads."""
        self._manager.close()


class StoredCheckpoints:
    """The checkpoints of one training run in an object store; same methods as `Checkpoints`.

    A copy is on the local disk while one is written or read.
    """

    def __init__(self, folder: epath.Path, keep: int | None):
        self._folder, self._keep = folder, keep

    def steps(self) -> list[int]:
        """Returns the steps of the finished checkpoints, oldest first."""
        return sorted(int(file.name.removesuffix(".tar")) for file in self._folder.glob("*.tar"))

    def save(self, step: int, adapter: Leaves, optimizer_state: Tree, position: dict) -> None:
        """Writes one checkpoint, then deletes those past `keep`."""
        with tempfile.TemporaryDirectory() as scratch:
            local = Checkpoints(epath.Path(scratch) / "checkpoints", keep=None)
            local.save(step, adapter, optimizer_state, position)
            local.close()
            archive = Path(scratch) / f"{step}.tar"
            with tarfile.open(archive, "w") as tar:
                tar.add(Path(scratch) / "checkpoints", arcname="")
            upload(archive, self._folder / archive.name)
        for old in self.steps()[: -self._keep] if self._keep else []:
            (self._folder / f"{old}.tar").unlink(missing_ok=True)

    def restore(
        self, step: int, adapter: Leaves, optimizer_state: Tree, stage: epath.Path | None = None
    ) -> tuple[Leaves, Tree]:
        """Returns adapter and optimiser state of a step; arguments and errors as on a disk."""
        place = self._folder / f"{step}.tar"
        with tempfile.TemporaryDirectory() as scratch:
            with place.open("rb") as stream, (Path(scratch) / "copy.tar").open("w+b") as archive:
                shutil.copyfileobj(stream, archive)
                archive.seek(0)
                try:
                    with tarfile.open(fileobj=archive) as tar:
                        tar.extractall(Path(scratch) / "checkpoints", filter="data")
                except tarfile.TarError as error:
                    raise _damaged(place, stage, error) from error
            local = Checkpoints(epath.Path(scratch) / "checkpoints", keep=None)
            try:
                return local.restore(step, adapter, optimizer_state)
            except InputError as error:  # it names the copy
                raise _damaged(place, stage, error.__cause__) from error
            finally:
                local.close()

    def close(self) -> None:
        """Does nothing: between calls nothing is open."""


def open_checkpoints(folder: epath.Path, keep: int | None) -> Checkpoints | StoredCheckpoints:
    """Opens the checkpoints of a folder. `keep`: how many of the newest stay; None keeps all."""
    return (StoredCheckpoints if in_object_store(folder) else Checkpoints)(folder, keep)


def _damaged(
    place: epath.Path, stage: epath.Path | None, error: BaseException | None
) -> InputError:
    reason = f"{type(error).__name__}: {error}".split("\n")[0][:REASON_LETTERS]
    return InputError(
        f"{place}: unreadable training checkpoint ({reason}); delete {stage or place} and run the "
        "same command again"
    )


def _digest(state: Tree) -> str:
    """Returns the sha256 of the leaves' bytes, with their names, types and shapes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(state):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape} ".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
