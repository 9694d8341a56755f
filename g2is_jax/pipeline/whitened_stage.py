"""Features on both sides of a comparison, whitened by the pool's own second moment."""

from collections.abc import Iterator

import numpy as np
from etils import epath

from g2is_jax.features.changed_store import write_changed
from g2is_jax.features.rows import unit_length
from g2is_jax.features.store import Store, open_store
from g2is_jax.features.whitening import Whitening, by_the_diagonal, whitening
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.manifest import stage_hash
from g2is_jax.runs.stages import Stage
from g2is_jax.runs.tensors import read_tensors, write_tensors

MATRIX = "whitening.safetensors"


def map_stage(job: Job, pool: epath.Path) -> epath.Path:
    """The map that whitens what is compared with these features of the pool."""
    damping = job.settings.features.damping
    diagonal = job.settings.features.precondition == "diagonal"

    def build(folder: epath.Path) -> dict:
        store = open_store(pool)
        make = by_the_diagonal if diagonal else whitening
        found = make(lambda: _units(store), len(store.rows_N), store.width, damping)
        tensors = {"matrix": found.matrix_XX, "damping": np.array(found.damping)}
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        write_tensors(folder / MATRIX, shapes, tensors.__getitem__)
        return {"rows": len(store.rows_N), "width": store.width, "damping": found.damping}

    settings = {"damping": damping} | ({"diagonal": True} if diagonal else {})
    identity = Stage("whitening", settings, {"pool": stage_hash(pool)})
    return job.stages.run(identity, f"by {pool.name}", build)


def stage(job: Job, source: epath.Path, pool: epath.Path, label: str) -> epath.Path:
    """The rows of a store, whitened for comparisons with these features of the pool."""
    own_map = map_stage(job, pool)

    def build(folder: epath.Path) -> dict:
        of_pool, store = open_store(pool), open_store(source)
        found = _read(own_map, of_pool.width)

        def change(rows_BP: np.ndarray) -> np.ndarray:
            whitened_BP = found.rows(rows_BP.astype(np.float64), lambda: _units(of_pool))
            return whitened_BP.astype(np.float32)

        write_changed(folder, store, job.settings.features.store, change)
        return {"rows": len(store.rows_N), "width": store.width}

    inputs = {"features": stage_hash(source), "whitening": stage_hash(own_map)}
    identity = {"rows_dtype": job.settings.features.store.dtype}
    return job.stages.run(Stage("whitened", identity, inputs), label, build)


def _units(store: Store) -> Iterator[np.ndarray]:
    for _, rows_BP in store.blocks():
        yield unit_length(rows_BP.astype(np.float64))


def _read(folder: epath.Path, width: int) -> Whitening:
    tensors = read_tensors(folder / MATRIX)
    matrix_XX = tensors["matrix"]
    return Whitening(float(tensors["damping"]), matrix_XX, of_values=len(matrix_XX) == width)
