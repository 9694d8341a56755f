"""TSDS (NeurIPS 2024): each validation row spreads its mass over the rows nearest to it."""

import dataclasses

import numpy as np

from g2is_jax.selection.budget import Limits, Selection
from g2is_jax.selection.rivals.similarity import (
    by_mass,
    similarities,
    unit_blocks,
    unit_validation,
)

# As "A Critical Look at Targeted Instruction Selection" (arXiv 2602.14696) sets them.
ALPHA, C = 0.01, 5.0  # the weight of spreading far against that of spreading to few
SIGMA = 0.75  # unit rows that are farther apart count nothing to each other's density
NEAREST = 1000  # rows that make up a density
ROUGH = 1e-3  # far above the error of a squared distance in float32
GRID = 2.0**24  # steps between 0 and 1 of a kernel: sums of these are exact, in any order


def tsds_knn(features_NP, validation_MP, limits: Limits) -> Selection:
    """Ranks rows by how many validation rows have them among their K nearest (TSDS's KNN-Uniform);
    equal ones by their largest cosine to any, which the sources leave open, then by lower index.

    K is the same for all validation rows and has nothing to do with the budget; it grows from 1
    while (ALPHA / C) sum over v of sum over k <= K of (d_v,K+1 - d_vk) < (1 - ALPHA) M, with d_vk =
    1 - cosine of the k-th nearest row. The summary has it as `depth`. It is all of a pool where N
    (largest - mean distance) is below 495 in the mean over validation rows: some hundreds of rows,
    or some thousands that are nearly orthogonal to these; the cosine then decides alone. A pick's
    score is the number, its component the validation row that it is nearest to.
    """
    cosines_MN = similarities(features_NP, unit_validation(features_NP, validation_MP, limits))
    near_MK = _nearest(cosines_MN, np.ones(len(features_NP)))
    votes_N = np.zeros(len(features_NP))
    for near_K in near_MK:
        votes_N[near_K] += 1
    return _ranked(votes_N, cosines_MN, limits, near_MK)


def tsds_kde(features_NP, validation_MP, limits: Limits) -> Selection:
    """Ranks like `tsds_knn`, but by mass: each validation row spreads 1/M over its K nearest rows
    in proportion to 1 / density, so that near-duplicates share what one row would get.

    K grows as there, each term times the 1 / density of row k. The density of a row x is the sum
    over the 1,000 rows nearest to it, itself among them, of max(0, 1 - |x - x'|^2 / SIGMA^2).

    Differs from the released code: there each validation row has its own depth, at which the
    sum of 1 / density is the same for all; where no rows are near-duplicates this is the same.
    Densities are of the whole pool, there of the rows that are near to the validation rows.
    """
    cosines_MN = similarities(features_NP, unit_validation(features_NP, validation_MP, limits))
    weights_N = 1 / densities(features_NP)
    near_MK = _nearest(cosines_MN, weights_N)
    masses_N = np.zeros(len(features_NP))
    for near_K in near_MK:
        masses_N[near_K] += weights_N[near_K] / (weights_N[near_K].sum() * len(near_MK))
    return _ranked(masses_N, cosines_MN, limits, near_MK)


def _ranked(masses_N, cosines_MN, limits: Limits, near_MK) -> Selection:
    reason = "near to many validation rows"
    selection = by_mass(masses_N, cosines_MN.argmax(axis=0), cosines_MN, limits, reason)
    summary = {**selection.summary, "depth": near_MK.shape[1]}
    return dataclasses.replace(selection, summary=summary)


def _nearest(cosines_MN, weights_N) -> np.ndarray:
    """The K nearest rows of each validation row, nearest first and equal ones by lower index."""
    nearest_MN = np.empty(cosines_MN.shape, np.int32)
    costs_N = np.zeros(len(weights_N))  # of the depths 1 to N - 1; that of N has no next row
    for own_N, nearest_N in zip(cosines_MN, nearest_MN, strict=True):
        nearest_N[:] = np.argsort(-own_N, kind="stable")
        distances_N = 1 - own_N[nearest_N].astype(np.float64)
        own_weights_N = weights_N[nearest_N]
        spread_N = np.cumsum(own_weights_N[:-1]) * distances_N[1:]
        costs_N[:-1] += spread_N - np.cumsum((own_weights_N * distances_N)[:-1])
    costs_N[-1] = np.inf
    depth = int(np.argmax(ALPHA / C * costs_N >= (1 - ALPHA) * len(cosines_MN))) + 1
    return nearest_MN[:, :depth]


def densities(features_NP) -> np.ndarray:
    """The density of each pool row among its nearest rows, [N], at least 1: its own share.

    Each pair of rows is compared once, a block with a block at a time; where rows have more than
    NEAREST others near them, the largest kernels of their blocks are picked out afterwards.
    """
    sums_N, counts_N = np.zeros(len(features_NP)), np.zeros(len(features_NP), int)
    for block, units_BP in unit_blocks(features_NP):
        for other, others_OP in unit_blocks(features_NP, block.start):
            kernel_BO = _kernel(units_BP, others_OP)
            sums_N[block] += kernel_BO.sum(axis=1)
            counts_N[block] += (kernel_BO > 0).sum(axis=1)
            if other != block:
                sums_N[other] += kernel_BO.sum(axis=0)
                counts_N[other] += (kernel_BO > 0).sum(axis=0)
    if (counts_N > NEAREST).any():
        for block, units_BP in unit_blocks(features_NP):
            if (counts_N[block] > NEAREST).any():
                sums_N[block] = _largest(units_BP, features_NP)
    return sums_N


def _largest(units_BP, features_NP) -> np.ndarray:
    """The sum of each row's NEAREST largest kernels, [B]."""
    largest_BK = np.zeros((len(units_BP), 0))
    for _, others_OP in unit_blocks(features_NP):
        largest_BK = np.concatenate([largest_BK, _kernel(units_BP, others_OP)], axis=1)
        if largest_BK.shape[1] > NEAREST:
            largest_BK = np.partition(largest_BK, -NEAREST, axis=1)[:, -NEAREST:]
    return largest_BK.sum(axis=1)


def _kernel(units_BP, others_OP) -> np.ndarray:
    """The kernels max(0, 1 - |x - x'|^2 / SIGMA^2) of all pairs, [B, O], on the grid."""
    # A product in float32 tells which rows are near to any; those alone are compared in float64,
    # after which exact duplicates tie.
    squares_BO = 1.0 * units_BP.any(axis=1)[:, None] + others_OP.any(axis=1)[None, :]
    rough_BO = squares_BO - 2 * (units_BP.astype(np.float32) @ others_OP.astype(np.float32).T)
    near_BO = rough_BO < SIGMA**2 + ROUGH
    kernel_BO = np.zeros(near_BO.shape)
    if near_BO.any():
        rows_B, rows_O = near_BO.any(axis=1), near_BO.any(axis=0)
        pairs = np.ix_(rows_B, rows_O)
        apart_BO = squares_BO[pairs] - 2 * (units_BP[rows_B] @ others_OP[rows_O].T)
        kernel_BO[pairs] = np.rint(GRID * np.maximum(0, 1 - apart_BO / SIGMA**2)) / GRID
    return kernel_BO
