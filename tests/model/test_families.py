"""Configs: no field of a `config.json` is passed over, and no setting of the decoder is idle."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath

from g2is_jax.model import config_file
from g2is_jax.model.build import build_model
from g2is_jax.model.config import (
    BlockNorms,
    LayerConfig,
    LinearScaling,
    Llama3Scaling,
    RopeConfig,
    YarnScaling,
)
from g2is_jax.model.config_file import NO_EFFECT
from g2is_jax.model.config_use import fields_acted_on
from g2is_jax.model.families import FAMILIES, decoder_config, read_config, read_fields
from g2is_jax.planning.base_models import BASE_MODELS
from g2is_jax.runs.errors import InputError
from tests.support.tiny_models import (
    FLOAT32,
    FULL,
    NO_LORA,
    RAW,
    SLIDING,
    YARN_ROPE,
    config_of,
    oracle,
    oracle_logits,
    ours,
    random_tokens,
    raw_of,
)

FILE = "config.json"
OF_THE_ROPE = ("rope_theta", "rope_scaling", "rope_local_base_freq")


def as_written(family: str) -> dict:
    """Return the config with every field that transformers writes."""
    from transformers import CONFIG_MAPPING

    return json.loads(CONFIG_MAPPING[RAW[family]["model_type"]](**RAW[family]).to_json_string())


def perturbed(name: str, value):
    """Return another value that the field could have."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 2
    if isinstance(value, float):
        return 1.25 * value + 0.25
    if isinstance(value, list):
        others = {FULL: SLIDING, SLIDING: FULL, 0: 1, 1: 0}
        return [others.get(value[0], "Other"), *value[1:]]
    if value is None:
        return True if name.startswith("use_") else 11
    if "act" in name:
        return "silu" if value != "silu" else "gelu"
    return "other"


def effect(family: str, raw: dict) -> str:
    """Return the effect of a changed config: an error, another decoder, or nothing."""
    try:
        changed = decoder_config(raw, FILE)
    except InputError:
        return "error"
    return "nothing" if changed == config_of(family) else "another"


def ropes_of(parameters: dict):
    """Yield the rope parameters with one of them changed, of one kind of layer where kinds have
    their own, and the name of that one."""
    for name, value in parameters.items():
        if isinstance(value, dict):
            for inner, changed in ropes_of(value):
                yield f"{inner} of {name}", parameters | {name: changed}
        else:
            yield name, parameters | {name: perturbed(name, value)}


@pytest.mark.parametrize("family", RAW)
def test_no_field_is_passed_over(family):
    raw = as_written(family)
    assert effect(family, raw) == "nothing"
    effects = {}
    for name, value in raw.items():
        if name != "rope_parameters":
            effects[name] = effect(family, raw | {name: perturbed(name, value)})
    for name, rope in ropes_of(raw["rope_parameters"]):
        effects[name] = effect(family, raw | {"rope_parameters": rope})
    idle = {name for name, what in effects.items() if what == "nothing"}
    # transformers reads these only where the lists made of them are not in the file.
    made = {"max_window_layers", "no_rope_layer_interval", "_sliding_window_pattern"} & set(raw)
    # A window is of no use where no layer slides; nor does the flag do more than make the list.
    spare = (
        {"sliding_window", "use_sliding_window"} if FULL in raw.get("layer_types", []) else set()
    )
    assert idle <= NO_EFFECT | made | spare
    assert {"another", "error"} <= set(effects.values())


