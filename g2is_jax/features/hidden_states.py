"""One row for each example: a mean of the base model's last hidden states, weighted or plain."""

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

RISING, EVEN = "rising", "even"  # weights of an example's tokens: their positions, or all alike


@functools.cache
def hidden_function(model: Model, mesh: Mesh | None, weights: str = RISING) -> Wrapped:
    """Returns a jitted (base, tokens_BT, lengths_B) -> features_BD, float32.

    A row of no tokens is zero.

    features = sum_i w_i h_i / sum_i w_i over the tokens i = 1, 2, ... of an example, with h the
    hidden states after the last norm. RISING: w_i = i (Ivison et al., 2025, RDS+); EVEN: w_i = 1.
    """

    def mean(adapter, base, tokens_T, length):
        hidden_TD = model.hidden(adapter, base, tokens_T)
        positions_T = jnp.arange(1, len(tokens_T) + 1)
        if weights == EVEN:
            weights_T = jnp.full(len(tokens_T), 1 / length)
        else:
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
    weights: str = RISING,
    supervised_N: np.ndarray | None = None,
) -> dict:
    """Writes one row for each example to the store, as `extract` does; all processes share the
    work, each with all its devices.

    Gradient norms are zeros, as there is no gradient. supervised_N: the supervised tokens that the
    store keeps beside the rows, where the examples are not whole; None: those of the examples.
    """
    lengths_N = row_lengths(encoded).astype(np.int32)
    mesh = mesh_of(base)

    def compute(batch: Batch) -> FeatureBatch:
        lengths_B = np.where(batch.rows_B >= 0, lengths_N[batch.rows_B], 0)
        features_BD = hidden_function(model, mesh, weights)(base, batch.tokens_BT, lengths_B)
        nothing_B, tokens_B = np.zeros(len(lengths_B), np.float32), batch.supervised_BT.sum(axis=1)
        if supervised_N is not None:
            tokens_B = np.where(batch.rows_B >= 0, supervised_N[batch.rows_B], 0)
        return FeatureBatch(features_BD[None], nothing_B, tokens_B)

    devices, share = devices_of(mesh), process_share()
    return extract(compute, encoded, [writer], batch_tokens, "hidden states", devices, share)
