"""Features of a pass, folded to a narrower projection."""

import numpy as np
from etils import epath

from g2is_jax.features.changed_store import write_changed
from g2is_jax.features.projection import fold
from g2is_jax.features.store import open_store
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.manifest import stage_hash
from g2is_jax.runs.stages import Stage


def stage(job: Job, source: epath.Path, label: str, seed: int) -> epath.Path:
    """The rows of another store, folded to a narrower projection: no gradient is computed again."""
    folds, own_seed = job.settings.features.folds, job.settings.features.seed_of(seed)

    def build(folder: epath.Path) -> dict:
        store = open_store(source)

        def change(rows_BP: np.ndarray) -> np.ndarray:
            for _ in range(folds):
                rows_BP = fold(rows_BP, own_seed)
            return rows_BP

        write_changed(folder, store, job.settings.features.store, change)
        return {"rows": len(store.rows_N), "width": store.width // 2**folds}

    identity = {"folds": folds, "seed": own_seed, "rows_dtype": job.settings.features.store.dtype}
    label = f"{label} seed {seed} folded {folds}x"
    return job.stages.run(Stage("folded", identity, {"features": stage_hash(source)}), label, build)