@pytest.mark.parametrize("family", RAW)
def test_fields_without_effect_have_none_in_transformers(torch, family):
    changes = {
        "bos_token_id": 5,
        "eos_token_id": 6,
        "pad_token_id": 7,
        "initializer_range": 0.5,
        "use_cache": False,
        "pretraining_tp": 2,
        "cache_implementation": "hybrid",
    }
    assert changes.keys() <= NO_EFFECT
    plain, changed = oracle(torch, family), oracle(torch, family, **changes)
    changed.load_state_dict(plain.state_dict())
    tokens_T = random_tokens(50)
    expected_TV = oracle_logits(torch, plain, tokens_T)
    np.testing.assert_array_equal(oracle_logits(torch, changed, tokens_T), expected_TV)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2_sliding", {"max_window_layers": 2}),
        ("qwen2_sliding", {"use_sliding_window": False}),
        ("smollm3", {"no_rope_layers": ...}),
        ("smollm3", {"no_rope_layers": ..., "no_rope_layer_interval": 1}),
        ("gemma2", {"layer_types": ...}),
        ("gemma2", {"sliding_window": 11}),
        ("llama", {"num_key_value_heads": ...}),
        ("llama", {"rope_theta": ...}),
        ("mistral", {"sliding_window": None}),
    ],
)
def test_what_the_file_leaves_out_is_as_in_transformers(torch, family, changes):
    """Absent fields get transformers' defaults, and the lists that it makes of other fields."""
    theirs = oracle(torch, family, **changes)
    config, written = config_of(family, **changes), theirs.config.to_dict()
    assert config == decoder_config(json.loads(theirs.config.to_json_string()), FILE)
    assert config != config_of(family)
    thetas = {layer.rope.theta for layer in config.layers if layer.rope is not None}
    assert thetas <= {written["rope_parameters"]["rope_theta"]}
    assert config.num_key_value_heads == written["num_key_value_heads"]


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        (
            "llama",
            {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {}},
        ),
        ("llama", {"pretraining_tp": 1, "neftune_noise_alpha": 0.0}),
        ("gemma", {"hidden_activation": None, "_name_or_path": "x", "torch_dtype": "bfloat16"}),
        ("gemma", {"hidden_activation": "gelu_pytorch_tanh"}),
        ("gemma2", {"hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"}),
        ("gemma2", {"sliding_window_size": 41}),
        ("gemma3_text", {"sliding_window_pattern": 6, "cache_implementation": "hybrid"}),
        ("olmo3", {"rope_theta": 500000, "max_window_layers": None}),
        ("qwen2", {"sliding_window": 131072, "max_window_layers": 28, "use_mrope": False}),
        ("qwen3", {"rope_scaling": None, "sliding_window": None, "max_window_layers": 36}),
        ("smollm3", {"pretraining_tp": 2, "max_window_layers": 28, "sliding_window": None}),
        ("smollm3", {"layer_types": [FULL] * 2, "use_sliding_window": False}),
    ],
)
def test_published_fields_are_known(family, fields):
    """Fields that files on the hub have beside those of their class change nothing."""
    assert config_of(family, **fields) == config_of(family)


# Fields that files on the hub have by the tools that wrote them, and by older and other code.
PASSED_OVER = {
    "llama": {
        "max_sequence_length": 2048,
        "use_flash_attention_2": True,
        "heretic_version": "1.0",
        "speculators_config": {"algorithm": "eagle"},
        "auto_map": {"AutoModelForCausalLM": "modeling_x.LlamaForCausalLM"},
        "keys_to_ignore_at_inference": ["past_key_values"],
        "_attn_implementation": "flash_attention_2",
        "_attn_implementation_internal": "sdpa",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "compression_config": {"format": "dense"},
        "rope_interleaved": True,
        "max_window_layers": 28,
        "use_sliding_window": False,
        "no_such_field": {"a": [1, None]},
        "temperature": 0.7,
        "gradient_checkpointing": True,
        "layer_norm_eps": 1e-5,
        "tokenizer_class": "LlamaTokenizer",
        "n_ctx": 4096,
        "rotary_pct": 1.0,
        "neftune_noise_alpha": 5,
    },
    "mistral": {"attention_bias": True, "mlp_bias": True, "clip_qkv": 8.0},
    "qwen2": {"use_mrope": True, "seq_length": 32768, "rotary_emb_base": 10000},
    "gemma2": {"_attn_implementation": "eager", "use_qk_norm": False},
    "qwen3": {"mlp_bias": False, "qkv_bias": True},
}


@pytest.mark.parametrize("family", PASSED_OVER)
def test_fields_that_transformers_does_not_act_on_are_named(family):
    """They cannot change the model, so they are no reason to refuse it."""
    for name, value in PASSED_OVER[family].items():
        decoder, notes = read_fields(raw_of(family, **{name: value}), FILE)
        assert decoder == config_of(family), name
        assert notes == [
            f"config.json: {name}: passed over, as it does not change what transformers' "
            f"{family} computes"
        ]
    every = raw_of(family, **PASSED_OVER[family])
    (note,) = read_fields(every, FILE)[1]
    assert f"json: {', '.join(sorted(PASSED_OVER[family]))}: passed over" in note
    assert read_fields(raw_of(family), FILE)[1] == []


@pytest.mark.parametrize("family", PASSED_OVER)
def test_fields_that_are_passed_over_change_nothing_in_transformers(torch, family):
    changes = {name: value for name, value in PASSED_OVER[family].items()
               if not name.startswith("_attn") and name != "quantization_config"}  # fmt: skip
    plain, changed = oracle(torch, family), oracle(torch, family, **changes)
    changed.load_state_dict(plain.state_dict())
    tokens_T = random_tokens(50)
    expected_TV = oracle_logits(torch, plain, tokens_T)
    np.testing.assert_array_equal(oracle_logits(torch, changed, tokens_T), expected_TV)


