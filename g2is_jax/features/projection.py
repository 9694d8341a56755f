"""Random projection of a flattened gradient to P values, leaf by leaf; no matrix is ever stored.

All kinds are linear and satisfy E<y, y'> = <x, x'>. Every random bit is a function of (seed, leaf
path, position), so batch size, order, device and backend cannot change a feature. The sum over
leaves of a projection of each is a projection of the whole.

A row of W words, W = ceil(P / 32), holds the signs of P values: bit i of word w is that of place
i W + w, and a set bit is the sign -1. With the keys k0 and k1, the two little-endian words of
BLAKE2b-64 of "<seed>/<leaf path>", word c is mix(mix(c ^ k0) + k1).
"""

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from g2is_jax.runs.errors import InputError

KINDS = ("rademacher", "sketch", "none")
HASHED_ROWS, SIGN_ROWS = 2048, 512  # rows of a sign table that are hashed, and spelt out, at once
WORD = 32
ONE, SIGN_BIT = 0x3F800000, 0x80000000  # bits of 1.0, and of the sign, in float32

Bits = dict[str, Any]  # the random bits of each leaf path, or the key that they are made from
Shapes = dict[str, tuple[int, ...]]  # by leaf path, without the batch


@dataclass(frozen=True)
class ProjectionConfig:
    """`rademacher`: dense signs / sqrt(P), as LESS. `sketch`: signed, rotated blocks of P, added
    up, `repetitions` times. `none`: the gradient itself (width is then ignored)."""

    kind: str
    width: int
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


