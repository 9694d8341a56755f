"""Answer losses of many rows, in a store on disk, so that a long pass resumes."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from g2is_jax.data.batches import Batch
from g2is_jax.data.chat import Encoded
from g2is_jax.evaluation.likelihood import likelihood_function
from g2is_jax.features.extract import extract
from g2is_jax.features.gradients import FeatureBatch
from g2is_jax.features.store import Store, StoreWriter
from g2is_jax.model.build import Model, devices_of, mesh_of
from g2is_jax.model.lora import Leaves
from g2is_jax.runs.processes import process_share


def extract_losses(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    encoded: Sequence[Encoded],
    batch_tokens: int,
    writer: StoreWriter,
) -> dict:
    """Writes each example's answer loss, that of `answer_losses`, as a row of one value.

    Chunks, processes and the dict that is returned are as in `extract`.
    """
    mesh = mesh_of(base)
    run = likelihood_function(model, mesh)

    def compute(batch: Batch) -> FeatureBatch:
        sums_B, counts_B, _ = run(adapter, base, batch.tokens_BT, batch.supervised_BT)
        losses_B = -sums_B / jnp.maximum(counts_B, 1)
        nothing_B = np.zeros(len(batch.rows_B), np.float32)
        tokens_B = batch.supervised_BT.sum(axis=1)
        return FeatureBatch(losses_B[None, :, None], nothing_B, tokens_B)

    devices, share = devices_of(mesh), process_share()
    return extract(compute, encoded, [writer], batch_tokens, "answer losses", devices, share)


def stored_losses(store: Store) -> np.ndarray:
    """The losses of a store's rows (N,), NaN where one was not finite.

    No loss is negative, so each one is the length that its row had before it was normalised.
    """
    return np.where(store.finite_N, store.norms_N, np.float32(np.nan))
