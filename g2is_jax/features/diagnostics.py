"""Diagnoses the rows of a store: conflicts, the share of momentum, norms by source.

Rows that share Adam's momentum are all positively correlated, so that no pair of them may conflict
and the walk's rule against conflicts never fires. Nothing else would show it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from g2is_jax.data.batches import epoch_order
from g2is_jax.features.rows import divisors
from g2is_jax.features.store import Store

SAMPLE_ROWS = 2_000  # whose pairs are looked at one by one
SAMPLE_SEED = 0
PRODUCT_ROWS = 256  # rows of the sample's cosine matrix that are in memory at once
MOST_NAMED, MOST_PRINTED = 20, 5  # ids of odd rows, in the file and on the terminal
FEW_CONFLICTS = 0.01


@dataclass(frozen=True)
class OddRows:
    """The number of rows that are zero, or not finite, and the ids of the first of them."""

    count: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Quantiles:
    """The quantiles of a quantity over `rows` rows."""

    rows: int
    q05: float
    q25: float
    median: float
    q75: float
    q95: float


@dataclass(frozen=True)
class Momentum:
    """|m|/|g| of each row, and the mean cosine that momentum alone would give.

    Rows without a gradient are left out. predicted_cosine: mean over pairs. predicted_of_median: of
    the median row, mean over all rows. Both suppose that gradients are orthogonal to m and to each
    other: with r = b1/(1-b1) |m|/|g|, cos(i, j) = r_i r_j / sqrt((1 + r_i^2) (1 + r_j^2)).
    """

    share: Quantiles
    predicted_cosine: float | None
    predicted_of_median: float


@dataclass(frozen=True)
class Diagnostics:
    """The diagnosis of a store; `dataclasses.asdict` makes plain JSON of it.

    A quantity is None where no pair or no row has it.

    mean_cosine: over all pairs of rows that are finite and not zero. negative_share: of `pairs`
    pairs, which are all of them or those of a sample.
    gradient_norms, norms_by_source: over the finite rows; zeros where features are no gradients.
    """

    rows: int
    zero: OddRows
    non_finite: OddRows
    mean_cosine: float | None
    pairs: int
    negative_share: float | None
    momentum: Momentum | None
    gradient_norms: Quantiles | None
    norms_by_source: dict[str, Quantiles]


def diagnose(
    store: Store,
    ids_N: Sequence[str],
    sources_N: Sequence[str],
    momentum_norm: float | None,
    b1: float,
) -> Diagnostics:
    """Reads the store once, chunk by chunk, and keeps no more than SAMPLE_ROWS of its rows.

    ids_N, sources_N: of the store's rows, in its order. momentum_norm: |m|, where the kind of
    feature uses it; b1: of the Adam that left m.
    """
    if not len(store.rows_N) == len(ids_N) == len(sources_N):
        raise ValueError(f"{len(ids_N)} ids, {len(sources_N)} sources, {len(store.rows_N)} rows")
    norms_N, total_P, sample_SP = _read(store, _sampled_rows(store))
    pairs, negative = _negative_pairs(sample_SP)
    usable = int(np.count_nonzero(norms_N))
    gradient_norms = store.gradient_norms_N[store.finite_N].astype(np.float64)
    sources = np.asarray(sources_N, object)[store.finite_N]
    return Diagnostics(
        rows=len(ids_N),
        zero=_odd_rows(store.finite_N & (norms_N == 0), ids_N),
        non_finite=_odd_rows(~store.finite_N, ids_N),
        mean_cosine=_mean_of_pairs(total_P @ total_P, usable, usable),
        pairs=pairs,
        negative_share=negative / pairs if pairs else None,
        momentum=_momentum(gradient_norms[gradient_norms > 0], momentum_norm, b1),
        gradient_norms=_quantiles(gradient_norms) if len(gradient_norms) else None,
        norms_by_source={
            source: _quantiles(gradient_norms[sources == source]) for source in sorted(set(sources))
        },
    )


def lines(diagnostics: Diagnostics) -> str:
    """The summary for the terminal, in at most four lines."""
    d = diagnostics
    odd = [
        _odd_line(name, rows)
        for name, rows in (("not finite", d.non_finite), ("zero", d.zero))
        if rows.count
    ]
    parts = (_cosines_line(d), _momentum_line(d), _norms_line(d), "; ".join(odd))
    return "\n".join(line for line in parts if line)


def _sampled_rows(store: Store) -> np.ndarray:
    """Positions, ascending, of the rows whose pairs are looked at: all of them, if they are few."""
    usable = np.flatnonzero(store.finite_N & (store.norms_N > 0))
    return np.sort(usable[epoch_order(len(usable), SAMPLE_SEED, epoch=0)[:SAMPLE_ROWS]])


def _read(store: Store, sampled_S: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The norms of the rows as they are stored, the sum of the unit rows, and the sampled rows."""
    place_N = np.full(len(store.rows_N), -1)
    place_N[sampled_S] = np.arange(len(sampled_S))
    norms_N, total_P = np.zeros(len(place_N)), np.zeros(store.width)
    sample_SP = np.zeros((len(sampled_S), store.width))
    for positions_B, features_BP in store.blocks():
        norms_B = np.sqrt(np.einsum("bp,bp->b", features_BP, features_BP, dtype=np.float64))
        total_P += np.einsum("b,bp->p", 1 / divisors(norms_B), features_BP, dtype=np.float64)
        norms_N[positions_B] = norms_B
        kept_B = place_N[positions_B] >= 0
        sample_SP[place_N[positions_B[kept_B]]] = features_BP[kept_B]
        del features_BP  # else it lives on while the next one is read
    return norms_N, total_P, sample_SP[norms_N[sampled_S] > 0]


