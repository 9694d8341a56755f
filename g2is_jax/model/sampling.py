"""Chooses the next token: the likeliest, or a draw at a temperature from the likeliest few."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from g2is_jax.runs.errors import InputError

LOWEST_TEMPERATURE = 1e-6  # below it logits / temperature overflow float32
BITS = 31  # of a non-negative float32


@dataclass(frozen=True)
class GenerateConfig:
    """The settings of generation.

    new_tokens: the longest reply, in tokens. temperature: 0 takes the likeliest token, draws
    nothing. top_p: draw from the fewest tokens that hold this share of the probability; 1: all.
    """

    new_tokens: int
    temperature: float
    top_p: float
    seed: int

    def __post_init__(self):
        if self.new_tokens < 1:
            raise InputError(f"new_tokens = {self.new_tokens}; it must be at least 1")
        drawable = LOWEST_TEMPERATURE <= self.temperature < math.inf
        if self.temperature != 0 and not drawable:
            raise InputError(
                f"temperature = {self.temperature}; it must be 0 (the likeliest token) "
                f"or at least {LOWEST_TEMPERATURE}"
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p = {self.top_p}; it must be above 0 and at most 1")


def row_keys(seed: int, row_ids_B: jax.Array) -> jax.Array:
    """A random key for each row, from seed and id alone, by the same generator on any backend."""
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(row_ids_B)


def choose(
    logits_BV: jax.Array, keys_B: jax.Array, step: jax.Array, temperature: float, top_p: float
) -> jax.Array:
    """The next token (B,) int32, a function of each row's key, step and logits alone.

    Computed as transformers' TemperatureLogitsWarper and then TopPLogitsWarper, in float32.
    """
    if temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

    def draw(logits_V, key):
        scaled_V = logits_V / temperature
        if top_p < 1:
            scaled_V = jnp.where(nucleus(scaled_V, top_p), scaled_V, -jnp.inf)
        return jax.random.categorical(jax.random.fold_in(key, step), scaled_V)

    return jax.vmap(draw)(logits_BV.astype(jnp.float32), keys_B).astype(jnp.int32)


def nucleus(logits_V: jax.Array, top_p: float) -> jax.Array:
    """The mask (V,) of the fewest tokens, likeliest first, whose probabilities reach `top_p`.

    It is never empty. Differs from the reference (transformers' TopPLogitsWarper): tokens as
    likely as the last one kept are kept too, where it breaks the tie by an unstable sort. No sort
    is needed, which a TPU's compiler takes a minute for: the least probability that is kept is
    found bit by bit, as non-negative numbers are ordered as their bits are.
    """
    weights_V = jax.nn.softmax(logits_V)
    bits_V = jax.lax.bitcast_convert_type(weights_V, jnp.int32)

    def try_bit(place, least):
        raised = least | (1 << (BITS - 1 - place))
        kept = jnp.sum(jnp.where(bits_V >= raised, weights_V, 0.0))
        return jnp.where(kept >= top_p, raised, least)

    least = jax.lax.fori_loop(0, BITS, try_bit, jnp.int32(0))
    return bits_V >= jnp.minimum(least, jnp.max(bits_V))
