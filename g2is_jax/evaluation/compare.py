"""Intervals for a mean over seeds and test rows, from resampling both."""

import functools

import numpy as np

DRAWS = 2_000


def bootstrap_interval(
    values_SM: np.ndarray, confidence: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of values of S seeds and M test rows.

    Each draw takes S of the seeds and M of the rows with replacement, the same rows for all its
    seeds (a pigeonhole bootstrap: Owen 2007), so that the interval covers both other seeds and
    other test rows. It is a little too wide where seeds and rows do not interact. One seed: rows
    alone. Values that are nan (a row that counts for no seed) must have been left out.
    """
    values_SM = np.asarray(values_SM, np.float64)
    seeds, rows = values_SM.shape
    if not np.isfinite(values_SM).all():
        raise ValueError("values that are not finite have no mean")
    of_seeds_KS, of_rows_KM = _weights(seeds, rows, draws, seed)
    means_K = np.einsum("ks,ks->k", of_seeds_KS, of_rows_KM @ values_SM.T)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means_K, [tail, 1 - tail])
    return float(low), float(high)


@functools.lru_cache(maxsize=4)  # many methods are compared on the same rows
def _weights(seeds: int, rows: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each draw takes each seed and each row, as shares."""
    draw = np.random.default_rng(seed)
    of_seeds_KS = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    of_rows_KM = draw.multinomial(rows, np.full(rows, 1 / rows), size=draws) / rows
    return of_seeds_KS, of_rows_KM
