"""Random projection of a flattened gradient to P values, leaf by leaf; no matrix is ever stored.

All kinds are linear and satisfy E<y, y'> = <x, x'>. Every random bit is a function of (seed, leaf
path, position), so batch size, order, device and backend cannot change a feature.

Bits come in words of 32, lowest bit first; a set bit is the sign -1. With the keys k0 and k1, the
two little-endian words of BLAKE2b-64 of "<seed>/<leaf path>", word c is mix(mix(c ^ k0) + k1).
"""

import functools
import hashlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from g2is_jax.runs.errors import InputError

KINDS = ("rademacher", "sketch", "none")
SIGN_BLOCK = 512  # gradient values whose signs are made at once
WORD = 32


@dataclass(frozen=True)
class ProjectionConfig:
    """`rademacher`: dense signs / sqrt(P), as LESS. `sketch`: signed, rotated blocks of P, added
    up, `repetitions` times. `none`: the gradient itself (width is then ignored)."""

    kind: str
    width: int
    seed: int
    repetitions: int

    def __post_init__(self):
        if self.kind not in KINDS:
            raise InputError(
                f"projection.kind = {self.kind!r} is unknown; choose one of {', '.join(KINDS)}"
            )
        if self.kind != "none" and self.width < 1:
            raise InputError(f"projection.width = {self.width}; it must be at least 1")
        if self.kind == "sketch" and self.repetitions < 1:
            raise InputError(f"projection.repetitions = {self.repetitions}; it must be at least 1")


def project(config: ProjectionConfig, leaves: dict[str, jax.Array]) -> jax.Array:
    """Project leaves of shape (B, ...) together: features (B, P), float32.

    The sum over leaves of a projection of each is a projection of the whole, so a leaf can be
    forgotten as soon as it was added.
    """
    flat = {
        path: leaf.reshape(leaf.shape[0], -1).astype(jnp.float32)
        for path, leaf in sorted(leaves.items())
    }
    if config.kind == "none":
        return jnp.concatenate(list(flat.values()), axis=1)
    leaf_projection = _rademacher if config.kind == "rademacher" else _sketch
    projected = (leaf_projection(config, path, x_BG) for path, x_BG in flat.items())
    return functools.reduce(jnp.add, projected)


def fold(features_NP: np.ndarray, seed: int) -> np.ndarray:
    """Add the second half of each row, under fixed signs, onto the first: a projection to P / 2.

    Needs no factor: both kinds keep E|y|^2 = |x|^2, and the halves' norms add up. InputError for an
    odd width.
    """
    width = features_NP.shape[1]
    if width % 2:
        raise InputError(f"features of width {width} cannot be folded; use an even width")
    signs_P = np.asarray(_signs(_key(seed, f"fold-{width}"), jnp.uint32(0), width // 2))
    return features_NP[:, : width // 2] + features_NP[:, width // 2 :] * signs_P[None, :]


def _key(seed: int, name: str) -> tuple[np.uint32, np.uint32]:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    words = np.frombuffer(digest, "<u4")
    return words[0], words[1]


def _mix(x: jax.Array) -> jax.Array:
    """A bijective 32-bit finaliser in which every input bit flips half of the output bits."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _words(key: tuple[np.uint32, np.uint32], counters: jax.Array) -> jax.Array:
    return _mix(_mix(counters ^ key[0]) + key[1])


def _signs(key: tuple[np.uint32, np.uint32], row: jax.Array, width: int) -> jax.Array:
    """`width` signs (+1 or -1, float32) of one row of the sign table, 32 from each hashed word."""
    per_row = -(-width // WORD)
    counters = row * jnp.uint32(per_row) + jnp.arange(per_row, dtype=jnp.uint32)
    shifts = jnp.arange(WORD, dtype=jnp.uint32)
    bits = (_words(key, counters)[:, None] >> shifts[None, :]) & jnp.uint32(1)
    return 1.0 - 2.0 * bits.reshape(-1)[:width].astype(jnp.float32)


def _blocks(x_BG: jax.Array, size: int) -> jax.Array:
    """(B, G) as (blocks, B, size), zero-padded."""
    batch, length = x_BG.shape
    count = -(-length // size)
    padded = jnp.pad(x_BG, ((0, 0), (0, count * size - length)))
    return padded.reshape(batch, count, size).transpose(1, 0, 2)


def _rademacher(config: ProjectionConfig, path: str, x_BG: jax.Array) -> jax.Array:
    """x S / sqrt(P), with the (G, P) signs made block by block."""
    key = _key(config.seed, path)
    size = min(SIGN_BLOCK, x_BG.shape[1])
    blocks = _blocks(x_BG, size)
    signs_of = jax.vmap(lambda row: _signs(key, row, config.width))

    def add_block(total_BP, indexed):
        index, block_BG = indexed
        rows = index * jnp.uint32(size) + jnp.arange(size, dtype=jnp.uint32)
        product = jnp.matmul(block_BG, signs_of(rows), precision=jax.lax.Precision.HIGHEST)
        return total_BP + product, None

    start = jnp.zeros((x_BG.shape[0], config.width), jnp.float32)
    indexed = (jnp.arange(blocks.shape[0], dtype=jnp.uint32), blocks)
    return jax.lax.scan(add_block, start, indexed)[0] / config.width**0.5


def _sketch(config: ProjectionConfig, path: str, x_BG: jax.Array) -> jax.Array:
    """Sum over blocks of P of roll(signs * block, offset), for each repetition, / sqrt(s)."""
    blocks = _blocks(x_BG, config.width)
    key = _key(config.seed, path)
    offset_key = _key(config.seed, path + "/offset")

    def add_block(total_BP, indexed):
        index, block_BP = indexed
        for repetition in range(config.repetitions):
            row = index * jnp.uint32(config.repetitions) + jnp.uint32(repetition)
            offset = _words(offset_key, row) % jnp.uint32(config.width)
            signed_BP = block_BP * _signs(key, row, config.width)[None, :]
            total_BP = total_BP + jnp.roll(signed_BP, offset, axis=1)
        return total_BP, None

    start = jnp.zeros((x_BG.shape[0], config.width), jnp.float32)
    indexed = (jnp.arange(blocks.shape[0], dtype=jnp.uint32), blocks)
    return jax.lax.scan(add_block, start, indexed)[0] / config.repetitions**0.5
