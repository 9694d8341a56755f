"""Adapter files: PEFT's logits in both directions, and nothing in them that is ignored."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from g2is_jax.model.adapters import read_adapter, read_lora_config, write_adapter
from g2is_jax.model.build import build_model
from g2is_jax.model.lora import LoraConfig, linear_layers
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import read_tensors, to_bytes
from tests.support.tiny_models import (
    BFLOAT16,
    FLOAT32,
    both,
    config_of,
    logits,
    lora_config,
    oracle_logits,
    ours,
    random_leaves,
    random_tokens,
)

# peft 0.21 asks transformers 5.23 for a property that it has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
ALL, SOME = ("all-linear",), ("layers.0.*.q_proj", "layers.1.mlp.*")
TWO = ("q_proj", "v_proj")
PATTERNS = {  # the same as PEFT writes it
    ALL: r".*_proj",
    SOME: r".*layers\.(0\.self_attn\.q_proj|1\.mlp\.\w+_proj)",
    TWO: r".*[qv]_proj",
}
CASES = {  # family, targets, rslora
    "llama, all": ("llama", ALL, False),
    "llama, some layers": ("llama", SOME, True),
    "qwen2, by name": ("qwen2", TWO, True),
    "gemma, some layers": ("gemma", SOME, False),
}
TARGET_MODULES = {  # what adapter_config.json says
    ALL: {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    SOME: {"layers.0.self_attn.q_proj"}
    | {f"layers.1.mlp.{n}_proj" for n in ("gate", "up", "down")},
    TWO: set(TWO),
}


def close(found_TV, expected_TV, plain_TV) -> None:
    assert np.abs(expected_TV - plain_TV).max() > 0.1  # the adapter is at work
    np.testing.assert_allclose(found_TV, expected_TV, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", list(CASES))
def test_written_here_read_by_peft(torch, tmp_path, case):
    from peft import PeftModel

    family, targets, rslora = CASES[case]
    lora = lora_config(*targets, dropout=0.25, rslora=rslora)
    theirs, model, base = both(torch, tmp_path / "base", family, lora)
    adapter, tokens_T = random_leaves(model.adapter_shapes, seed=1), random_tokens(50)
    plain_TV = oracle_logits(torch, theirs, tokens_T)
    write_adapter(epath.Path(tmp_path / "adapter"), adapter, model, "somewhere")
    adapted = PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    expected_TV = oracle_logits(torch, adapted, tokens_T)
    close(logits(model, adapter, base, tokens_T), expected_TV, plain_TV)
    settings = adapted.peft_config["default"]
    assert (settings.r, settings.lora_alpha, settings.lora_dropout) == (3, 7, 0.25)
    assert settings.use_rslora is rslora
    assert settings.target_modules == TARGET_MODULES[targets]
    assert settings.base_model_name_or_path == "somewhere"


@pytest.mark.parametrize("case", list(CASES))
def test_written_by_peft_read_here(torch, tmp_path, case):
    """The settings are read from the files too: the same layers carry an adapter."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    family, targets, rslora = CASES[case]
    theirs, model, base = both(torch, tmp_path / "base", family)
    tokens_T = random_tokens(50)
    plain_TV = oracle_logits(torch, theirs, tokens_T)
    config = PeftConfig(
        r=4,
        lora_alpha=6,
        lora_dropout=0.1,
        target_modules=PATTERNS[targets],
        use_rslora=rslora,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(theirs, config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    lora = read_lora_config(epath.Path(tmp_path / "adapter"))
    assert (lora.rank, lora.alpha, lora.dropout, lora.rslora) == (4, 6.0, 0.1, rslora)
    paths, asked = linear_layers(model.base_shapes), lora_config(*targets)
    assert [p for p in paths if lora.matches(p)] == [p for p in paths if asked.matches(p)]
    model = build_model(model.config, lora, FLOAT32)
    adapter = read_adapter(epath.Path(tmp_path / "adapter"), model)
    expected_TV = oracle_logits(torch, adapted, tokens_T)
    close(logits(model, adapter, base, tokens_T), expected_TV, plain_TV)


def written(folder, lora: LoraConfig | None = None):
    """A model, its adapter, and the folder that holds it."""
    model, adapter, _ = ours("llama", lora or lora_config("q_proj"))
    write_adapter(epath.Path(folder), adapter, model, "base")
    return model, adapter, epath.Path(folder)


def change(file: epath.Path, **fields) -> None:
    """Change fields of a JSON file; `...` takes one out."""
    raw = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in raw.items() if value is not ...}))