def _mean_of_pairs(square_of_sum: float, sum_of_squares: float, rows: int) -> float | None:
    """The mean product of two different rows, computed without looking at any pair."""
    return float((square_of_sum - sum_of_squares) / (rows * (rows - 1))) if rows > 1 else None


def _negative_pairs(sample_SP: np.ndarray) -> tuple[int, int]:
    """Counts the pairs that the rows make, and those with a negative product."""
    rows, negative = len(sample_SP), 0
    for start in range(0, rows, PRODUCT_ROWS):
        products = sample_SP[start : start + PRODUCT_ROWS] @ sample_SP[start:].T
        negative += int(np.count_nonzero(np.triu(products, 1) < 0))
    return rows * (rows - 1) // 2, negative


def _momentum(norms_N: np.ndarray, momentum_norm: float | None, b1: float) -> Momentum | None:
    if momentum_norm is None or not len(norms_N):
        return None
    share_N = momentum_norm / norms_N
    ratio_N = b1 / (1 - b1) * share_N
    parts_N = ratio_N / np.hypot(1, ratio_N)  # the cosine between a row and m
    return Momentum(
        share=_quantiles(share_N),
        predicted_cosine=_mean_of_pairs(parts_N.sum() ** 2, float(parts_N @ parts_N), len(parts_N)),
        predicted_of_median=float(np.median(parts_N) * parts_N.mean()),
    )


def _quantiles(values_N: np.ndarray) -> Quantiles:
    return Quantiles(
        len(values_N), *map(float, np.quantile(values_N, (0.05, 0.25, 0.5, 0.75, 0.95)))
    )


def _odd_rows(odd_N: np.ndarray, ids_N: Sequence[str]) -> OddRows:
    places = np.flatnonzero(odd_N)
    return OddRows(len(places), tuple(ids_N[place] for place in places[:MOST_NAMED]))


# Lines for the terminal.


def _cosines_line(d: Diagnostics) -> str:
    if d.mean_cosine is None or d.negative_share is None:
        return f"features: no two of {d.rows:,} rows to compare"
    share = f"{100 * d.negative_share:.3g} % of {d.pairs:,} pairs conflict"
    return f"features: mean cosine {d.mean_cosine:.2g}, {share}"


def _momentum_line(d: Diagnostics) -> str:
    if d.momentum is None:
        return ""
    line = f"|m|/|g| median {d.momentum.share.median:.2g}"
    if d.momentum.predicted_cosine is not None:
        line += f", alone a mean cosine of {d.momentum.predicted_cosine:.2g}"
    if d.negative_share is not None and d.negative_share < FEW_CONFLICTS:
        line += ": the momentum term hides conflicts (kind rms has none)"
    return line


def _norms_line(d: Diagnostics) -> str:
    norms = d.gradient_norms
    if norms is None or norms.q95 == 0:
        return ""
    line = f"|g| median {norms.median:.3g}, 90 % from {norms.q05:.3g} to {norms.q95:.3g}"
    medians = sorted((of.median, source) for source, of in d.norms_by_source.items())
    if len(medians) > 1:
        (low, lowest), (high, highest) = medians[0], medians[-1]
        line += (
            f"; median of {lowest or 'no source'} {low:.3g}, of {highest or 'no source'} {high:.3g}"
        )
    return line


def _odd_line(name: str, odd: OddRows) -> str:
    ids = ", ".join(odd.ids[:MOST_PRINTED])
    more = f" and {odd.count - MOST_PRINTED:,} more" if odd.count > MOST_PRINTED else ""
    return f"{name}: {odd.count:,} row{'s' * (odd.count > 1)} ({ids}{more})"
