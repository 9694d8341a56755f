"""The loss of one example; training and feature extraction both divide it by their own counts."""

import functools

import jax
import jax.numpy as jnp

from g2is_jax.model.build import Model
from g2is_jax.model.lora import Leaves


def example_loss(
    model: Model, adapter: Leaves, base: Leaves, tokens_T, supervised_T, dropout_key=None
) -> tuple[jax.Array, jax.Array]:
    """Summed next-token negative log-likelihood of the supervised tokens, and their count.

    tokens_T int32; supervised_T bool, true at the tokens that are predicted (never the first).
    Padding is unsupervised and comes last, so it adds exactly nothing.
    """
    logits_TV = model.logits(adapter, base, tokens_T, dropout_key)[:-1]
    log_normaliser_T = jax.nn.logsumexp(logits_TV, axis=-1)
    chosen_T = jnp.take_along_axis(logits_TV, tokens_T[1:, None], axis=-1)[:, 0]
    counted_T = supervised_T[1:]
    return (
        jnp.sum(jnp.where(counted_T, log_normaliser_T - chosen_T, 0.0)),
        jnp.sum(counted_T),
    )


def batch_loss(
    model: Model, adapter: Leaves, base: Leaves, tokens_BT, supervised_BT, dropout_keys_B=None
) -> tuple[jax.Array, jax.Array]:
    """Sums of `example_loss` over a batch; every example has a dropout key of its own."""
    one = functools.partial(example_loss, model, adapter, base)
    sums_B, counts_B = jax.vmap(one)(tokens_BT, supervised_BT, dropout_keys_B)
    return jnp.sum(sums_B), jnp.sum(counts_B)
