"""Random tiny decoders of every family, ours and transformers'.

No two sizes of a model are equal, so no transpose can pass; no constant is a default.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from g2is_jax.model.build import Model, ModelConfig, build_model, load_model
from g2is_jax.model.config import DecoderConfig
from g2is_jax.model.families import FAMILIES, decoder_config
from g2is_jax.model.lora import Leaves, LoraConfig

FLOAT32 = ModelConfig("float32", "float32", "blocks", remat=False, shard_base=False, scan=False)
BFLOAT16 = ModelConfig("bfloat16", "bfloat16", "blocks", remat=False, shard_base=False, scan=False)
NO_LORA = LoraConfig(rank=0, alpha=1.0, dropout=0.0, targets=(), rslora=False)
SIZES = {
    "vocab_size": 131,
    "hidden_size": 42,
    "intermediate_size": 53,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "rope_theta": 1234.5,
    "rms_norm_eps": 3e-4,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "factor": 5.0,
    "low_freq_factor": 1.5,
    "high_freq_factor": 6.0,
    "original_max_position_embeddings": 192,
}
LINEAR_ROPE = {"rope_type": "linear", "factor": 3.0}
YARN_ROPE = {
    "rope_type": "yarn",
    "factor": 5.0,
    "beta_fast": 12.0,
    "beta_slow": 1.5,
    "mscale": 1.3,
    "mscale_all_dim": 0.6,
    "original_max_position_embeddings": 192,
    "truncate": False,
}
FULL, SLIDING = "full_attention", "sliding_attention"
# A `config.json` for each way in which a supported model differs from plain Llama.
RAW: dict[str, dict] = {
    "llama": {"model_type": "llama", **SIZES},
    "llama3": {
        "model_type": "llama",
        **SIZES,
        "rope_scaling": LLAMA_3_ROPE,
        "tie_word_embeddings": True,
    },
    "llama_yarn": {"model_type": "llama", **SIZES, "rope_scaling": YARN_ROPE},
    "llama_biased": {"model_type": "llama", **SIZES, "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", **SIZES, "sliding_window": 37},
    "mistral_full": {"model_type": "mistral", **SIZES, "sliding_window": None},
    "gemma": {
        "model_type": "gemma",
        **SIZES,
        "head_dim": 16,
        "hidden_act": "gelu",
        "tie_word_embeddings": True,
    },
    "gemma2": {
        "model_type": "gemma2",
        **SIZES,
        "tie_word_embeddings": True,
        "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": [FULL, SLIDING],
        "sliding_window": 41,
        "query_pre_attn_scalar": 13,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 2.0,
    },
    "gemma3_text": {
        "model_type": "gemma3_text",
        **SIZES,
        "tie_word_embeddings": True,
        "rope_local_base_freq": 78.5,
        "rope_scaling": LINEAR_ROPE,
        "layer_types": [FULL, SLIDING],
        "sliding_window": 39,
        "query_pre_attn_scalar": 17,
        "final_logit_softcapping": 2.5,
    },
    "qwen2": {"model_type": "qwen2", **SIZES},
    "qwen2_sliding": {
        "model_type": "qwen2",
        **SIZES,
        "use_sliding_window": True,
        "sliding_window": 43,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", **SIZES, "tie_word_embeddings": True},
    "qwen3_yarn": {
        "model_type": "qwen3",
        **SIZES,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 5.0,
            "attention_factor": 1.4,
            "original_max_position_embeddings": 512,
        },
    },
    "smollm3": {"model_type": "smollm3", **SIZES, "no_rope_layers": [1, 0]},
    "olmo2": {"model_type": "olmo2", **SIZES},
    "olmo3": {
        "model_type": "olmo3",
        **SIZES,
        "rope_theta": 500000.0,  # see families._olmo3
        "rope_scaling": {name: YARN_ROPE[name] for name in YARN_ROPE if name != "truncate"},
        "layer_types": [FULL, SLIDING],
        "sliding_window": 45,
    },
}


def raw_of(family: str, **fields) -> dict:
    """A config in RAW, some fields changed, or taken out where the value is `...`."""
    return {name: value for name, value in (RAW[family] | fields).items() if value is not ...}


def config_of(family: str, **fields) -> DecoderConfig:
    """The decoder of such a config."""
    return decoder_config(raw_of(family, **fields), "config.json")


def lora_config(*targets: str, dropout: float = 0.0, rslora: bool = False) -> LoraConfig:
    return LoraConfig(3, 7.0, dropout, targets or ("all-linear",), rslora)


def random_leaves(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Leaves:
    """Attention far from uniform, logits of order one, vectors around one, adapters at work.

    Also B is away from zero: at B = 0 every gradient of A vanishes.
    """
    rng = np.random.default_rng(seed)
    leaves = {}
    for path, shape in sorted(shapes.items()):
        gain = 0.2 if "lora_" in path else 0.3 if len(shape) == 1 else 1.2 * shape[1] ** -0.5
        leaves[path] = jnp.asarray(gain * rng.normal(size=shape) + (len(shape) == 1), jnp.float32)
    return leaves


def ours(
    family: str = "llama", lora: LoraConfig = NO_LORA, settings: ModelConfig = FLOAT32
) -> tuple[Model, Leaves, Leaves]:
    """Our model alone, with random adapter and base; made once, so that it compiles once."""
    return _ours(family, lora, settings)  # whether or not the caller spells a default out


@functools.cache
def _ours(family: str, lora: LoraConfig, settings: ModelConfig) -> tuple[Model, Leaves, Leaves]:
    model = build_model(config_of(family), lora, settings)
    base = {k: v.astype(model.dtype) for k, v in random_leaves(model.base_shapes).items()}
    return model, random_leaves(model.adapter_shapes, seed=1), base


def oracle(torch, family: str, seed: int = 0, **fields):
    """transformers' model of the same config, in eager attention and float32, weights random."""
    import transformers

    raw = raw_of(family, **fields)
    torch.manual_seed(seed)
    config = transformers.CONFIG_MAPPING[raw["model_type"]](**raw, attn_implementation="eager")
    config.dtype = "float32"
    model = getattr(transformers, FAMILIES[raw["model_type"]][0])(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=1.2 * parameter.shape[1] ** -0.5)
    return model


def both(
    torch,
    folder: Path,
    family: str = "llama",
    lora: LoraConfig = NO_LORA,
    settings: ModelConfig = FLOAT32,
    **fields,
):
    """transformers' model, and ours with the config and weights that it saved to the folder."""
    theirs = oracle(torch, family, **fields)
    theirs.save_pretrained(folder)
    return theirs, *load_model(epath.Path(folder), lora, settings)


def random_tokens(length: int, seed: int = 0, vocabulary: int = SIZES["vocab_size"]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocabulary, length).astype(np.int32)


@functools.cache
def _compiled_logits(model: Model):
    return jax.jit(model.logits)


def logits(model: Model, adapter: Leaves, base: Leaves, tokens_T) -> np.ndarray:
    """Compiled once for each model and length."""
    return np.asarray(_compiled_logits(model)(adapter, base, jnp.asarray(tokens_T)))


def oracle_logits(torch, theirs, tokens_T) -> np.ndarray:
    with torch.no_grad():
        return theirs(torch.tensor(tokens_T[None], dtype=torch.long)).logits[0].numpy()