@pytest.mark.parametrize("targets", [ALL, SOME])
def test_round_trip(tmp_path, targets):
    model, adapter, folder = written(tmp_path, lora_config(*targets, dropout=0.3, rslora=True))
    read = read_adapter(folder, model)
    assert list(read) == sorted(adapter)
    for path, leaf in adapter.items():
        np.testing.assert_array_equal(read[path], leaf)
    lora = read_lora_config(folder)
    again = build_model(model.config, lora, FLOAT32)
    assert again.adapter_shapes == model.adapter_shapes
    assert (lora.rank, lora.alpha, lora.dropout, lora.rslora) == (3, 7.0, 0.3, True)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    model, adapter, folder = written(tmp_path)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(to_bytes({k: v.astype(dtype) for k, v in read_tensors(file).items()}))
    for path, leaf in read_adapter(folder, model).items():
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, np.asarray(adapter[path]).astype(dtype))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoraConfig(5, 7.0, 0.0, ("q_proj",), False), "rank 3, and lora.rank = 5; set lora.rank"),
        (LoraConfig(3, 6.0, 0.0, ("q_proj",), False), "alpha 7.0, and lora.alpha = 6.0; set lora"),
        (LoraConfig(3, 7.0, 0.0, ("q_proj",), True), "rslora False, and lora.rslora = True; set"),
        (
            lora_config("q_proj", "o_proj"),
            "model.layers.0.self_attn.o_proj.lora_A.weight",
        ),
        (
            lora_config("up_proj"),
            "tensor base_model.model.model.layers.0.mlp.up_proj.lora_A",
        ),
    ],
)
def test_other_settings_than_the_models(tmp_path, lora, message):
    _, _, folder = written(tmp_path)
    other = build_model(config_of("llama"), lora, BFLOAT16)
    with pytest.raises(InputError, match=re.escape(message)):
        read_adapter(folder, other)


def test_another_base(tmp_path):
    """An adapter of as many layers of the same name and another size is refused."""
    _, _, folder = written(tmp_path)
    other = build_model(config_of("llama", hidden_size=48), lora_config("q_proj"), BFLOAT16)
    with pytest.raises(InputError, match=r"q_proj\.lora_A\.weight \(3, 4\d\) is not shared with"):
        read_adapter(folder, other)


def test_absent_or_damaged_weights(tmp_path):
    folder = epath.Path(tmp_path)
    with pytest.raises(InputError, match=r"adapter_config\.json: no such adapter"):
        read_lora_config(folder)
    model, _, _ = written(folder)
    file = folder / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_adapter(folder, model)
    file.write_bytes(whole)
    file.write_bytes(to_bytes({k: v.astype(np.int8) for k, v in read_tensors(file).items()}))
    with pytest.raises(InputError, match="is int8; merge"):
        read_adapter(folder, model)
    file.write_bytes(to_bytes({}))
    with pytest.raises(InputError, match="holds no tensor"):
        read_lora_config(folder)
    file.unlink()
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: no such adapter"):
        read_lora_config(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": ...}, "has no r; copy"),
        ({"lora_alpha": ..., "peft_type": ...}, "has no peft_type, lora_alpha; copy"),
        ({"r": 2.5}, "r = 2.5; it must be a whole number above 0"),
        ({"r": "3"}, 'r = "3"; it must be'),
        ({"r": True}, "r = true; it must be"),
        ({"lora_alpha": None}, "lora_alpha = null; it must be a number above 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha = NaN; it must be"),
        ({"lora_alpha": float("inf")}, "lora_alpha = Infinity; it must be"),
        ({"lora_alpha": 10**400}, "; it must be a number above 0"),
        ({"lora_dropout": 1}, "lora_dropout = 1; it must be from 0 to below 1"),
        ({"use_rslora": "yes"}, 'use_rslora = "yes" is not supported, only true, false'),
    ],
)
def test_damaged_fields(tmp_path, fields, message):
    _, _, folder = written(tmp_path)
    change(folder / "adapter_config.json", **fields)
    with pytest.raises(InputError, match=re.escape(message)):
        read_lora_config(folder)


