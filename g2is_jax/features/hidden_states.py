"""RDS+: one row for each example, the position-weighted mean of the base model's hidden states."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.stages import Wrapped

from g2is_jax.data.batches import Batch, row_lengths
from g2is_jax.data.chat import Encoded
from g2is_jax.features.extract import extract
from g2is_jax.features.gradients import FeatureBatch
from g2is_jax.features.store import StoreWriter
from g2is_jax.model.build import Model, devices_of, mesh_of
from g2is_jax.model.lora import Leaves
from g2is_jax.runs.processes import process_share


@functools.cache
def hidden_function(model: Model, mesh: Mesh | None) -> Wrapped:
    """Returns a jitted (base, tokens_BT, lengths_B) -> features_BD, float32.

    A row of no tokens is zero.

    features = sum_i i h_i / sum_i i over the tokens i = 1, 2, ... of an example, prompt and reply
    alike, with h the hidden states after the last norm (Ivison et al., 2025, RDS+).
    """

    def mean(adapter, base, tokens_T, length):
        hidden_TD = model.hidden(adapter, base, tokens_T)
        positions_T = jnp.arange(1, len(tokens_T) + 1)
        weights_T = positions_T / (length * ((length + 1) / 2))  # no integer grows beyond T
        # Not times a weight of zero: padding may not be finite. Not a product of matrices either,
        # which accelerators round.
        terms_TD = weights_T[:, None] * hidden_TD.astype(jnp.float32)
        return jnp.sum(terms_TD, axis=0, where=(positions_T <= length)[:, None])

    run = model.over_rows(jax.vmap(mean, in_axes=(None, None, 0, 0)), mesh)
    return jax.jit(lambda base, *of_rows: run(model.zero_adapter(), base, *of_rows))


def extract_hidden(
    model: Model,
    base: Leaves,
    encoded: Sequence[Encoded],
    batch_tokens: int,
    writer: StoreWriter,
) -> dict:
    """Writes one row for each example to the store, as `extract` does; all processes share the
    work, each with all its devices.

    Gradient norms are zeros, as there is no gradient; tokens are the supervised ones.
    """
    lengths_N = row_lengths(encoded).astype(np.int32)
    mesh = mesh_of(base)

    def compute(batch: Batch) -> FeatureBatch:
        lengths_B = np.where(batch.rows_B >= 0, lengths_N[batch.rows_B], 0)
        features_BD = hidden_function(model, mesh)(base, batch.tokens_BT, lengths_B)
        nothing_B = np.zeros(len(lengths_B), np.float32)
        return FeatureBatch(features_BD[None], nothing_B, batch.supervised_BT.sum(axis=1))

    devices, share = devices_of(mesh), process_share()
    return extract(compute, encoded, [writer], batch_tokens, "hidden states", devices, share)
