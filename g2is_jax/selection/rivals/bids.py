"""BIDS (balanced influence, EMNLP Findings 2025, arXiv 2501.12147)."""

import numpy as np

from g2is_jax.selection.budget import Ledger, Limits, Pick, Selection, spending
from g2is_jax.selection.rivals.similarity import similarities, unit_validation

NO_SPREAD = 1e-6  # standard deviation of float32 cosines that are equal but for rounding


def bids(features_NP, validation_MP, limits: Limits) -> Selection:
    """Takes again and again the row that helps most a validation row which was helped least: the
    largest max over validation rows v of Z_vi - mean over the chosen k of Z_vk. Z are a validation
    row's cosines standardised over the pool; 0 where they do not differ. The mean over nothing is
    0. Equal rows by lower index.

    A pick's score is that maximum, its component the validation row where it is reached.
    """
    cosines_MN = similarities(features_NP, unit_validation(features_NP, validation_MP, limits))
    means_M = cosines_MN.mean(axis=1, dtype=np.float64)
    spreads_M = np.array([own_N.astype(np.float64).std() for own_N in cosines_MN])
    flat_M = spreads_M < NO_SPREAD
    inverse_M = ~flat_M / np.where(flat_M, 1, spreads_M)
    tops_M, served_M = np.full(len(cosines_MN), -1), np.zeros(len(cosines_MN))
    ledger = Ledger(limits)
    picks: list[Pick] = []
    while (fits_N := ledger.fitting()).any():
        _renew(tops_M, cosines_MN, flat_M, fits_N)
        # The best row of a validation row is its most similar one, whatever was chosen before.
        best_M = inverse_M * (cosines_MN[np.arange(len(tops_M)), tops_M] - means_M)
        gains_M = best_M - served_M / max(len(picks), 1)
        row = int(tops_M[gains_M == gains_M.max()].min())
        own = int(np.argmax((gains_M == gains_M.max()) & (tops_M == row)))
        ledger.take(row)
        cosine, reason = float(cosines_MN[own, row]), "helps a validation row that was helped least"
        picks.append(Pick(row, own, len(picks), reason, float(gains_M[own]), None, cosine, None))
        served_M += inverse_M * (cosines_MN[:, row] - means_M)
    return Selection(tuple(picks), spending(limits, picks))


def _renew(tops_M, cosines_MN, flat_M, fits_N) -> None:
    """Puts the most similar row that fits in place of tops that fit no more; for a validation row
    to which all rows are equal it is the first."""
    for own in np.flatnonzero((tops_M < 0) | ~fits_N[tops_M]):
        similar_N = fits_N if flat_M[own] else np.where(fits_N, cosines_MN[own], -np.inf)
        tops_M[own] = similar_N.argmax()
