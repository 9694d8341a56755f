"""The linear datamodelling score: does a row's score foretell what training on it does?

Park et al. (TRAK, 2023): a model is trained on each of S random subsets of the pool. A method
predicts the loss on a test row by the sum, over the subset, of the pool rows' scores for it; its
score is Spearman's correlation, over the subsets, of that prediction and the loss.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
DRAWS = 1_000


@dataclass(frozen=True)
class Lds:
    """The mean over test rows of a method's correlations, and its lead over a reference.

    low and high: bootstrap intervals of CONFIDENCE over subsets and test rows, which are drawn
    alike for all methods, so that the lead is paired. share_positive: of the test rows.
    """

    mean: float
    low: float
    high: float
    lead: float
    lead_low: float
    lead_high: float
    share_positive: float


def datamodelling_scores(
    losses_SM: np.ndarray, predictions: Mapping[str, np.ndarray], reference: str
) -> dict[str, Lds]:
    """The score of each method on M test rows.

    losses_SM: the loss on each test row after training on each subset. predictions: method ->
    [S, M], larger where the loss should be smaller. reference: the method that leads are over.
    """
    names = list(predictions)
    fallen_SM = -losses_SM
    exact = {name: spearman(fallen_SM, predictions[name]) for name in names}
    draws_RK = np.array(
        [[found_M.mean() for found_M in drawn] for drawn in _redrawn(fallen_SM, predictions)]
    )
    own = names.index(reference)
    found = {}
    for name, means_R in zip(names, draws_RK.T, strict=True):
        mean = float(exact[name].mean())
        low, high = _interval(means_R)
        lead_low, lead_high = _interval(means_R - draws_RK[:, own])
        lead = mean - float(exact[reference].mean())
        positive = float((exact[name] > 0).mean())
        found[name] = Lds(mean, low, high, lead, lead_low, lead_high, positive)
    return found


def _interval(values_R: np.ndarray) -> tuple[float, float]:
    beyond = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values_R, (beyond, 1 - beyond))
    return float(low), float(high)


def _redrawn(
    fallen_SM: np.ndarray, predictions: Mapping[str, np.ndarray]
) -> Iterator[list[np.ndarray]]:
    """Yields, for each draw of subsets and test rows, the correlations of each method."""
    rng = np.random.default_rng(0)
    subsets, rows = fallen_SM.shape
    of_losses = _comparisons(fallen_SM)
    of_methods = [_comparisons(own_SM) for own_SM in predictions.values()]
    for _ in range(DRAWS):
        times_S = np.bincount(rng.integers(subsets, size=subsets), minlength=subsets)
        drawn_M = rng.integers(rows, size=rows)
        losses_SM = _ranks(of_losses, times_S)
        yield [
            _correlation(losses_SM, _ranks(own, times_S), times_S)[drawn_M] for own in of_methods
        ]


def spearman(first_SM: np.ndarray, second_SM: np.ndarray) -> np.ndarray:
    """Spearman's correlation over S of each of M columns; equal values share a rank, and a column
    of equal values has correlation 0."""
    times_S = np.ones(len(first_SM))
    of_first, of_second = _comparisons(first_SM), _comparisons(second_SM)
    return _correlation(_ranks(of_first, times_S), _ranks(of_second, times_S), times_S)


def _comparisons(values_SM: np.ndarray) -> np.ndarray:
    """1 where the value of the first S is above that of the second, 1/2 where equal, [S, S, M]."""
    own, other = values_SM[:, None], values_SM[None]
    return (own > other) + np.float32(0.5) * (own == other)


def _ranks(comparisons_SSM: np.ndarray, times_S: np.ndarray) -> np.ndarray:
    """The ranks of the values where each counts so many times, [S, M]."""
    return np.einsum("stm,t->sm", comparisons_SSM, times_S.astype(np.float32))


def _correlation(first_SM: np.ndarray, second_SM: np.ndarray, times_S: np.ndarray) -> np.ndarray:
    weights_S1 = times_S[:, None] / times_S.sum()
    first_SM = first_SM - (weights_S1 * first_SM).sum(axis=0)
    second_SM = second_SM - (weights_S1 * second_SM).sum(axis=0)
    products_M = (weights_S1 * first_SM * second_SM).sum(axis=0)
    squares_M = (weights_S1 * first_SM**2).sum(axis=0) * (weights_S1 * second_SM**2).sum(axis=0)
    return products_M / np.sqrt(np.where(squares_M > 0, squares_M, np.inf))
