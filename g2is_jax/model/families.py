"""The supported families: turns the `config.json` of each into a `DecoderConfig`."""

from collections.abc import Callable

from etils import epath

from g2is_jax.model.block import ACTIVATIONS
from g2is_jax.model.config import BlockNorms, DecoderConfig, LayerConfig
from g2is_jax.model.config_file import KINDS, Fields, listed, read_raw_config, read_ropes
from g2is_jax.runs.errors import InputError

PRE_NORM = BlockNorms("input_layernorm", None, "post_attention_layernorm", None)
POST_NORM = BlockNorms(None, "post_attention_layernorm", None, "post_feedforward_layernorm")
BOTH_NORM = BlockNorms(
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
REQUIRED = (  # whatever transformers would put in their place is a guess about the weights
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "rms_norm_eps",
)
LARGEST, MOST_LAYERS = 2**31 - 1, 10_000  # bounds of a size and of the layers in any sane config


def _biases(f: Fields) -> dict:
    return {"qkv_bias": f["attention_bias"], "o_bias": f["attention_bias"]}


def _llama(f: Fields) -> dict:
    f.idle("rope_interleaved", False)
    return _biases(f) | {"mlp_bias": f["mlp_bias"]}


def _mistral(f: Fields) -> dict:
    return {"layers": _layers(f, [f["sliding_window"]] * f["num_hidden_layers"])}


def _gemma(f: Fields) -> dict:
    f.only("use_bidirectional_attention", None, False)
    f.only("hidden_activation", None, "gelu_pytorch_tanh")
    scale = f["hidden_size"] ** 0.5
    return _biases(f) | {"unit_offset": True, "embedding_scale": scale}


def _gemma2(f: Fields) -> dict:
    f.only("hidden_act", None, f["hidden_activation"])  # older names of the same
    f.only("sliding_window_size", None, f["sliding_window"])
    return _gemma(f) | {
        "activation": f["hidden_activation"],
        "norms": BOTH_NORM,
        "layers": _layers(f, _windows(f)),
        "query_scale": f["query_pre_attn_scalar"] ** -0.5,
        "attention_softcap": f["attn_logit_softcapping"],
        "logit_softcap": f["final_logit_softcapping"],
    }


def _gemma3(f: Fields) -> dict:
    f.only("attn_logit_softcapping", None)  # transformers reads it, and does nothing with it
    f.only("rope_local_base_freq", None, f["rope_parameters"]["sliding_attention"]["rope_theta"])
    f.used |= {"sliding_window_pattern", "_sliding_window_pattern"}  # for layer_types
    return _gemma2(f) | {"query_key_norm": "head"}


def _qwen2(f: Fields) -> dict:
    f.idle("use_mrope", False)
    _ = f["use_sliding_window"], f["max_window_layers"]  # transformers makes layer_types of them
    return {"qkv_bias": True, "layers": _layers(f, _windows(f))}


def _qwen3(f: Fields) -> dict:
    return _qwen2(f) | _biases(f) | {"query_key_norm": "head"}


def _smollm3(f: Fields) -> dict:
    _ = f["no_rope_layer_interval"]  # transformers makes no_rope_layers of it
    _ = f["use_sliding_window"]  # and layer_types of this
    f.used.add("max_window_layers")  # in the published file; transformers does not know it
    rotary = [bool(flag) for flag in f["no_rope_layers"]]
    return _llama(f) | {"layers": _layers(f, _windows(f), rotary)}


def _olmo2(f: Fields) -> dict:
    return _biases(f) | {"norms": POST_NORM, "query_key_norm": "all"}


def _olmo3(f: Fields) -> dict:
    # Where the file has no rope_parameters, transformers gives only the full layers its rope_theta.
    f.only("rope_theta", None, f["rope_parameters"]["sliding_attention"]["rope_theta"])
    return _olmo2(f) | {"layers": _layers(f, _windows(f))}


# model_type -> the architecture it must name, and its fields that differ from Llama's.
FAMILIES: dict[str, tuple[str, Callable[[Fields], dict]]] = {
    "llama": ("LlamaForCausalLM", _llama),
    "mistral": ("MistralForCausalLM", _mistral),
    "gemma": ("GemmaForCausalLM", _gemma),
    "gemma2": ("Gemma2ForCausalLM", _gemma2),
    "gemma3_text": ("Gemma3ForCausalLM", _gemma3),
    "qwen2": ("Qwen2ForCausalLM", _qwen2),
    "qwen3": ("Qwen3ForCausalLM", _qwen3),
    "smollm3": ("SmolLM3ForCausalLM", _smollm3),
    "olmo2": ("Olmo2ForCausalLM", _olmo2),
    "olmo3": ("Olmo3ForCausalLM", _olmo3),
}


def read_config(folder: epath.Path) -> DecoderConfig:
    """Reads `config.json`; InputError names a field that is absent or not supported."""
    return decoder_config(read_raw_config(folder), str(folder / "config.json"))


def decoder_config(raw: dict, file: str) -> DecoderConfig:
    """Returns the decoder that the fields of a `config.json` describe; errors name `file`."""
    return read_fields(raw, file)[0]


def read_fields(raw: dict, file: str) -> tuple[DecoderConfig, list[str]]:
    """Returns the decoder, and lines on the fields that are passed over or that are assumed."""
    try:
        return _decoder_config(raw, file)
    except (TypeError, KeyError, OverflowError) as error:
        raise InputError(
            f"{file}: a field has a value of another kind than it should ({error}); "
            "download the checkpoint again"
        ) from error


def _decoder_config(raw: dict, file: str) -> tuple[DecoderConfig, list[str]]:
    kind = raw.get("model_type")
    if kind == "gemma3":
        raise InputError(
            f"{file}: model_type = 'gemma3', of images and text, is not supported; a checkpoint of "
            "the text model alone is, with model_type 'gemma3_text', such as google/gemma-3-1b-it"
        )
    if kind not in FAMILIES:
        raise InputError(f"{file}: model_type = {kind!r} is not supported; {listed(FAMILIES)} are")
    architecture, special = FAMILIES[kind]
    if architecture not in (raw.get("architectures") or [architecture]):
        raise InputError(
            f"{file}: architectures = {raw['architectures']!r} is not supported; "
            f"only {architecture!r} is"
        )
    missing = [name for name in REQUIRED if raw.get(name) is None]
    if missing:
        raise InputError(f"{file}: has no {', '.join(missing)}; the decoder needs every one")
    if raw["num_hidden_layers"] > MOST_LAYERS:  # lists of that length are made before _check
        raise InputError(f"{file}: num_hidden_layers is above {MOST_LAYERS:,}; correct it")
    f = Fields(raw, file)
    f.only("attention_dropout", 0, None)
    f.only("is_encoder_decoder", False)
    f.only("is_causal", True, None)
    f.only("per_layer_config", {}, None)
    f.idle("neftune_noise_alpha", 0)
    config = DecoderConfig(**_shapes(f) | _like_llama(f) | special(f))
    _check_layer_types(config, f)
    f.check_all_used()
    _check(config, f)
    if raw.get("max_position_embeddings") is None:
        f.notes.append(
            f"{file}: has no max_position_embeddings; transformers' {kind} takes "
            f"{config.max_position_embeddings:,} tokens"
        )
    return config, f.notes


def _shapes(f: Fields) -> dict:
    same = [name for name in REQUIRED if name != "num_hidden_layers"]
    same += ["num_key_value_heads", "max_position_embeddings"]
    f.used.add("head_dim")
    head_dim = getattr(f.config, "head_dim", None) or f["hidden_size"] // f["num_attention_heads"]
    return {name: f[name] for name in same} | {
        "head_dim": head_dim,
        "query_scale": head_dim**-0.5,
        "tie_word_embeddings": f["tie_word_embeddings"],
    }


def _like_llama(f: Fields) -> dict:
    """Returns the fields that a family has unless it overrides them."""
    return {
        "activation": f["hidden_act" if hasattr(f.config, "hidden_act") else "hidden_activation"],
        "layers": _layers(f, [None] * f["num_hidden_layers"]),
        "norms": PRE_NORM,
        "qkv_bias": False,
        "o_bias": False,
        "mlp_bias": False,
        "unit_offset": False,
        "query_key_norm": "none",
        "attention_softcap": None,
        "logit_softcap": None,
        "embedding_scale": 1.0,
    }


def _layers(
    f: Fields, windows: list[int | None], rotary: list[bool] | None = None
) -> tuple[LayerConfig, ...]:
    count = f["num_hidden_layers"]
    rotary = [True] * count if rotary is None else rotary
    for name, values in (("layer_types", windows), ("no_rope_layers", rotary)):
        if len(values) != count:
            raise f.error(f"{name} of {len(values)} layers", f"num_hidden_layers is {count}")
    ropes = read_ropes(f)
    full, sliding = (ropes[kind] for kind in KINDS)
    return tuple(
        LayerConfig((full if window is None else sliding) if turns else None, window)
        for turns, window in zip(rotary, windows, strict=True)
    )


def _windows(f: Fields) -> list[int | None]:
    """Returns the sliding window of each layer, from its type."""
    windows = {"full_attention": None, "sliding_attention": f["sliding_window"]}
    for kind in f["layer_types"]:
        if kind not in windows or (kind == "sliding_attention" and not f["sliding_window"]):
            raise f.error(
                f"layer_types with {kind!r} and sliding_window = {f['sliding_window']!r}",
                "full_attention, or sliding_attention with a window, is",
            )
    return [windows[kind] for kind in f["layer_types"]]


def _check_layer_types(c: DecoderConfig, f: Fields) -> None:
    """Refuses types of layers that are not those of a family without a choice between them."""
    full, sliding = KINDS
    if f.raw.get("layer_types") is not None:
        f.only("layer_types", [full if layer.window is None else sliding for layer in c.layers])


def _check(c: DecoderConfig, f: Fields) -> None:
    """Refuses values that would fail only inside the model, or not at all."""
    if c.activation not in ACTIVATIONS:
        raise f.error(f"hidden_act = {c.activation!r}", f"only {listed(ACTIVATIONS)} are")
    sizes = {name: getattr(c, name) for name in REQUIRED if hasattr(c, name)}
    sizes |= {"num_hidden_layers": len(c.layers), "num_key_value_heads": c.num_key_value_heads}
    sizes |= {
        f"sliding_window of layer {i}": 1 if x.window is None else x.window
        for i, x in enumerate(c.layers)
    }
    for name, value in sizes.items():
        if not 0 < value <= LARGEST:
            raise f.error(f"{name} = {value}", f"it must be above 0, and at most {LARGEST:,}")
    if c.num_attention_heads % c.num_key_value_heads:
        raise f.error(
            f"num_key_value_heads = {c.num_key_value_heads}",
            f"it must divide num_attention_heads = {c.num_attention_heads}",
        )
    if c.head_dim % 2:
        raise f.error(f"head_dim = {c.head_dim}", "it must be even, for the rotary embedding")