def random_bits(config: ProjectionConfig, seed: int, shapes: Shapes) -> Bits:
    """The bits that the projection of each leaf depends on; an argument of compiled code.

    For the sketch: words of signs (n, W), and offsets (n,), for n = blocks times repetitions. Where
    nothing is projected: the place of the leaf's first value.
    """
    bits: Bits = {}
    if config.kind == "none":
        ends = np.cumsum([math.prod(shapes[path]) for path in sorted(shapes)])
        begins = [0, *ends[:-1].tolist()] if shapes else []
        return {path: jnp.int32(begin) for path, begin in zip(sorted(shapes), begins, strict=True)}
    keys = {path: jnp.asarray(_key(seed, path)) for path in shapes}
    if config.kind != "sketch":
        return keys
    for path, shape in shapes.items():
        rows = -(-math.prod(shape) // config.width) * config.repetitions
        # The signs use the counters from 0 up; the offsets those from the top down.
        offsets_N = _hashed(keys[path], ~jnp.arange(rows, dtype=jnp.uint32))
        offsets_N = (offsets_N % jnp.uint32(config.width)).astype(jnp.int32)
        bits[path] = (words(keys[path], 0, rows, config.width), offsets_N)
    return bits


def features_width(config: ProjectionConfig, shapes: Shapes) -> int:
    """The width P of a feature: that of the config, or all G values where nothing is projected."""
    return sum(map(math.prod, shapes.values())) if config.kind == "none" else config.width


def empty_sum(config: ProjectionConfig, shapes: Shapes) -> jax.Array:
    """The sum to which the leaves of one example are added; `finished` makes the feature of it."""
    width = features_width(config, shapes)
    # The sketch adds blocks at any offset: twice the width, and none has to wrap around.
    return jnp.zeros(2 * width if config.kind == "sketch" else width, jnp.float32)


def finished(config: ProjectionConfig, total: jax.Array) -> jax.Array:
    """The feature (..., P) that a sum over all leaves stands for."""
    if config.kind == "none":
        return total
    if config.kind == "rademacher":
        return total / config.width**0.5
    return (total[..., : config.width] + total[..., config.width :]) / config.repetitions**0.5


def add_leaf(config: ProjectionConfig) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    """The function (bits, x_G, total) -> total that adds a leaf's values to its example's sum.

    Under vmap all examples go through it together and share the signs.
    """
    if config.kind == "rademacher":
        batched = functools.partial(_rademacher, config.width)
    elif config.kind == "sketch":
        batched = functools.partial(_sketch, config.width, config.repetitions)
    else:
        return _add_at

    @jax.custom_batching.custom_vmap
    def of_example(bits, x_G, total):
        return batched(bits, x_G[None], total[None])[0]

    @of_example.def_vmap
    def _(axis_size, in_batched, bits, *values):
        assert not any(jax.tree.leaves(in_batched[0])), "the signs are shared by a batch"
        rows = [
            value if is_batched else jnp.broadcast_to(value[None], (axis_size, *value.shape))
            for value, is_batched in zip(values, in_batched[1:], strict=True)
        ]
        return batched(bits, *rows), True

    return of_example


def _add_at(begin: jax.Array, x_G: jax.Array, total_G: jax.Array) -> jax.Array:
    place_G = jax.lax.dynamic_slice_in_dim(total_G, begin, len(x_G))
    return jax.lax.dynamic_update_slice_in_dim(total_G, place_G + x_G, begin, 0)


def fold(features_NP: np.ndarray, seed: int) -> np.ndarray:
    """Adds the second half of each row, under fixed signs, onto the first: a projection to P / 2.

    Needs no factor: both kinds keep E|y|^2 = |x|^2, and the halves' norms add up. InputError for an
    odd width.
    """
    width = features_NP.shape[1]
    if width % 2:
        raise InputError(f"features of width {width} cannot be folded; use an even width")
    key = jnp.asarray(_key(seed, f"fold-{width}"))
    signs_P = np.asarray(sign_rows(words(key, 0, 1, width // 2), width // 2))[0]
    return features_NP[:, : width // 2] + features_NP[:, width // 2 :] * signs_P[None, :]


def sign_rows(words_NW: jax.Array, width: int) -> jax.Array:
    """Signs (N, width), +1 or -1 in float32, that rows of words hold."""
    bits = _sign_bits(words_NW, width) | jnp.uint32(ONE)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def words(key: jax.Array, first: jax.Array | int, rows: int, width: int) -> jax.Array:
    """Random words (rows, W): rows from `first` on of a key's table.

    On a CPU, XLA hashes a word anew for each of its 32 signs unless a loop stands between this and
    `sign_rows`.
    """
    per_row = -(-width // WORD)
    begin = jnp.asarray(first).astype(jnp.uint32) * jnp.uint32(per_row)
    counters = jnp.arange(rows * per_row, dtype=jnp.uint32) + begin
    return _hashed(key, counters).reshape(rows, per_row)


def sign_words(seed: int, name: str, rows: int, width: int) -> jax.Array:
    """The random words (rows, W) of a matrix of signs with this name."""
    return words(jnp.asarray(_key(seed, name)), 0, rows, width)


def _key(seed: int, name: str) -> np.ndarray:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return np.frombuffer(digest, "<u4").astype(np.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """A bijective 32-bit finaliser in which every input bit flips half of the output bits."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _hashed(key: jax.Array, counters: jax.Array) -> jax.Array:
    return _mix(_mix(counters ^ key[0]) + key[1])


def _sign_bits(words_NW: jax.Array, width: int) -> jax.Array:
    """The signs as float32's sign bits, all other bits 0: (N, width) uint32."""
    shifts = jnp.arange(WORD - 1, -1, -1, dtype=jnp.uint32)
    bits = (words_NW[:, None, :] << shifts[None, :, None]) & jnp.uint32(SIGN_BIT)
    return bits.reshape(len(words_NW), -1)[:, :width]


def _rademacher(width: int, key: jax.Array, x_BG: jax.Array, total_BP: jax.Array) -> jax.Array:
    """total + x S, with the (G, P) signs made some rows at a time."""

    def hashed(first, x_BR, total_BP):
        words_RW = words(key, first, x_BR.shape[1], width)

        def product(start, x_BS, total_BP):
            part_SW = jax.lax.dynamic_slice_in_dim(words_RW, start, x_BS.shape[1])
            signs_SP = sign_rows(part_SW, width)
            return total_BP + times_signs(x_BS, signs_SP)

        return _over_blocks(SIGN_ROWS, x_BR, product, total_BP)

    return _over_blocks(HASHED_ROWS, x_BG, hashed, total_BP)


def times_signs(x_BS: jax.Array, signs_SP: jax.Array) -> jax.Array:
    """x S in float32, for signs of +1 and -1: by `in_float32` on a CPU, else by `in_two_parts`.

    A CPU without a matrix unit for bfloat16 takes 2.4 times as long for the parts.
    """
    # By the backend that the program is compiled for, which need not be that of this process.
    return jax.lax.platform_dependent(x_BS, signs_SP, cpu=in_float32, default=in_two_parts)


def in_float32(x_BS: jax.Array, signs_SP: jax.Array) -> jax.Array:
    """The product with every bit of x: six passes of bfloat16 products on a TPU."""
    return jnp.matmul(x_BS, signs_SP, precision=jax.lax.Precision.HIGHEST)


def in_two_parts(x_BS: jax.Array, signs_SP: jax.Array) -> jax.Array:
    """The product of bfloat16(x) and of bfloat16(the rest of x), added up in float32.

    Signs are exact in bfloat16, so two passes do: each value of x is off by at most 2^-17 of it.
    """
    # Not by a cast there and back, which XLA may leave out: the rest would be 0.
    high_BS = jax.lax.reduce_precision(x_BS, exponent_bits=8, mantissa_bits=7)
    parts = (high_BS.astype(jnp.bfloat16), (x_BS - high_BS).astype(jnp.bfloat16))
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
    high_BP, low_BP = (product(part_BS, signs_SP.astype(jnp.bfloat16)) for part_BS in parts)
    return high_BP + low_BP


def _sketch(
    width: int,
    repetitions: int,
    bits: tuple[jax.Array, jax.Array],
    x_BG: jax.Array,
    total_BQ: jax.Array,
) -> jax.Array:
    """total + the sum over blocks of P, and repetitions, of shift(signs * block, offset); Q = 2 P.

    Adding the sum's halves at the end makes the shifts rotations.
    """
    words_NW, offsets_N = bits
    whole, rest = divmod(x_BG.shape[1], width)

    def signs(block):
        """The signs of one block for each repetition, (repetitions, P)."""
        rows = jax.lax.dynamic_slice_in_dim(words_NW, block * repetitions, repetitions)
        return _sign_bits(rows, width)

    def add(block, signs_SP, x_BR, total_BQ):
        size = x_BR.shape[1]
        for repetition in range(repetitions):
            flipped_BR = _flipped(x_BR, signs_SP[repetition, :size])
            row = block * repetitions + repetition
            offset = jax.lax.dynamic_index_in_dim(offsets_N, row, keepdims=False)
            place_BR = jax.lax.dynamic_slice_in_dim(total_BQ, offset, size, axis=1)
            total_BQ = jax.lax.dynamic_update_slice_in_dim(
                total_BQ, place_BR + flipped_BR, offset, axis=1
            )
        return total_BQ

    def step(block, carry):
        total_BQ, signs_SP = carry
        x_BP = jax.lax.dynamic_slice_in_dim(x_BG, block * width, width, axis=1)
        # Spelt out a step ahead, so that the rows share the signs: XLA would fuse them otherwise.
        return add(block, signs_SP, x_BP, total_BQ), signs(block + 1)

    if whole:
        carry = (total_BQ, signs(jnp.int32(0)))
        total_BQ, _ = jax.lax.fori_loop(0, whole, step, carry)
    if not rest:
        return total_BQ
    block = jnp.int32(whole)
    return add(block, signs(block), x_BG[:, whole * width :], total_BQ)


def _flipped(x_BR: jax.Array, signs_R: jax.Array) -> jax.Array:
    """The values of x, their signs changed where `_sign_bits` says so."""
    bits_BR = jax.lax.bitcast_convert_type(x_BR, jnp.uint32) ^ signs_R[None, :]
    return jax.lax.bitcast_convert_type(bits_BR, jnp.float32)


def _over_blocks(size: int, x_BG: jax.Array, add: Callable, total: jax.Array) -> jax.Array:
    """Folds add(first, x_BR, total) over blocks of `size` values; the last may be smaller."""
    whole, rest = divmod(x_BG.shape[1], size)

    def add_block(index, total):
        first = index * size
        return add(first, jax.lax.dynamic_slice_in_dim(x_BG, first, size, axis=1), total)

    if whole:
        total = jax.lax.fori_loop(0, whole, add_block, total)
    return add(jnp.int32(whole * size), x_BG[:, whole * size :], total) if rest else total
