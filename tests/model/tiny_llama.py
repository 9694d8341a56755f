"""Random tiny Llamas, ours and transformers'; no two sizes are equal, so no transpose can pass."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from g2is_jax.model.build import Model, build_model, load_model
from g2is_jax.model.decoder import DecoderConfig
from g2is_jax.model.lora import Leaves, LoraConfig

CONFIG = DecoderConfig(
    vocab_size=131,
    hidden_size=42,
    intermediate_size=53,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=10,
    rope_theta=1234.5,
    rms_norm_eps=3e-4,
    tie_word_embeddings=False,
    max_position_embeddings=1024,
)
NO_LORA = LoraConfig(rank=0, alpha=1.0, dropout=0.0, targets=())
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def lora(*targets: str, dropout: float = 0.0) -> LoraConfig:
    return LoraConfig(rank=3, alpha=7.0, dropout=dropout, targets=targets or ALL_LINEAR)


def random_base(model: Model, seed: int = 0) -> Leaves:
    """Weights of a size at which attention is far from uniform and logits are of order one."""
    rng = np.random.default_rng(seed)
    base = {}
    for path, shape in sorted(model.base_shapes.items()):
        noise = rng.normal(size=shape) * (0.3 if len(shape) == 1 else 1.2 * shape[1] ** -0.5)
        base[path] = jnp.asarray(noise + (len(shape) == 1), model.dtype)
    return base


def random_adapter(model: Model, seed: int = 0) -> Leaves:
    """Also B is away from zero: at B = 0 every gradient of A vanishes."""
    rng = np.random.default_rng(seed)
    return {
        path: jnp.asarray(0.2 * rng.normal(size=shape), jnp.float32)
        for path, shape in sorted(model.adapter_shapes.items())
    }


def random_tokens(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, length).astype(np.int32)


def random_llama(torch, tied: bool = False, seed: int = 0):
    """transformers' model of the same shapes, in eager attention and float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=CONFIG.vocab_size,
        hidden_size=CONFIG.hidden_size,
        intermediate_size=CONFIG.intermediate_size,
        num_hidden_layers=CONFIG.num_hidden_layers,
        num_attention_heads=CONFIG.num_attention_heads,
        num_key_value_heads=CONFIG.num_key_value_heads,
        head_dim=CONFIG.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": CONFIG.rope_theta},
        rms_norm_eps=CONFIG.rms_norm_eps,
        tie_word_embeddings=tied,
        max_position_embeddings=CONFIG.max_position_embeddings,
        attn_implementation="eager",
        dtype="float32",
    )
    llama = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in llama.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=1.2 * parameter.shape[1] ** -0.5)
    return llama


def both(
    torch, folder: Path, tied: bool = False, config: LoraConfig = NO_LORA, dtype: str = "float32"
):
    """transformers' model, and ours with the weights that it saved to the folder."""
    llama = random_llama(torch, tied)
    llama.save_pretrained(folder)
    return llama, *load_model(epath.Path(folder), config, dtype, remat=False)


@functools.cache
def ours(tied: bool = False, config: LoraConfig = NO_LORA, remat: bool = False):
    """Our model alone, with random weights; made once, so that it compiles once."""
    shapes = DecoderConfig(**{**vars(CONFIG), "tie_word_embeddings": tied})
    model = build_model(shapes, config, "float32", remat)
    return model, random_base(model)


def logits(model: Model, adapter: Leaves, base: Leaves, tokens_T) -> np.ndarray:
    return np.asarray(jax.jit(model.logits)(adapter, base, jnp.asarray(tokens_T)))


def torch_logits(torch, llama, tokens_T) -> np.ndarray:
    with torch.no_grad():
        return llama(torch.tensor(np.asarray(tokens_T)[None], dtype=torch.long)).logits[0].numpy()
