"""Features of a pass, folded to a narrower projection."""

import numpy as np
from etils import epath

from g2is_jax.features.projection import fold
from g2is_jax.features.store import StoreWriter, open_store
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.manifest import stage_hash
from g2is_jax.runs.stages import Stage


def stage(job: Job, source: epath.Path, label: str, seed: int) -> epath.Path:
    """The rows of another store, folded to a narrower projection: no gradient is computed again."""
    folds, own_seed = job.settings.features.folds, seed + job.settings.features.projection_seed

    def build(folder: epath.Path) -> dict:
        store = open_store(source)
        with StoreWriter(folder, store.rows_N, job.settings.features.store) as writer:
            done = writer.start(store.positions)
            for index, (positions_B, rows_BP) in enumerate(store.blocks()):
                if done[index]:
                    continue
                rows_BP = rows_BP * store.norms_N[positions_B, None]
                for _ in range(folds):
                    rows_BP = fold(rows_BP, own_seed)
                rows_BP[~store.finite_N[positions_B]] = np.nan  # stays a row that is marked
                tokens_B = store.tokens_N[positions_B]
                writer.write(index, rows_BP, store.gradient_norms_N[positions_B], tokens_B)
        return {"rows": len(store.rows_N), "width": store.width // 2**folds}

    identity = {"folds": folds, "seed": own_seed, "rows_dtype": job.settings.features.store.dtype}
    label = f"{label} seed {seed} folded {folds}x"
    return job.stages.run(Stage("folded", identity, {"features": stage_hash(source)}), label, build)
