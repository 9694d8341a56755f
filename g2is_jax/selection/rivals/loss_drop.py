"""Relative loss drop (target-aligned paths, arXiv 2605.09404): no gradient of the pool."""

import numpy as np

from g2is_jax.selection.budget import Limits, Selection, take_in_order, without


def loss_drop(before_N, after_N, limits: Limits) -> Selection:
    """Takes the rows whose answer loss falls most, as a share of what it was, when the base gets
    an adapter that was trained on the target: score = (before - after) / before.

    A row of loss 0 has nothing to lose and scores 0; a row with a loss that is not finite is never
    taken. Equal scores by lower index.
    """
    before_N, after_N = np.asarray(before_N, np.float64), np.asarray(after_N, np.float64)
    if not len(before_N) == len(after_N) == len(limits.costs_N):
        raise ValueError(
            f"limits of {len(limits.costs_N)} rows, losses of {len(before_N)} and {len(after_N)}"
        )
    finite_N = np.isfinite(before_N) & np.isfinite(after_N)
    scored_N, scores_N = finite_N & (before_N > 0), np.zeros(len(before_N))
    scores_N[scored_N] = ((before_N - after_N)[scored_N]) / before_N[scored_N]
    order_N = np.argsort(-scores_N, kind="stable")
    reason = "largest relative drop of its loss"
    return take_in_order(order_N, scores_N, without(limits, ~finite_N), reason)
