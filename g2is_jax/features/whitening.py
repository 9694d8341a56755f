"""Whitened features: rows times the inverse root of the pool's own second moment.

With F = mean of u u^T over the pool's unit rows u, and damping d, a row x becomes x (F + d I)^-1/2.
The product of two whitened gradients is g (F + d I)^-1 g', an influence function (Koh and Liang,
2017) whose Hessian is the pool's damped empirical Fisher matrix of unit gradients; their cosine
divides it by the root of either row's own influence (relative influence, Barshan et al., 2020).
With the diagonal of F in its place each value is divided by the root of its own mean square.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from g2is_jax.runs.errors import InputError

Blocks = Callable[[], Iterator[np.ndarray]]  # a pass over the unit rows of the pool, [B, P] float64


@dataclass(frozen=True, eq=False)
class Whitening:
    """The map of rows x to x (F + d I)^-1/2, kept on the smaller side.

    damping    d
    matrix_XX  float64. of_values: the map itself, [P, P], or its diagonal [P]. Else K [N, N], so
               that the map is x d^-1/2 + (x U^T) K U, with U the pool's unit rows in the order of
               their blocks
    """

    damping: float
    matrix_XX: np.ndarray
    of_values: bool

    def rows(self, rows_BP: np.ndarray, blocks: Blocks) -> np.ndarray:
        """The whitened rows, [B, P] float64; reads the pool twice where it is the smaller side."""
        if self.matrix_XX.ndim == 1:
            return rows_BP * self.matrix_XX[None]
        if self.of_values:
            return rows_BP @ self.matrix_XX
        products_BN = np.concatenate([rows_BP @ units_LP.T for units_LP in blocks()], axis=1)
        weights_BN = products_BN @ self.matrix_XX
        whitened_BP, start = rows_BP / np.sqrt(self.damping), 0
        for units_LP in blocks():
            whitened_BP += weights_BN[:, start : start + len(units_LP)] @ units_LP
            start += len(units_LP)
        return whitened_BP


def whitening(blocks: Blocks, count: int, width: int, damping: float) -> Whitening:
    """The whitening by a pool of so many rows and values.

    damping: in units of the mean of the min(N, P) eigenvalues of F that can be above 0. Blocks are
    read once where P <= N, else once for each block. InputError if every row is zero.
    """
    of_values = width <= count
    moment_XX = _second_moment(blocks, width) if of_values else _products(blocks)
    eigenvalues_X, vectors_XX = np.linalg.eigh(moment_XX / count)
    eigenvalues_X = np.maximum(eigenvalues_X, 0)  # a rounding may leave a small negative one
    added = damping * float(eigenvalues_X.mean())
    _check(added)
    roots_X = np.sqrt(eigenvalues_X + added)
    if of_values:
        factors_X = 1 / roots_X
    else:  # (1 / root - d^-1/2) / eigenvalue, written so that nothing cancels out
        factors_X = -1 / (roots_X * np.sqrt(added) * (roots_X + np.sqrt(added)) * count)
    return Whitening(added, (vectors_XX * factors_X) @ vectors_XX.T, of_values)


def by_the_diagonal(blocks: Blocks, count: int, width: int, damping: float) -> Whitening:
    """The whitening by the diagonal of F alone; damping in units of its mean. Reads the pool once.

    InputError if every row is zero.
    """
    squares_P = np.zeros(width)
    for units_BP in blocks():
        squares_P += np.einsum("bp,bp->p", units_BP, units_BP)
    added = damping * float(squares_P.mean() / count)
    _check(added)
    return Whitening(added, 1 / np.sqrt(squares_P / count + added), of_values=True)


def _check(added: float) -> None:
    if not added > 0:
        raise InputError("grads.precondition: every row of the pool is zero; set it to none")


def _second_moment(blocks: Blocks, width: int) -> np.ndarray:
    moment_PP = np.zeros((width, width))
    for units_BP in blocks():
        moment_PP += units_BP.T @ units_BP
    return moment_PP


def _products(blocks: Blocks) -> np.ndarray:
    return np.concatenate(
        [
            np.concatenate([own_BP @ units_LP.T for units_LP in blocks()], axis=1)
            for own_BP in blocks()
        ]
    )
