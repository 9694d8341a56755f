"""Rows of one bit a value: the signs of a rotated row (as QLESS, 2025, has at its smallest).

Rotated by random signs and a Walsh-Hadamard transform, a row's values are of about one size, so
that their signs say most of it. Of two rows with cosine c, in which many values count, the cosine
of the signs is 2/pi asin(c) give or take W^-1/2: order and sign stay, and copies are at 1.
"""

import functools

import numpy as np

SMALLEST = 8  # values: whole bytes


def sign_rows(rows_BP: np.ndarray) -> np.ndarray:
    """The signs of the rotated rows, int8 of 1 and -1, [B, W]; W is P, or the next power of two.

    A row of zeros becomes a row of 1.
    """
    width = max(SMALLEST, 1 << (rows_BP.shape[1] - 1).bit_length())
    return np.where(rotated(rows_BP, width) >= 0, 1, -1).astype(np.int8)


def rotated(rows_BP: np.ndarray, width: int) -> np.ndarray:
    """The rows with zeros behind them, rotated, float32 [B, W]: their products stay what they are.

    width: a power of two.
    """
    rows_BW = np.zeros((len(rows_BP), width), np.float32)
    rows_BW[:, : rows_BP.shape[1]] = rows_BP
    rows_BW *= _signs(width)
    half = 1
    while half < width:  # the transform, in place, pair by pair
        pairs = rows_BW.reshape(len(rows_BW), -1, 2, half)
        first, second = pairs[:, :, 0].copy(), pairs[:, :, 1]
        pairs[:, :, 0] += second
        np.subtract(first, second, out=pairs[:, :, 1])
        half *= 2
    return rows_BW * np.float32(width**-0.5)


@functools.cache
def _signs(width: int) -> np.ndarray:
    """The random signs, the same for every file."""
    return np.random.default_rng(0).choice(np.array([1, -1], np.float32), width)


def packed(signs_BW: np.ndarray) -> np.ndarray:
    """Eight signs to a byte, uint8 [B, W / 8]."""
    return np.packbits(signs_BW > 0, axis=1)


def unpacked(bytes_BX: np.ndarray) -> np.ndarray:
    """The signs again, int8 [B, W]."""
    return (2 * np.unpackbits(bytes_BX, axis=1).view(np.int8) - 1).astype(np.int8, copy=False)
