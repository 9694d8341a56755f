"""The rotary embedding of each layer, as config files of either version of transformers say it."""

from g2is_jax.model.config import LayerConfig, LinearScaling, RopeConfig, YarnScaling
from g2is_jax.model.families import decoder_config
from tests.support.tiny_models import LLAMA_3_ROPE, config_of, raw_of

FILE = "config.json"


def test_rotary_base_of_either_version():
    older = raw_of("llama", rope_theta=...)
    for fields in (
        {"rope_theta": 777.5},
        {"rope_theta": 777.5, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 777.5}},
        {"rope_theta": 777.5, "rope_scaling": {"type": "default"}},
    ):
        assert decoder_config(older | fields, FILE).layers[0].rope == RopeConfig(777.5, None)
    newer = older | {"rope_parameters": LLAMA_3_ROPE | {"rope_theta": 1234.5}}
    assert decoder_config(newer, FILE).layers == config_of("llama3").layers


def test_ropes_and_windows_of_gemma_3():
    """Of a file as the first ones on the hub; five windows to a full layer."""
    first = config_of(
        "gemma3_text", layer_types=..., num_hidden_layers=13, sliding_window_pattern=6
    )
    sliding = LayerConfig(RopeConfig(78.5, None), window=39)
    full = LayerConfig(RopeConfig(1234.5, LinearScaling(3.0)), window=None)
    assert first.layers == ((sliding,) * 5 + (full,)) * 2 + (sliding,)
    default = config_of(
        "gemma3_text", **dict.fromkeys(("rope_theta", "rope_scaling", "rope_local_base_freq"), ...)
    ).layers
    assert [layer.rope for layer in default] == [RopeConfig(1e6, None), RopeConfig(1e4, None)]


def test_ropes_of_olmo_3():
    """Only full layers are stretched, and one that names no base has transformers'."""
    full, sliding = config_of("olmo3", rope_theta=...).layers
    assert isinstance(full.rope.scaling, YarnScaling)
    assert sliding.rope == RopeConfig(5e5, None)
    assert full.rope.theta == 5e5
