"""The decoder of all supported families, for one example; the caller vmaps.

Parameters bear the checkpoint's names. Norms, softmax and logits are computed in float32, all
else in the dtype of the activations. Layers that repeat are scanned over (`model/stacks.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from g2is_jax.model.attention import LayerCache, Slot
from g2is_jax.model.block import BlockGraph, Pass
from g2is_jax.model.config import DecoderConfig
from g2is_jax.model.lora import Leaves
from g2is_jax.model.norm import normalised
from g2is_jax.model.rope import positions_in, tables_of_layers
from g2is_jax.model.sharing import shared_product, shared_rows
from g2is_jax.model.stacks import Stack
from g2is_jax.runs.mesh import whole


class Taps(NamedTuple):
    """Holds what each adapter leaf passes through on its way into its layer.

    through: (leaf, sums, state) -> (leaf, sums). states: by leaf path, stacked as the leaves are.
    sums: handed from leaf to leaf.
    """

    through: Callable[[jax.Array, Any, Any], tuple[jax.Array, Any]]
    states: dict[str, Any]
    sums: Any


class Carry(NamedTuple):
    """Goes from layer to layer: hidden states, the taps' sums, and a stack's cache to write to."""

    x_TD: jax.Array
    sums: Any
    cache: LayerCache | None


@dataclass(frozen=True, eq=False)
class Decoder:
    """The decoder without its parameters; these are flat dictionaries from leaf path to array.

    blocks: of each stack.
    """

    c: DecoderConfig
    activations: jnp.dtype
    stacks: tuple[Stack, ...]
    blocks: tuple[BlockGraph, ...]

    def hidden(
        self,
        leaves: Leaves,
        tokens_T,
        start=0,
        caches: list[LayerCache] | None = None,
        key=None,
        segments_T=None,
        taps: Taps | None = None,
    ):
        """Hidden states (T, D) after the last norm, and the cache of each stack.

        `start` is the position of the first token. `segments_T`: the packed row that each token
        belongs to; positions restart in each row. `key`: of the row, or of each token's row (T,);
        what a token drops depends on that and on its position.
        """
        positions_T = start + jnp.arange(tokens_T.shape[0])
        if segments_T is not None:
            positions_T = positions_in(segments_T)
        keys_T = None
        if key is not None:
            keys_T = jnp.broadcast_to(key, positions_T.shape)
            keys_T = jax.vmap(jax.random.fold_in)(keys_T, positions_T)
        tables = tables_of_layers(positions_T, self.c)
        x_TD = shared_rows(leaves["embed_tokens"], self._table, tokens_T).astype(self.activations)
        x_TD = x_TD * jnp.asarray(self.c.embedding_scale, self.activations)
        through, states, sums = taps if taps is not None else (None, {}, None)
        shared, new_caches = Pass(start, tables, segments_T, keys_T, through), []
        for number in range(len(self.stacks)):
            carry = Carry(x_TD, sums, None if caches is None else caches[number])
            (x_TD, sums, written), made = self._run_stack(number, leaves, states, carry, shared)
            new_caches.append(made if caches is None else written)
        return normalised(x_TD, leaves["norm.weight"], self.c), new_caches

    def _run_stack(self, number: int, leaves: Leaves, states: dict, carry: Carry, shared: Pass):
        """Runs the layers of one stack; also returns the keys and values that no cache took."""
        stack, block = self.stacks[number], self.blocks[number]
        prefix = f"layers.{stack.name}."

        def run_layer(carry: Carry, of_layer):
            (leaves, states), place, kind = of_layer
            x_TD, sums, cache = carry
            slot = None if cache is None else Slot(cache, place if stack.count > 1 else None)
            layer = stack.first + place
            x_TD, sums, found = block(shared, leaves, states, x_TD, sums, slot, layer, kind)
            if cache is None:
                return Carry(x_TD, sums, None), found
            return Carry(x_TD, sums, found), None

        parts = _under(prefix, leaves), _under(prefix, states)
        if stack.count == 1:
            return run_layer(carry, (parts, 0, 0))
        kinds_L = jnp.asarray([block.kinds.index(self.c.layers[layer]) for layer in stack.layers])
        return jax.lax.scan(run_layer, carry, (parts, jnp.arange(stack.count), kinds_L))

    def head_weights(self, leaves: Leaves) -> jax.Array:
        """The head's matrix (V, D), gathered where devices share it."""
        return whole(self.head_part(leaves), self._table)

    def logits(self, head_VD: jax.Array, x_TD: jax.Array) -> jax.Array:
        """Logits (T, V) of hidden states after the last norm, in float32.

        `head_VD`: the whole head, or the part of it that this device holds.
        """
        logits_TV = shared_product(x_TD, head_VD, self._table, head_VD.dtype)
        cap = self.c.logit_softcap
        return logits_TV if cap is None else cap * jnp.tanh(logits_TV / cap)

    def head_part(self, leaves: Leaves) -> jax.Array:
        """The head's matrix (V, D), or the part of it that this device holds."""
        return leaves["embed_tokens" if self.c.tie_word_embeddings else "lm_head"]

    @property
    def _table(self) -> tuple[int, int]:
        return self.c.vocab_size, self.c.hidden_size


def _under(prefix: str, leaves: dict) -> dict:
    """Returns the leaves whose paths begin so, by the rest of their paths."""
    return {p.removeprefix(prefix): leaf for p, leaf in leaves.items() if p.startswith(prefix)}
