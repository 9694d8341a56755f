"""The decoder of all supported families, for one example; the caller vmaps.

Parameters bear the checkpoint's names. Norms, softmax and logits are computed in float32, all
else in the dtype of the activations.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from g2is_jax.model.attention import Attention, LayerCache, Tables, positions_in, rotary_tables
from g2is_jax.model.config import DecoderConfig
from g2is_jax.model.lora import Linear, LoraConfig
from g2is_jax.model.norm import RmsNorm

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class Mlp(nnx.Module):
    """The gated MLP: down(activation(gate(x)) * up(x))."""

    def __init__(self, c: DecoderConfig, path: str, dtype: jnp.dtype, lora: LoraConfig):
        d, f = c.hidden_size, c.intermediate_size
        self.activation = c.activation
        self.gate_proj = Linear(f"{path}.gate_proj", d, f, c.mlp_bias, dtype, lora)
        self.up_proj = Linear(f"{path}.up_proj", d, f, c.mlp_bias, dtype, lora)
        self.down_proj = Linear(f"{path}.down_proj", f, d, c.mlp_bias, dtype, lora)

    def __call__(self, x_TD, keys):
        gate_TF = ACTIVATIONS[self.activation](self.gate_proj(x_TD, keys[0]))
        return self.down_proj(gate_TF * self.up_proj(x_TD, keys[1]), keys[2])


class Block(nnx.Module):
    """Attention and MLP, each with a residual and the norms of the family."""

    def __init__(
        self, c: DecoderConfig, index: int, dtype: jnp.dtype, kernel: str, lora: LoraConfig
    ):
        path = f"layers.{index}"
        self.norms = c.norms
        self.self_attn = Attention(c, c.layers[index], f"{path}.self_attn", dtype, kernel, lora)
        self.mlp = Mlp(c, f"{path}.mlp", dtype, lora)
        for name in vars(c.norms).values():
            if name is not None:
                setattr(self, name, RmsNorm(c.hidden_size, c, dtype))

    def __call__(self, x_TD, start, tables: Tables, segments_T, cache: LayerCache | None, keys_T):
        keys = [None] * 7 if keys_T is None else list(jax.vmap(_seven, out_axes=1)(keys_T))
        y_TD, cache = self.self_attn(
            self._norm(self.norms.before_attention, x_TD),
            start,
            tables,
            segments_T,
            cache,
            keys[:4],
        )
        x_TD = x_TD + self._norm(self.norms.after_attention, y_TD)
        y_TD = self.mlp(self._norm(self.norms.before_mlp, x_TD), keys[4:])
        return x_TD + self._norm(self.norms.after_mlp, y_TD), cache

    def _norm(self, name: str | None, x_TD: jax.Array) -> jax.Array:
        return x_TD if name is None else getattr(self, name)(x_TD)


def _seven(key: jax.Array) -> jax.Array:
    return jax.random.split(key, 7)


_of_layer = jax.vmap(jax.random.fold_in, in_axes=(0, None))


def _is_kept(primitive, *_, **__) -> bool:
    """A policy of `jax.checkpoint`: keeps all but gathered weights, cast or transposed."""
    return primitive.name not in ("all_gather", "convert_element_type", "transpose")


class Decoder(nnx.Module):
    """Token ids (T,) to hidden states (T, D); `logits` to (T, V) in float32."""

    def __init__(
        self,
        c: DecoderConfig,
        dtype: jnp.dtype,
        activations: jnp.dtype,
        kernel: str,
        lora: LoraConfig,
        remat: bool,
    ):
        self.c, self.activations, self.remat = c, activations, remat
        self.embed_tokens = nnx.Param(jnp.zeros((c.vocab_size, c.hidden_size), dtype))
        self.layers = nnx.List([Block(c, i, dtype, kernel, lora) for i in range(len(c.layers))])
        self.norm = RmsNorm(c.hidden_size, c, dtype)
        if not c.tie_word_embeddings:
            self.lm_head = nnx.Param(jnp.zeros((c.vocab_size, c.hidden_size), dtype))

    def __call__(
        self,
        tokens_T,
        start=0,
        caches: list[LayerCache] | None = None,
        key=None,
        segments_T=None,
    ):
        """Hidden states and caches; `start` is the position of the first token.

        `segments_T`: the packed row that each token belongs to; positions restart in each row.
        `key`: of the row, or of each token's row (T,); what a token drops depends on that and on
        its position.
        """
        positions_T = start + jnp.arange(tokens_T.shape[0])
        if segments_T is not None:
            positions_T = positions_in(segments_T)
        keys_T = None
        if key is not None:
            keys_T = jnp.broadcast_to(key, positions_T.shape)
            keys_T = jax.vmap(jax.random.fold_in)(keys_T, positions_T)
        tables = rotary_tables(positions_T, self.c.head_dim, self.c.rope)
        x_TD = self.embed_tokens[...][tokens_T].astype(self.activations)
        x_TD = x_TD * jnp.asarray(self.c.embedding_scale, self.activations)
        new_caches = []
        for index, block in enumerate(self.layers):
            keys_block_T = None if keys_T is None else _of_layer(keys_T, index)
            cache = None if caches is None else caches[index]
            run = self._checkpointed(block)
            x_TD, cache = run(x_TD, start, tables, segments_T, cache, keys_block_T)
            new_caches.append(cache)
        return self.norm(x_TD), new_caches

    def _checkpointed(self, block: Block) -> Callable:
        """The block under the policy of what is kept for its backward pass.

        With remat that is nothing, and with a base sharded all but the gathered weights.
        """
        if self.remat:
            return jax.checkpoint(block)
        if not block.mlp.down_proj.is_sharded:
            return block
        return jax.checkpoint(block, policy=_is_kept)

    def logits(self, x_TD: jax.Array) -> jax.Array:
        """Logits (T, V) of hidden states after the last norm, in float32."""
        head_VD = self.embed_tokens[...] if self.c.tie_word_embeddings else self.lm_head[...]
        logits_TV = jnp.einsum(
            "td,vd->tv", x_TD, head_VD.astype(x_TD.dtype), preferred_element_type=jnp.float32
        )
        cap = self.c.logit_softcap
        return logits_TV if cap is None else cap * jnp.tanh(logits_TV / cap)
