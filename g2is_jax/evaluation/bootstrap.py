"""Intervals for a mean over seeds and test rows, from resampling both."""

import numpy as np

DRAWS = 10_000
BLOCK = 256  # draws at a time


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
    draw = np.random.default_rng(seed)
    means = []
    for start in range(0, draws, BLOCK):
        count = min(BLOCK, draws - start)
        of_seeds_KS = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=count) / seeds
        of_rows_KM = draw.multinomial(rows, np.full(rows, 1 / rows), size=count) / rows
        means.append(np.einsum("ks,ks->k", of_seeds_KS, of_rows_KM @ values_SM.T))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)
