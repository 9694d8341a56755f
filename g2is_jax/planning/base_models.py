"""The shapes of the paper's base models, as the hub's `config.json` of each has them.

With them a run can be estimated before the weights are there (experiments/estimate.py). A run
itself reads the checkpoint's own file.
"""

from g2is_jax.model.config import DecoderConfig
from g2is_jax.model.families import decoder_config

_MISTRAL_7B: dict = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 32768,
}

BASE_MODELS: dict[str, dict] = {
    "meta-llama/Llama-3.1-8B": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
    },
    "google/gemma-7b": {
        "model_type": "gemma",
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 8192,
        "hidden_act": "gelu",
    },
    "mistralai/Mistral-7B-v0.1": _MISTRAL_7B
    | {"vocab_size": 32000, "rope_theta": 10000.0, "sliding_window": 4096},
    "mistralai/Mistral-7B-v0.3": _MISTRAL_7B
    | {"vocab_size": 32768, "rope_theta": 1000000.0, "sliding_window": None},
}


def known_decoder(checkpoint: str) -> DecoderConfig:
    """Returns the shapes of one of BASE_MODELS."""
    return decoder_config(BASE_MODELS[checkpoint], f"planning/base_models.py: {checkpoint}")
