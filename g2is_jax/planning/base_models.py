"""Shapes of base models, as the hub's `config.json` of each has them: the paper's, and small ones.

With them a run can be estimated and compiled before the weights are there. A run itself reads the
checkpoint's own file.
"""

from etils import epath

from g2is_jax.model.config import DecoderConfig
from g2is_jax.model.families import decoder_config, read_config
from g2is_jax.model.hub import downloaded
from g2is_jax.pipeline.fields import BUILT_IN
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import in_object_store
from g2is_jax.skills.world import BASE_FOLDER

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
    "meta-llama/Llama-3.2-1B": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
    },
    "HuggingFaceTB/SmolLM2-1.7B": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-5,
        "rope_theta": 130000.0,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "google/gemma-3-1b-pt": {
        "model_type": "gemma3_text",
        "vocab_size": 262144,
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "query_pre_attn_scalar": 256,
        "max_position_embeddings": 32768,
        "hidden_activation": "gelu_pytorch_tanh",
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


def decoder(checkpoint: str, place: epath.Path | None = None) -> DecoderConfig:
    """Returns the shapes of a folder, of the built-in base, or of a hub id that is known here."""
    place = place or place_of(checkpoint, "")
    if place is not None:
        return read_config(place)
    if checkpoint not in BASE_MODELS:
        raise InputError(
            f"model.checkpoint = {checkpoint!r} is neither a folder nor one of "
            f"{', '.join(BASE_MODELS)}; a folder with its config.json alone is enough"
        )
    return known_decoder(checkpoint)


def place_of(checkpoint: str, revision: str) -> epath.Path | None:
    """Returns the place of a checkpoint, or of a part of it; None if it has to be downloaded."""
    if checkpoint == BUILT_IN:
        return BASE_FOLDER
    if in_object_store(checkpoint) or (checkpoint and epath.Path(checkpoint).is_dir()):
        return epath.Path(checkpoint)
    return downloaded(checkpoint, revision or None)
