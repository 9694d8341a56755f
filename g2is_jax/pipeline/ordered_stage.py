"""The rows of a selection: in memory, or as a file in the order of the pool that stays on disk."""

import dataclasses
import functools
from collections.abc import Sequence

from etils import epath

from g2is_jax.features.ordered import open_ordered, stays_on_disk, write_ordered
from g2is_jax.features.rows import Rows, side_by_side
from g2is_jax.features.store import Store, open_store
from g2is_jax.pipeline.job_stages import Stages
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import stage_hash
from g2is_jax.runs.processes import process_share
from g2is_jax.runs.stages import Stage
from g2is_jax.runs.storage import in_object_store


def pool_rows(
    stages: Stages, memory: str, folders: Sequence[epath.Path], weights: Sequence[float]
) -> Rows:
    """The rows of a pool's features, one store a checkpoint, left on disk where `selection.memory`
    says so."""
    key, shares = tuple(folders), tuple(weights)
    inputs = {f"features-{number}": stage_hash(of) for number, of in enumerate(folders)}
    folder = ordered_folder(stages, memory, _opened(key), shares, inputs)
    return _in_memory(key, shares) if folder is None else _left_on_disk(folder, key)


def ordered_folder(
    stages: Stages,
    memory: str,
    stores: Sequence[Store],
    weights: Sequence[float],
    inputs: dict[str, str],
) -> epath.Path | None:
    """The stage of the rows in the order of the pool; None where they are to be in memory.

    Processes that share a selection each take their own part of that file. inputs: content hashes
    of the stores.
    """
    remote = in_object_store(stages.workdir)
    if memory == "disk" and remote:
        raise InputError(
            f"selection.memory = disk: {stages.workdir} is not on a disk of this machine; choose "
            "memory, or a work folder that is"
        )
    shared = memory == "auto" and process_share()[1] > 1
    if remote or not (shared or stays_on_disk(memory, stores)):
        return None
    stage = Stage("ordered", {"weights": list(weights)}, inputs)
    name = ", ".join(store.folder.name for store in stores)
    # A copy of what is finished: it is made where nothing else may be, too.
    copying = dataclasses.replace(stages, builds=True)
    return copying.run(stage, name, lambda place: write_ordered(place, stores, weights))


def read(stores: Sequence[Store], weights: Sequence[float]) -> Rows:
    """The rows of a store, or of several side by side, in memory."""
    found = [store.read() for store in stores]
    rows = found[0] if len(found) == 1 else side_by_side(found, weights)
    rows.freeze()  # the next method gets the same rows
    return rows


@functools.lru_cache(maxsize=1)  # the largest thing in memory
def _in_memory(folders: tuple[epath.Path, ...], weights: tuple[float, ...]) -> Rows:
    return read(_opened(folders), weights)


@functools.lru_cache(maxsize=1)  # so that the next method's programs are compiled already
def _left_on_disk(folder: epath.Path, folders: tuple[epath.Path, ...]) -> Rows:
    return open_ordered(folder, _opened(folders))


@functools.lru_cache(maxsize=2)
def _opened(folders: tuple[epath.Path, ...]) -> list[Store]:
    """The stores, each of which was checked byte by byte once."""
    return [open_store(folder) for folder in folders]
