"""Cosines of pool rows to validation rows in the place of their features, from one pass.

A selection that looks at these cosines alone needs no more: N x M numbers for N x P.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from g2is_jax.features.gradients import FeatureBatch
from g2is_jax.features.rows import divisors


def scoring(
    compute: Callable[..., FeatureBatch], kinds: Sequence[int], units: Sequence[np.ndarray]
) -> Callable[..., FeatureBatch]:
    """The function of a pass, but with cosines for features.

    kinds, units: for each store, the number of its kind among the features [K, B, P], and the unit
    validation rows [M, P] of its target. Its rows are [B, L], L being the largest M, with zeros
    behind; a row without a feature that is finite has no cosine that is.
    """
    largest = max(len(units_MP) for units_MP in units)
    padded_SLP = jnp.stack(
        [np.pad(units_MP, ((0, largest - len(units_MP)), (0, 0))) for units_MP in units]
    )
    kinds_S = jnp.asarray(kinds)

    @jax.jit
    def cosines(features_KBP):
        lengths_KB = jnp.linalg.norm(features_KBP, axis=2)
        units_KBP = features_KBP / divisors(lengths_KB)[:, :, None]
        return jnp.einsum(
            "sbp,slp->sbl", units_KBP[kinds_S], padded_SLP, precision=lax.Precision.HIGHEST
        )

    def scored(*batch) -> FeatureBatch:
        found = compute(*batch)
        return found._replace(features_KBP=cosines(found.features_KBP))

    return scored
