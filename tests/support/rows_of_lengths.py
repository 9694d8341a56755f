"""Rows of given lengths, and lengths as a pool has them."""

import numpy as np

from g2is_jax.data.chat import Encoded


def less_like_lengths(n: int) -> np.ndarray:
    """Log-normal, mean about 320 tokens, cut at 2,048: like LESS's pool of four sources."""
    lengths = np.random.default_rng(0).lognormal(5.5, 0.7, n).astype(int)
    return np.clip(lengths, 12, 2048)


def examples(lengths) -> list[Encoded]:
    """Row i holds the token i + 1 throughout; its second half is supervised."""
    return [
        Encoded(np.full(length, row + 1, np.int32), np.arange(length) >= length // 2, False)
        for row, length in enumerate(lengths)
    ]
