"""Selections that look at no text and no gradient: random, longest answers, the whole pool."""

import numpy as np

from g2is_jax.selection.budget import Limits, Selection, take_in_order


def random_rows(limits: Limits, seed: int) -> Selection:
    """Takes rows in uniformly random order."""
    count = len(limits.costs_N)
    order_N = np.random.default_rng(seed).permutation(count)
    return take_in_order(order_N, np.zeros(count), limits, "random")


def longest(lengths_N, limits: Limits) -> Selection:
    """Takes the rows with the longest answers first; equal lengths in order of index."""
    lengths_N = np.asarray(lengths_N)
    return take_in_order(np.argsort(-lengths_N, kind="stable"), lengths_N, limits, "longest")


def everything(limits: Limits) -> Selection:
    """Takes the whole pool in file order, whatever the budget and the caps."""
    total = int(limits.costs_N.sum())
    whole = Limits(limits.costs_N, total, limits.sources_N, cap=total)
    count = len(limits.costs_N)
    return take_in_order(np.arange(count), np.zeros(count), whole, "everything")
