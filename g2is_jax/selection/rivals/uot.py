"""Unbalanced optimal transport from the validation rows to the pool."""

import numpy as np

from g2is_jax.selection.budget import Limits, Selection
from g2is_jax.selection.rivals.similarity import by_mass, similarities, unit_validation

# As "A Critical Look at Targeted Instruction Selection" (arXiv 2602.14696) sets them.
EPSILON = 0.01  # weight of the entropy
SOFT = 1e-4  # KL weight of the pool's marginal
# Each round leaves at most SOFT / (SOFT + EPSILON), about 0.01, of the error of log w, which is
# about 1 at first: as far as float64 goes.
ROUNDS = 8


def uot(features_NP, validation_MP, limits: Limits) -> Selection:
    """Ranks rows by the mass that optimal transport sends them: the plan T that minimises
    sum of T (1 - cosine) / 2 + EPSILON sum of T log T + SOFT KL(column sums, 1/N), where each
    validation row sends exactly 1/M. Equal masses by their largest cosine, then by lower index.

    A pick's score is its mass, its component the validation row that sends it most.
    """
    cosines_MN = similarities(features_NP, unit_validation(features_NP, validation_MP, limits))
    masses_N, senders_N = transport(cosines_MN)
    return by_mass(masses_N, senders_N, cosines_MN, limits, "most mass by optimal transport")


def transport(cosines_MN) -> tuple[np.ndarray, np.ndarray]:
    """The column sums of the plan [N], and the row that sends most to each column [N].

    Sinkhorn's scaling: T_vj = u_v K_vj w_j, K = exp(-cost / EPSILON), u = (1/M) / K w,
    w = (1/N / K' u)^(SOFT / (SOFT + EPSILON)). K is made anew row by row and never held.
    """
    M, N = cosines_MN.shape
    scale_N = np.ones(N)
    for _ in range(ROUNDS):
        sums_N, most_N, senders_N = np.zeros(N), np.zeros(N), np.zeros(N, int)
        for sender, own_N in enumerate(cosines_MN):
            # K times e^(1 / 2 EPSILON), which u takes up.
            kernel_N = np.exp(own_N.astype(np.float64) / (2 * EPSILON))
            sent_N = kernel_N / (M * (kernel_N @ scale_N))
            senders_N[sent_N > most_N] = sender
            np.maximum(most_N, sent_N, out=most_N)
            sums_N += sent_N
        masses_N = scale_N * sums_N
        scale_N = (1 / (N * sums_N)) ** (SOFT / (SOFT + EPSILON))
    return masses_N, senders_N
