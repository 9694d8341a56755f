"""Batched greedy decoding with a key/value cache of fixed shape."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from g2is_jax.model.build import Model


@functools.cache
def greedy_function(model: Model, new_tokens: int, ends: tuple[int, ...]) -> Callable:
    """Jitted (adapter, base, prompts_BT, lengths_B) -> continuation (B, new_tokens) int32.

    Prompts are padded on the right. After one of `ends` a row repeats that token; decoding stops
    once every row has ended.
    """

    def has_ended(tokens_B):
        return jnp.isin(tokens_B, jnp.asarray(ends, jnp.int32))

    def greedy(adapter, base, prompts_BT, lengths_B):
        batch, width = prompts_BT.shape
        caches = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf[None], (batch, *leaf.shape)),
            model.empty_caches(width + new_tokens),
        )
        step = jax.vmap(functools.partial(model.step, adapter, base))
        starts_B = jnp.zeros(batch, jnp.int32)
        hidden_BTD, caches = step(prompts_BT, starts_B, caches)
        last_BTD = jnp.take_along_axis(hidden_BTD, (lengths_B - 1)[:, None, None], axis=1)

        def choose(hidden_BTD):
            return jnp.argmax(model.head(base, hidden_BTD[:, 0]), axis=-1).astype(jnp.int32)

        def advance(state):
            index, current_B, caches, out_BT = state
            hidden_BTD, caches = step(current_B[:, None], lengths_B + index - 1, caches)
            next_B = jnp.where(has_ended(current_B), current_B, choose(hidden_BTD))
            return index + 1, next_B, caches, out_BT.at[:, index].set(next_B)

        def unfinished(state):
            index, current_B, _, _ = state
            return (index < new_tokens) & ~jnp.all(has_ended(current_B))

        first_B = choose(last_BTD)
        out_BT = jnp.zeros((batch, new_tokens), jnp.int32).at[:, 0].set(first_B)
        state = (jnp.int32(1), first_B, caches, out_BT)
        index, current_B, _, out_BT = jax.lax.while_loop(unfinished, advance, state)
        unset_T = jnp.arange(new_tokens) >= index
        return jnp.where(unset_T[None, :], current_B[:, None], out_BT)

    return jax.jit(greedy)


def until_end(tokens_T: Sequence[int] | np.ndarray, ends: tuple[int, ...]) -> list[int]:
    """The tokens before the first of `ends`."""
    kept = []
    for token in tokens_T:
        if int(token) in ends:
            break
        kept.append(int(token))
    return kept
