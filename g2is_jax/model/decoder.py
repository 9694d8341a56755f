"""The Llama-family decoder, for one example; the caller vmaps.

Configured by a Hugging Face `config.json`; names as in the checkpoint. Base weights may be
bfloat16; norms, softmax and logits are computed in float32.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from g2is_jax.model.lora import Linear, LoraConfig

LayerCache = tuple[jax.Array, jax.Array]  # keys and values, each (S, K, width of a head)


@dataclass(frozen=True)
class DecoderConfig:
    """Shapes and constants of one decoder, under the names of its `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    max_position_embeddings: int


def rotary_tables(
    positions_T: jax.Array, head_dim: int, base: float
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine (T, head_dim / 2) of the rotary angles p / base^(2 i / head_dim), float32."""
    exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    frequency = 1.0 / base**exponent
    angles = positions_T.astype(jnp.float32)[:, None] * frequency[None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_THD: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Rotate the two halves of each head against each other (Hugging Face's layout)."""
    first, second = jnp.split(x_THD.astype(jnp.float32), 2, axis=-1)
    cosine, sine = cosine[:, None, :], sine[:, None, :]
    rotated = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(rotated, axis=-1).astype(x_THD.dtype)


class RmsNorm(nnx.Module):
    """x / rms(x) * weight, computed in float32."""

    def __init__(self, width: int, eps: float, dtype: jnp.dtype):
        self.weight = nnx.Param(jnp.ones((width,), dtype))
        self.eps = eps

    def __call__(self, x_TD: jax.Array) -> jax.Array:
        x32_TD = x_TD.astype(jnp.float32)
        scale_T1 = jax.lax.rsqrt(jnp.mean(x32_TD**2, axis=-1, keepdims=True) + self.eps)
        weight_D = self.weight[...].astype(jnp.float32)[None, :]
        return (x32_TD * scale_T1 * weight_D).astype(x_TD.dtype)


class Attention(nnx.Module):
    """Causal self-attention with grouped key and value heads."""

    def __init__(self, c: DecoderConfig, dtype: jnp.dtype, lora: LoraConfig):
        self.c = c
        d, q, kv = (
            c.hidden_size,
            c.num_attention_heads * c.head_dim,
            c.num_key_value_heads * c.head_dim,
        )
        self.q_proj = Linear("q_proj", d, q, dtype, lora)
        self.k_proj = Linear("k_proj", d, kv, dtype, lora)
        self.v_proj = Linear("v_proj", d, kv, dtype, lora)
        self.o_proj = Linear("o_proj", q, d, dtype, lora)

    def __call__(self, x_TD, start, cache: LayerCache | None, keys):
        """Attend to what is at or before each token; with a cache, write T entries from `start`."""
        length, head_dim = x_TD.shape[0], self.c.head_dim
        positions_T = start + jnp.arange(length)
        cosine, sine = rotary_tables(positions_T, head_dim, self.c.rope_theta)
        q_THD = rotate(self.q_proj(x_TD, keys[0]).reshape(length, -1, head_dim), cosine, sine)
        k_SKD = rotate(self.k_proj(x_TD, keys[1]).reshape(length, -1, head_dim), cosine, sine)
        v_SKD = self.v_proj(x_TD, keys[2]).reshape(length, -1, head_dim)
        if cache is not None:
            k_SKD = jax.lax.dynamic_update_slice_in_dim(cache[0], k_SKD, start, axis=0)
            v_SKD = jax.lax.dynamic_update_slice_in_dim(cache[1], v_SKD, start, axis=0)
            cache = (k_SKD, v_SKD)
        mask_TS = jnp.arange(k_SKD.shape[0])[None, :] <= positions_T[:, None]
        y_THD = jax.nn.dot_product_attention(q_THD, k_SKD, v_SKD, mask=mask_TS[None])
        return self.o_proj(y_THD.reshape(length, -1), keys[3]), cache


class Mlp(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, c: DecoderConfig, dtype: jnp.dtype, lora: LoraConfig):
        self.gate_proj = Linear("gate_proj", c.hidden_size, c.intermediate_size, dtype, lora)
        self.up_proj = Linear("up_proj", c.hidden_size, c.intermediate_size, dtype, lora)
        self.down_proj = Linear("down_proj", c.intermediate_size, c.hidden_size, dtype, lora)

    def __call__(self, x_TD, keys):
        gate_TF = jax.nn.silu(self.gate_proj(x_TD, keys[0]))
        return self.down_proj(gate_TF * self.up_proj(x_TD, keys[1]), keys[2])


class Block(nnx.Module):
    """Attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, c: DecoderConfig, dtype: jnp.dtype, lora: LoraConfig):
        self.input_layernorm = RmsNorm(c.hidden_size, c.rms_norm_eps, dtype)
        self.self_attn = Attention(c, dtype, lora)
        self.post_attention_layernorm = RmsNorm(c.hidden_size, c.rms_norm_eps, dtype)
        self.mlp = Mlp(c, dtype, lora)

    def __call__(self, x_TD, start, cache: LayerCache | None, key: jax.Array | None):
        keys = [None] * 7 if key is None else list(jax.random.split(key, 7))
        attended_TD, cache = self.self_attn(self.input_layernorm(x_TD), start, cache, keys[:4])
        x_TD = x_TD + attended_TD
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD), keys[4:]), cache


class Decoder(nnx.Module):
    """Token ids (T,) to hidden states (T, D); `logits` to (T, V) in float32."""

    def __init__(self, c: DecoderConfig, dtype: jnp.dtype, lora: LoraConfig, remat: bool):
        self.remat = remat
        self.embed_tokens = nnx.Param(jnp.zeros((c.vocab_size, c.hidden_size), dtype))
        self.layers = nnx.List([Block(c, dtype, lora) for _ in range(c.num_hidden_layers)])
        self.norm = RmsNorm(c.hidden_size, c.rms_norm_eps, dtype)
        if not c.tie_word_embeddings:
            self.lm_head = nnx.Param(jnp.zeros((c.vocab_size, c.hidden_size), dtype))
        self.tied = c.tie_word_embeddings

    def __call__(self, tokens_T, start=0, caches: list[LayerCache] | None = None, key=None):
        """Hidden states and caches; `start` is the position of the first token."""
        x_TD = self.embed_tokens[...][tokens_T]
        new_caches = []
        for index, block in enumerate(self.layers):
            key_block = None if key is None else jax.random.fold_in(key, index)
            cache = None if caches is None else caches[index]
            run = jax.checkpoint(block) if self.remat else block
            x_TD, cache = run(x_TD, start, cache, key_block)
            new_caches.append(cache)
        return self.norm(x_TD), new_caches

    def logits(self, x_TD: jax.Array) -> jax.Array:
        head_VD = self.embed_tokens[...] if self.tied else self.lm_head[...]
        return jnp.einsum("td,vd->tv", x_TD, head_VD, preferred_element_type=jnp.float32)
