"""Paired differences between methods, and the intervals around them.

Two methods are compared at the same seed, and signed so that more is better whatever the metric.
`seed_differences` has Student's interval over seeds, `row_differences` a bootstrap interval over
seeds and test rows.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from g2is_jax.evaluation.tasks.reply_metrics import LOSS, SHOTS_DROPPED

SUBJECT = "g2is"  # is compared with every other method
REFERENCE = "random"  # a gain is the difference to it
RIVALS = ("random", "less")  # every method is compared with these row by row
CONFIDENCE = 0.95
DRAWS = 2_000
Groups = dict[tuple[str, str, str], dict[int, dict]]  # (method, target, metric) -> seed -> score


@dataclass(frozen=True)
class SeedDifference:
    """Holds how much better `subject` is than `rival` on a target, over the seeds that both have.

    low and high: Student's interval of CONFIDENCE for the mean, None below two seeds. It covers
    what warm-up, projection and fine-tune of other seeds would change, not other test rows. better:
    the number of seeds on which the subject is ahead.
    """

    subject: str
    rival: str
    target: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    better: int
    seeds: int


@dataclass(frozen=True)
class RowDifference:
    """Holds how much better `method` is than `rival`, over shared seeds and rows counted for both.

    low and high: bootstrap interval of CONFIDENCE for the mean, which covers other seeds and other
    test rows.
    """

    method: str
    rival: str
    target: str
    metric: str
    mean: float
    low: float
    high: float
    seeds: int
    rows: int


def seed_differences(scores: Sequence[dict], subject: str = SUBJECT) -> list[SeedDifference]:
    """Compares `subject` with every other method, on each target and metric, paired by seed."""
    groups = group_scores(scores)
    found = []
    for rival, target, metric in groups:
        own = groups.get((subject, target, metric), {})
        gains_S = paired_gains(own, groups[rival, target, metric], metric)
        if rival == subject or not len(gains_S):
            continue
        low, high = student_interval(gains_S)
        mean, ahead = float(gains_S.mean()), int((gains_S > 0).sum())
        found.append(
            SeedDifference(subject, rival, target, metric, mean, low, high, ahead, len(gains_S))
        )
    return found


def row_differences(scores: Sequence[dict], rivals: Sequence[str] = RIVALS) -> list[RowDifference]:
    """Compares every method with each of some rivals, paired by seed and test row.

    scores: with `per_row`, a value or None for each test row, by metric; a metric that lacks them
    is left out.
    """
    groups = group_scores(scores)
    found = []
    for rival in rivals:
        for (method, target, metric), own in groups.items():
            theirs = groups.get((rival, target, metric), {})
            pairs = [(own[seed], theirs[seed]) for seed in _shared_seeds(own, theirs)]
            known = (metric in score.get("per_row", {}) for pair in pairs for score in pair)
            if method == rival or not pairs or not all(known):
                continue
            sign = sign_of(metric, pairs[0][0])
            gains_SM = sign * np.array([_row_gains(*pair, metric) for pair in pairs])
            counted_M = np.isfinite(gains_SM).all(axis=0)
            if not counted_M.any():
                continue
            gains_SM = gains_SM[:, counted_M]
            low, high = bootstrap_interval(gains_SM, CONFIDENCE)
            mean = float(gains_SM.mean())
            found.append(
                RowDifference(method, rival, target, metric, mean, low, high, *gains_SM.shape)
            )
    return found


def group_scores(scores: Sequence[dict]) -> Groups:
    """Groups scores by method, target and metric, then seed; dropped shots count as no metric."""
    groups: Groups = {}
    for score in scores:
        for metric in score["metrics"]:
            if metric == SHOTS_DROPPED:
                continue
            key = (score["method"], score["target"], metric)
            groups.setdefault(key, {})[score["seed"]] = score
    return groups


def paired_gains(own: dict[int, dict], theirs: dict[int, dict], metric: str) -> np.ndarray:
    """Returns by how much `own` is better at each seed that both have, (S,) float64."""
    gains = [
        sign_of(metric, own[s]) * (own[s]["metrics"][metric] - theirs[s]["metrics"][metric])
        for s in _shared_seeds(own, theirs)
    ]
    return np.array(gains, np.float64)


def sign_of(metric: str, score: dict) -> int:
    """Returns -1 where less of this metric of a score is better, else 1."""
    return -1 if metric in (LOSS, *score.get("less_is_better", ())) else 1


def _shared_seeds(own: dict[int, dict], theirs: dict[int, dict]) -> list[int]:
    return sorted(own.keys() & theirs.keys())


def _row_gains(own: dict, theirs: dict, metric: str) -> np.ndarray:
    """Returns the difference on each test row, (M,); nan where either score has no value."""
    own_M, theirs_M = (np.array(score["per_row"][metric], np.float64) for score in (own, theirs))
    return own_M - theirs_M


def standard_error(values: Sequence[float] | np.ndarray) -> float | None:
    """Returns the sample standard deviation / sqrt(n); None below two values."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def student_interval(
    values: Sequence[float] | np.ndarray,
) -> tuple[float | None, float | None]:
    """Returns Student's interval of CONFIDENCE for the mean; (None, None) below two values."""
    from scipy.stats import t as student

    error = standard_error(values)
    if error is None:
        return None, None
    half = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    mean = float(np.mean(values))
    return mean - half, mean + half


def bootstrap_interval(
    values_SM: np.ndarray, confidence: float = CONFIDENCE, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Returns a percentile interval of the mean of values of S seeds and M test rows.

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
    """Draws the shares of the seeds, (draws, S), and of the rows, (draws, M)."""
    draw = np.random.default_rng(seed)
    of_seeds_KS = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    of_rows_KM = draw.multinomial(rows, np.full(rows, 1 / rows), size=draws) / rows
    return of_seeds_KS, of_rows_KM
