"""Gradient-informed projection (arXiv 2603.13790): rows whose span holds the validation rows."""

import numpy as np

from g2is_jax.features.rows import divisors
from g2is_jax.selection.budget import Ledger, Limits, Pick, Selection, spending
from g2is_jax.selection.rivals import similarity
from g2is_jax.selection.rivals.similarity import unit_blocks, unit_row, unit_validation

INSIDE = 1e-6  # |r|^2 of a unit row below which it lies in the span: bfloat16 rounds by as much
EQUAL = 1e-9  # gains that are nearer than this are equal; the rounding of float64 is far below
BATCH = 32  # rows whose products with the pool are computed together


def gip(features_NP, validation_MP, limits: Limits) -> Selection:
    """Chooses greedily for the span: with r the part of a row outside the span of the chosen rows,
    each step takes the row of the largest |V r|^2 / |r|^2, V the unit validation rows. This is what
    the row adds to the squared lengths of their projections on the span. A row inside adds 0. Equal
    gains by lower index.

    A pick's score is its gain, its component the validation row that gains most (-1 where the row
    adds nothing, then no cos_component).
    """
    units_MP = unit_validation(features_NP, validation_MP, limits)
    outside = _Outside(features_NP, units_MP)
    ledger = Ledger(limits)
    picks: list[Pick] = []
    while (fits_N := ledger.fitting()).any():
        gains_N = np.where(fits_N, outside.gains(), -1.0)
        row = int(np.argmax(gains_N >= gains_N.max() - EQUAL))
        ledger.take(row)
        gain, own, cosine = float(gains_N[row]), -1, None
        if gain > EQUAL:
            own = int(np.abs(outside.along_MN[:, row]).argmax())
            cosine = float(unit_row(features_NP, row) @ units_MP[own])
        reason = "adds most to the span"
        picks.append(Pick(row, own, len(picks), reason, gain, None, cosine, None))
        outside.take(row, gains_N)
    return Selection(tuple(picks), spending(limits, picks))


class _Outside:
    """The parts r of the unit pool rows outside the span of the rows taken, as far as needed.

    along_MN   their products with the validation rows, V r
    squares_N  their squared lengths
    basis      orthonormal rows of the span

    A step needs the products of all rows with the new direction of the span. They are computed for
    BATCH rows of large gain at once, in one reading of the pool, and kept up to date from then on:
    a direction taken out of r_i takes its share out of the product with r_i too.
    """

    def __init__(self, features_NP, units_MP):
        self.features_NP, self.units_MP = features_NP, units_MP
        self.along_MN = np.empty((len(units_MP), len(features_NP)))
        self.inverse_N = np.empty(len(features_NP))
        self.squares_N = np.empty(len(features_NP))
        for block, units_BP in unit_blocks(features_NP):
            self.along_MN[:, block] = units_MP @ units_BP.T
            lengths_B = np.linalg.norm(np.asarray(features_NP[block], np.float64), axis=1)
            self.inverse_N[block] = 1 / divisors(lengths_B)
            self.squares_N[block] = lengths_B > 0
        self.basis: list[np.ndarray] = []
        self.rows_B = np.zeros(0, int)  # whose products are at hand: r of these, and pool times r
        self.parts_BP, self.products_BN = np.zeros((0, 0)), np.zeros((0, 0))

    def gains(self) -> np.ndarray:
        """What each row would add, [N]."""
        sums_N = np.zeros(len(self.squares_N))
        for own_N in self.along_MN:
            sums_N += own_N**2
        return np.where(self.squares_N < INSIDE, 0, sums_N / np.maximum(self.squares_N, INSIDE))

    def take(self, row: int, gains_N) -> None:
        """Adds a row to the span."""
        if self.squares_N[row] < INSIDE:
            return
        if row not in self.rows_B:
            self._look_at(row, gains_N)
        place = int(np.argmax(self.rows_B == row))
        length = np.linalg.norm(self.parts_BP[place])
        own_P, own_N = self.parts_BP[place] / length, self.products_BN[place] / length
        self.basis.append(own_P)
        for along_N, share in zip(self.along_MN, self.units_MP @ own_P, strict=True):
            along_N -= share * own_N
        self.squares_N -= own_N**2
        self.squares_N[row] = 0
        self.parts_BP -= own_N[self.rows_B, None] * own_P[None, :]
        self.products_BN -= own_N[self.rows_B, None] * own_N[None, :]

    def _look_at(self, row: int, gains_N) -> None:
        """Computes the products of the pool with this row and others of large gain."""
        order_N = np.argsort(-gains_N, kind="stable")
        self.rows_B = np.append(order_N[order_N != row][: BATCH - 1], row)
        self.parts_BP = np.stack([unit_row(self.features_NP, other) for other in self.rows_B])
        if self.basis:
            basis_RP = np.stack(self.basis)
            for _ in range(2):  # once leaves what rounding left
                self.parts_BP -= (self.parts_BP @ basis_RP.T) @ basis_RP
        self.products_BN = np.empty((len(self.rows_B), len(self.features_NP)))
        for start in range(0, len(self.features_NP), similarity.BLOCK):
            block = slice(start, start + similarity.BLOCK)
            rows_BP = np.asarray(self.features_NP[block], np.float64)
            self.products_BN[:, block] = (self.parts_BP @ rows_BP.T) * self.inverse_N[block]
