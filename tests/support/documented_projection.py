"""The documented hash and layout of the projections once more, in plain NumPy."""

import hashlib

import numpy as np

from g2is_jax.features.projection import ProjectionConfig


def mix(x):
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    return x


def words(seed: int, name: str, counters) -> np.ndarray:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    k0, k1 = (np.uint64(int.from_bytes(digest[i : i + 4], "little")) for i in (0, 4))
    inner = (mix(np.asarray(counters, np.uint64) ^ k0) + k1) & np.uint64(0xFFFFFFFF)
    return mix(inner)


def sign_table(seed: int, name: str, rows: int, width: int) -> np.ndarray:
    """Bit i of a row's word w is place i W + w; a set bit is -1."""
    per_row = -(-width // 32)
    table = words(seed, name, np.arange(rows * per_row).reshape(rows, 1, per_row))
    bits = table >> np.arange(32, dtype=np.uint64)[None, :, None] & np.uint64(1)
    return np.where(bits, -1.0, 1.0).reshape(rows, -1)[:, :width]


def documented_matrix(config: ProjectionConfig, seed: int, path: str, values: int) -> np.ndarray:
    """Returns the matrix (values, P) that the flattened values of a leaf are multiplied by."""
    width = config.width
    if config.kind == "rademacher":
        return sign_table(seed, path, values, width) / width**0.5
    blocks = -(-values // width)
    matrix = np.zeros((blocks * width, width))
    signs = sign_table(seed, path, blocks * config.repetitions, width)
    for row, signs_P in enumerate(signs):
        offset = int(words(seed, path, 2**32 - 1 - row)) % width
        for i in range(width):
            matrix[row // config.repetitions * width + i, (i + offset) % width] += signs_P[i]
    return matrix[:values] / config.repetitions**0.5