def test_fields_that_transformers_acts_on_are_found():
    """All that a decoder is made of, by the way of the class or of what every model shares."""
    from transformers import CONFIG_MAPPING

    shared = {"is_causal", "sliding_window", "layer_types", "per_layer_config", "rope_parameters",
              "partial_rotary_factor", "head_dim", "hidden_act", "rms_norm_eps"}  # fmt: skip
    assert shared <= fields_acted_on(CONFIG_MAPPING["llama"])
    assert {"attention_bias", "mlp_bias"} <= fields_acted_on(CONFIG_MAPPING["llama"])
    assert not {"attention_bias", "mlp_bias"} & fields_acted_on(CONFIG_MAPPING["mistral"])
    gemma = {"query_pre_attn_scalar", "final_logit_softcapping", "sliding_window_pattern"}
    assert gemma <= fields_acted_on(CONFIG_MAPPING["gemma3_text"])
    assert "no_rope_layers" in fields_acted_on(CONFIG_MAPPING["smollm3"])


def test_without_transformers_source_an_unknown_field_is_refused(monkeypatch):
    def absent(config_class):
        raise FileNotFoundError("no source")

    monkeypatch.setattr(config_file, "fields_acted_on", absent)
    with pytest.raises(InputError, match="heretic_version: not known for"):
        config_of("llama", heretic_version="1.0")
    assert config_of("llama", _attn_implementation="eager") == config_of("llama")


def test_types_of_layers_that_say_what_is_computed_anyway():
    assert config_of("llama", layer_types=[FULL, FULL]) == config_of("llama")
    assert config_of("mistral", layer_types=[SLIDING, SLIDING]) == config_of("mistral")
    assert config_of("mistral_full", layer_types=[FULL, FULL]) == config_of("mistral_full")


def test_tokens_that_a_model_takes_where_the_file_does_not_say():
    """As early conversions of Llama, which name the length otherwise."""
    raw = raw_of("llama", max_position_embeddings=..., max_sequence_length=1024)
    decoder, notes = read_fields(raw, FILE)
    assert decoder.max_position_embeddings == 2048
    assert notes[-1] == (
        "config.json: has no max_position_embeddings; transformers' llama takes 2,048 tokens"
    )


def test_published_configs(published_cases):
    """Each is read, and the field that sets it apart is named where it is passed over."""
    fields = {
        "_attn_implementation_eager__gemma2_27b_preset_": "_attn_implementation",
        "_attn_implementation_internal": "_attn_implementation_internal",
        "auto_map_leftover": "auto_map",
        "keep_bf16_swift_keys": "keys_to_ignore_at_inference",
        "llama1_early__max_sequence_length_only_": "max_sequence_length",
        "merged_QLoRA_leftover_quantization_config__open_instruct_149": "quantization_config",
        "mistral_attention_bias_false": "attention_bias",
        "speculators_heretic_metadata_dict": "heretic_version",
        "use_flash_attention_2": "use_flash_attention_2",
    }
    files = sorted(published_cases.glob("configs/*"))
    assert {file.stem for file in files} == set(fields)
    for file in files:
        _, notes = read_fields(json.loads(file.read_text()), FILE)
        assert notes[0].startswith(f"config.json: {fields[file.stem]}: passed over")


def changed_settings(config) -> dict[str, object]:
    """Return another value for every field of a decoder's settings that keeps the shapes."""
    rope = config.layers[0].rope
    return {
        "rms_norm_eps": 0.1,
        "layers": (LayerConfig(rope, window=None), LayerConfig(None, window=None)),
        "activation": "gelu",
        "unit_offset": True,
        "query_scale": 2 * config.query_scale,
        "attention_softcap": 1.0,
        "logit_softcap": 1.0,
        "embedding_scale": 2.0,
    }


def with_layers(config, layer):
    """Return the config with all its layers so."""
    return dataclasses.replace(config, layers=(layer,) * len(config.layers))


