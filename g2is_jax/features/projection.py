"""Random projection of a flattened gradient to P values, leaf by leaf; no matrix is ever stored.

All kinds are linear and satisfy E<y, y'> = <x, x'>. Every random bit is a function of (seed, leaf
path, position), so batch size, order, device and backend cannot change a feature.

Bits come in words of 32, lowest bit first; a set bit is the sign -1. With the keys k0 and k1, the
two little-endian words of BLAKE2b-64 of "<seed>/<leaf path>", word c is mix(mix(c ^ k0) + k1).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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
    return _rademacher(config, flat) if config.kind == "rademacher" else _sketch(config, flat)


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


class _Blocks(NamedTuple):
    """The values of all leaves, cut into blocks that one scan goes through (one compiled body).

    key: of each block's leaf, (n,) twice. place: of the block in its leaf, (n,).
    values: (n, B, size), zero-padded at the end of a leaf.
    """

    key: tuple[jax.Array, jax.Array]
    place: jax.Array
    values: jax.Array


def _blocks(seed: int, flat: dict[str, jax.Array], size: int) -> _Blocks:
    """Cut leaves (B, G) into blocks of `size` values; no block spans two leaves."""
    keys, indices, values = [], [], []
    for path, x_BG in flat.items():
        batch, length = x_BG.shape
        count = -(-length // size)
        padded = jnp.pad(x_BG, ((0, 0), (0, count * size - length)))
        values.append(padded.reshape(batch, count, size).transpose(1, 0, 2))
        keys += [_key(seed, path)] * count
        indices.append(np.arange(count, dtype=np.uint32))
    first, second = np.array(keys, np.uint32).T
    return _Blocks(
        (jnp.asarray(first), jnp.asarray(second)),
        jnp.asarray(np.concatenate(indices)),
        jnp.concatenate(values),
    )


def _sum_over(blocks: _Blocks, width: int, one: Callable[..., jax.Array]) -> jax.Array:
    """Sum over blocks of one(key, place, values_BG): (B, width)."""

    def add(total_BP, block: _Blocks):
        return total_BP + one(*block), None

    start = jnp.zeros((blocks.values.shape[1], width), jnp.float32)
    return jax.lax.scan(add, start, blocks)[0]


def _rademacher(config: ProjectionConfig, flat: dict[str, jax.Array]) -> jax.Array:
    """x S / sqrt(P), with the (G, P) signs made block by block."""

    def product(key, place, values_BG):
        rows = place * jnp.uint32(SIGN_BLOCK) + jnp.arange(SIGN_BLOCK, dtype=jnp.uint32)
        signs_GP = jax.vmap(lambda row: _signs(key, row, config.width))(rows)
        return jnp.matmul(values_BG, signs_GP, precision=jax.lax.Precision.HIGHEST)

    blocks = _blocks(config.seed, flat, SIGN_BLOCK)
    return _sum_over(blocks, config.width, product) / config.width**0.5


def _sketch(config: ProjectionConfig, flat: dict[str, jax.Array]) -> jax.Array:
    """Sum over blocks of P of roll(signs * block, offset), for each repetition, / sqrt(s)."""

    def rolled(key, place, values_BP):
        total_BP = jnp.zeros_like(values_BP)
        for repetition in range(config.repetitions):
            row = place * jnp.uint32(config.repetitions) + jnp.uint32(repetition)
            # The signs use the counters from 0 up; the offsets those from the top down.
            offset = _words(key, ~row) % jnp.uint32(config.width)
            signed_BP = values_BP * _signs(key, row, config.width)[None, :]
            total_BP = total_BP + jnp.roll(signed_BP, offset, axis=1)
        return total_BP

    blocks = _blocks(config.seed, flat, config.width)
    return _sum_over(blocks, config.width, rolled) / config.repetitions**0.5