def test_damaged_settings(tmp_path):
    _, _, folder = written(tmp_path)
    for text, message in (
        ("{", "not valid JSON"),
        ("[" * 99_999, "not valid JSON"),
        ("[1]", "holds no JSON object"),
    ):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(InputError, match=rf"adapter_config\.json: {message}"):
            read_lora_config(folder)


PEFT = {  # what PEFT's own settings have to be for the files to be refused, and by what words
    "use_dora": {"use_dora": True},
    "bias": {"bias": "all"},
    "lora_bias": {"lora_bias": True},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "rank_pattern": {"rank_pattern": {"q_proj": 7}},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 7}},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "layer_replication": {"layer_replication": [(0, 2), (1, 3)]},
    "alora_invocation_tokens": {"alora_invocation_tokens": [5]},
    "trainable_token_indices": {"trainable_token_indices": [5]},
    "target_parameters": {"target_parameters": ["mlp.experts"]},
    "init_lora_weights": {"init_lora_weights": "pissa_niter_4"},
}


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("field", ["", *PEFT])
def test_what_is_not_computed_is_refused(tmp_path, field):
    """Each of the fields that PEFT always writes is known."""
    from peft import LoraConfig as PeftConfig

    model, _, folder = written(tmp_path)
    fields = {"r": 3, "lora_alpha": 7, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    PeftConfig(**fields | PEFT.get(field, {})).save_pretrained(folder)
    if not field:
        read_adapter(folder, model)
        return
    with pytest.raises(InputError, match=rf"{field} = .* is not supported.*merge_and_unload"):
        read_lora_config(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, 'peft_type = "IA3" is not supported, only "LORA"; merge'),
        ({"task_type": "SEQ_CLS"}, 'task_type = "SEQ_CLS" is not supported, only "CAUSAL_LM"'),
        ({"init_lora_weights": "olora"}, 'init_lora_weights = "olora" is not supported, only'),
        ({"of_next_year": {"a": 1}}, 'of_next_year = {"a": 1} is not supported; merge'),
    ],
)
def test_other_refusals(tmp_path, fields, message):
    _, _, folder = written(tmp_path)
    change(folder / "adapter_config.json", **fields)
    with pytest.raises(InputError, match=re.escape(message)):
        read_lora_config(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"of_next_year": None, "init_lora_weights": "gaussian", "layers_to_transform": [0, 1]},
        {"task_type": None, "use_rslora": ..., "exclude_modules": ["lm_head"], "revision": "main"},
    ],
)
def test_what_does_not_matter(tmp_path, fields):
    model, adapter, folder = written(tmp_path)
    change(folder / "adapter_config.json", **fields)
    assert set(read_adapter(folder, model)) == set(adapter)


@pytest.mark.parametrize(
    "module", ["lm_head", "model.embed_tokens", "model.layers.0.self_attn.q_proj.base_layer"]
)
def test_other_modules_are_refused(tmp_path, module):
    _, _, folder = written(tmp_path)
    file = folder / "adapter_model.safetensors"
    name = f"base_model.model.{module}.lora_A.weight"
    file.write_bytes(to_bytes(read_tensors(file) | {name: np.zeros((3, 42), np.float32)}))
    with pytest.raises(InputError, match=re.escape(f"{name} is not of a decoder's linear layer")):
        read_lora_config(folder)