def test_no_setting_of_the_decoder_is_idle():
    """Settings that keep the weights' shapes change the logits, all others change the shapes."""
    model, _, base = ours()
    tokens_T = random_tokens(40)

    def logits(config):
        return np.asarray(build_model(config, NO_LORA, FLOAT32).logits({}, base, tokens_T))

    expected_TV, settings = logits(model.config), changed_settings(model.config)
    for name, value in settings.items():
        changed_TV = logits(dataclasses.replace(model.config, **{name: value}))
        assert np.abs(changed_TV - expected_TV).max() > 1e-3, name
    ropes = {
        "theta": RopeConfig(99.0, None),
        "linear": RopeConfig(1234.5, LinearScaling(3.0)),
        "llama3": RopeConfig(1234.5, Llama3Scaling(5.0, 1.5, 6.0, 30)),
        "yarn": RopeConfig(1234.5, YarnScaling(5.0, 1.0, 6.0, 1.5, 30, truncate=False)),
    }
    for name, rope in ropes.items():
        changed_TV = logits(with_layers(model.config, LayerConfig(rope, window=None)))
        assert np.abs(changed_TV - expected_TV).max() > 1e-3, name
    windowed = LayerConfig(model.config.layers[0].rope, window=5)
    changed_TV = logits(with_layers(model.config, windowed))
    assert np.abs(changed_TV - expected_TV)[5:].max() > 1e-3
    np.testing.assert_allclose(changed_TV[:5], expected_TV[:5], atol=1e-5)
    shaping = {
        "norms": BlockNorms(None, None, "post_attention_layernorm", None),
        "query_key_norm": "head",
        **{name: True for name in ("qkv_bias", "o_bias", "mlp_bias", "tie_word_embeddings")},
        **{name: 12 for name in ("vocab_size", "hidden_size", "intermediate_size", "head_dim")},
        **{name: 3 for name in ("num_attention_heads", "num_key_value_heads")},
    }
    for name, value in shaping.items():
        changed = build_model(dataclasses.replace(model.config, **{name: value}), NO_LORA, FLOAT32)
        assert changed.base_shapes != model.base_shapes, name
    tested = {*settings, *shaping, "max_position_embeddings"}  # of the last: test_decoder
    assert tested == set(model.config.__dataclass_fields__)


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("llama", {"model_type": "gpt2"}, r"model_type = 'gpt2' is not supported; gemma, gemma2,"),
        ("llama", {"model_type": ...}, "model_type = None is not supported"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "architectures = "),
        ("llama", {"hidden_act": "relu"}, "hidden_act = 'relu' is not supported; only gelu,"),
        ("llama", {"attention_dropout": 0.1}, "attention_dropout = 0.1 is not supported"),
        ("llama", {"is_causal": False}, "is_causal = False"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'"),
        (
            "llama",
            {
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": [1.0] * 5,
                    "long_factor": [2.0] * 5,
                }
            },
            "rope type 'longrope' is not supported; only default, linear, llama3, yarn are",
        ),
        ("llama", {"rope_scaling": {"type": "linear", "factor": None}}, "'linear' without factor"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": "2"}}, "factor = '2'|not a valid"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 0.0}}, "factor = 0.0 is not"),
        ("llama", {"rope_scaling": YARN_ROPE | {"beta_fast": -1}}, "beta_fast = -1 is not"),
        ("llama", {"rope_scaling": YARN_ROPE | {"alpha": 1.0}}, "alpha of rope type 'yarn'"),
        ("llama", {"rope_theta": 1.0}, "rope_theta = 1.0 is not supported; a number above 1 is"),
        ("qwen3", {"rope_parameters": {FULL: {"rope_type": "default"}}}, "rope_parameters of full"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "Missing .*low_freq"),
        ("llama", {"rope_scaling": {"rope_type": "default", "factor": 2.0}}, "factor of rope type"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
            r"rope_theta = 1234.5 beside 5.0 in rope_parameters",
        ),
        ("llama", {"auto_map": {}, "sliding_window": 4}, "sliding_window: not known for"),
        ("llama", {"per_layer_config": {"0": {"head_dim": 8}}}, "per_layer_config = "),
        ("llama", {"transformers_weights": "x.safetensors"}, "transformers_weights: not known"),
        (
            "llama",
            {"layer_types": [FULL, SLIDING]},
            r"layer_types = .* only \['full_attention', 'f",
        ),
        (
            "mistral",
            {"layer_types": [FULL, SLIDING]},
            r"layer_types = .* only \['sliding_attention",
        ),
        ("llama", {"hidden_size": ..., "rms_norm_eps": None}, "has no hidden_size, rms_norm_eps"),
        ("llama", {"hidden_size": "many"}, "not a valid llama config .*hidden_size"),
        ("llama", {"num_key_value_heads": 4}, "num_key_value_heads = 4 .*it must divide"),
        ("llama", {"head_dim": 7}, "even"),
        ("llama", {"vocab_size": 0}, "vocab_size = 0 .*it must be above 0"),
        ("llama", {"rms_norm_eps": float("inf")}, "rms_norm_eps = inf .*at most 2,147,483,647"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps = nan .*above 0"),
        ("llama", {"hidden_size": 6 * 10**12}, "hidden_size = 6000000000000 .*at most 2,147,483"),
        ("llama", {"head_dim": 10**400}, "value of another kind"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers is above 10,000"),
        ("llama", {"model_type": ["llama"]}, "value of another kind"),
        ("llama", {"architectures": True}, "value of another kind"),
        ("llama", {"rope_theta": "1e4"}, "rope_theta = '1e4' is not supported; a number above"),
        ("llama", {"rope_theta": float("inf")}, "rope_theta = inf is not supported"),
        ("llama", {"rope_theta": 10**400}, "value of another kind"),
        ("mistral", {"sliding_window": 0}, "sliding_window of layer 0 = 0|must be above 0"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ("gemma", {"hidden_activation": "silu"}, "hidden_activation = 'silu'"),
        ("gemma2", {"hidden_act": "silu"}, "hidden_act = 'silu'"),
        ("gemma2", {"sliding_window_size": 7}, "sliding_window_size = 7 is not supported; only"),
        ("gemma3_text", {"model_type": "gemma3"}, "'gemma3', of images and text, is not supported"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
        (
            "gemma3_text",
            {
                "rope_theta": ...,
                "rope_scaling": ...,
                "rope_parameters": {
                    kind: {"rope_type": "default", "rope_theta": 50.0} for kind in (FULL, SLIDING)
                },
            },
            "rope_local_base_freq = 78.5 is not supported; only 50.0, None is",
        ),
        (
            "gemma3_text",
            {"rope_scaling": YARN_ROPE},
            "truncate of rope_parameters of full_attention is not supported; only True is",
        ),
        ("olmo3", {"rope_theta": 1e4}, "rope_theta = 10000.0 is not supported; only 500000.0,"),
        ("gemma2", {"layer_types": [SLIDING]}, "layer_types|num_hidden_layers"),
        ("qwen2", {"layer_types": [SLIDING, FULL]}, "layer_types with 'sliding_attention'"),
        ("qwen3", {"layer_types": ["chunked_attention", FULL]}, "chunked_attention"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers|list index"),
    ],
)
def test_unsupported_config(family, changes, named):
    with pytest.raises(InputError, match=rf"^config\.json: .*({named})"):
        config_of(family, **changes)


@pytest.mark.parametrize("absent", [..., None])
def test_width_of_a_head_follows_from_the_others(absent):
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1}
    assert config_of("llama", head_dim=absent, **heads).head_dim == 14


def test_absent_or_damaged_config(tmp_path):
    folder = epath.Path(tmp_path)
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        read_config(folder)
    for text, named in (
        ('{"model_type": ', "not valid JSON"),
        ("[" * 99_999, "not valid JSON"),
        ("[]", "holds no JSON object"),
    ):
        (folder / FILE).write_text(text)
        with pytest.raises(InputError, match=rf"config\.json: {named}"):
            read_config(folder)


def test_every_family_is_tested():
    assert {raw["model_type"] for raw in RAW.values()} == set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "parameters", "adapter"),
    [
        ("meta-llama/Llama-3.1-8B", 8_030_261_248, 109_051_904),
        ("mistralai/Mistral-7B-v0.1", 7_241_732_096, 109_051_904),
        ("mistralai/Mistral-7B-v0.3", 7_248_023_552, 109_051_904),
        ("google/gemma-7b", 8_537_680_896, 102_760_448),
    ],
)
def test_shapes_of_the_papers_models(name, parameters, adapter):
    """Counts of parameters, also of LoRA at rank 128, are the published ones; none is allocated."""
    raw = BASE_MODELS[name]
    lora = dataclasses.replace(
        NO_LORA, rank=128, alpha=512.0, targets=("q_proj", "k_proj", "v_proj", "o_proj")
    )
    model = build_model(decoder_config(raw, FILE), lora, FLOAT32)
    assert sum(int(np.prod(shape)) for shape in model.base_shapes.values()) == parameters
    assert sum(int(np.prod(shape)) for shape in model.adapter_shapes.values()) == adapter
    as_leaves = {
        path: jax.ShapeDtypeStruct(shape, "float32")
        for path, shape in (model.base_shapes | model.adapter_shapes).items()
    }
    base = {path: as_leaves[path] for path in model.base_shapes}
    lora_leaves = {path: as_leaves[path] for path in model.adapter_shapes}
    logits = jax.eval_shape(model.logits, lora_leaves, base, jax.ShapeDtypeStruct((2048,), "int32"))
    assert logits.shape == (2048, raw["vocab_size"])
