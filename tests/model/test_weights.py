"""Checkpoints: what is read equals what was written, and whatever does not fit is named."""

import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from etils import epath
from tiny_llama import CONFIG, NO_LORA, logits, ours, random_llama, random_tokens, torch_logits

from g2is_jax.model.build import load_model
from g2is_jax.model.weights import checkpoint_files, read_config, tensor_name, write_checkpoint
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import from_bytes, to_bytes


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of ours."""
    model, base = ours()
    write_checkpoint(epath.Path(tmp_path), model.config, base, jnp.float32)
    return epath.Path(tmp_path)


def load(folder, dtype="float32"):
    return load_model(folder, NO_LORA, dtype, remat=False)


def edit_config(folder, **changes):
    """Set fields; a field set to ... is deleted."""
    raw = json.loads((folder / "config.json").read_text()) | changes
    kept = {field: value for field, value in raw.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))


def edit_tensors(folder, change):
    file = folder / "model.safetensors"
    tensors = dict(from_bytes(file.read_bytes()))
    change(tensors)
    file.write_bytes(to_bytes(tensors))


def test_round_trip(folder):
    model, base = ours()
    read_model, read_base = load(folder)
    assert read_model.config == model.config
    assert list(read_base) == sorted(base)
    for path, leaf in base.items():
        np.testing.assert_array_equal(read_base[path], leaf)


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_reads_what_we_write(torch, tmp_path, tied):
    """Also the rotary base, which is not the default one."""
    from transformers import LlamaForCausalLM

    model, base = ours(tied)
    write_checkpoint(epath.Path(tmp_path), model.config, base, jnp.float32)
    llama = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    tokens_T = random_tokens(64)
    np.testing.assert_allclose(
        torch_logits(torch, llama, tokens_T), logits(model, {}, base, tokens_T), rtol=0, atol=2e-4
    )


def test_bfloat16_file(folder):
    """Is read into either dtype; written as bfloat16 it is half the size."""
    model, base = load(folder)
    size = (folder / "model.safetensors").stat().length
    write_checkpoint(folder, model.config, base, jnp.bfloat16)
    assert (folder / "model.safetensors").stat().length < 0.6 * size
    _, as_float = load(folder)
    _, as_bfloat = load(folder, "bfloat16")
    for path, leaf in base.items():
        expected = np.asarray(leaf).astype(ml_dtypes.bfloat16)
        assert as_bfloat[path].dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(as_bfloat[path]), expected)
        np.testing.assert_array_equal(as_float[path], expected.astype(np.float32))


def test_shards_of_transformers(torch, tmp_path):
    """Several files behind an index, as every large checkpoint comes."""
    llama = random_llama(torch)
    llama.save_pretrained(tmp_path / "whole")
    llama.save_pretrained(tmp_path / "parts", max_shard_size="60KB")
    parts = epath.Path(tmp_path / "parts")
    assert len(list(parts.glob("*.safetensors"))) > 2
    _, whole_base = load(epath.Path(tmp_path / "whole"))
    _, parts_base = load(parts)
    assert list(whole_base) == list(parts_base)
    for path, leaf in whole_base.items():
        np.testing.assert_array_equal(leaf, parts_base[path])
    assert {file.suffix for file in checkpoint_files(parts)} == {".json", ".safetensors"}
    missing = sorted(parts.glob("*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(InputError, match=f"{missing.name}: no such file"):
        load(parts)


def test_every_problem_in_one_error(folder):
    lost, odd = "model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.k_proj.weight"

    def change(tensors):
        tensors.pop(lost)
        tensors.pop("model.norm.weight")
        tensors["model.layers.3.stray.weight"] = np.ones((2, 3), np.float32)
        tensors[odd] = np.ascontiguousarray(tensors[odd].T)

    edit_tensors(folder, change)
    with pytest.raises(InputError) as error:
        load(folder)
    message = str(error.value)
    assert f"missing: {lost}, model.norm.weight;" in message
    assert "unused: model.layers.3.stray.weight;" in message
    assert f"wrong shape: {odd} is (42, 20) and should be (20, 42)" in message
    assert str(folder) in message
    assert "\n" not in message


def test_second_copy_of_tied_embedding_and_old_buffers(tmp_path):
    """Some writers store them; they hold nothing of their own."""
    model, base = ours(tied=True)
    folder = epath.Path(tmp_path)
    write_checkpoint(folder, model.config, base, jnp.float32)

    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(5, np.float32)

    edit_tensors(folder, change)
    assert "lm_head" not in load(folder)[1]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file(folder, share):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"model\.safetensors: not a whole safetensors file"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mistral"}, "model_type = 'mistral'"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope scaling 'llama3'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling 'linear'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope scaling 'yarn'"),
        ({"rope_theta": ...}, "has no rope_theta"),
        ({"hidden_size": ..., "rms_norm_eps": ...}, "has no hidden_size, rms_norm_eps"),
        ({"num_attention_heads": ..., "head_dim": ...}, "has no num_attention_heads, head_dim"),
    ],
)
def test_unsupported_config(folder, changes, named):
    edit_config(folder, **changes)
    with pytest.raises(InputError, match=rf"config\.json: .*{named}"):
        read_config(folder)


@pytest.mark.parametrize("absent", [..., None])
def test_width_of_a_head_follows_from_the_others(folder, absent):
    edit_config(folder, head_dim=absent)
    assert read_config(folder).head_dim == 7


@pytest.mark.parametrize("default", [{}, {"rope_scaling": None}, {"rope_parameters": None}])
def test_rotary_base_of_older_configs(folder, default):
    edit_config(folder, rope_theta=777.5, **default)
    assert read_config(folder).rope_theta == 777.5
    edit_config(
        folder, rope_theta=..., rope_parameters={"rope_type": "default", "rope_theta": 888.5}
    )
    assert read_config(folder).rope_theta == 888.5


def test_absent_or_damaged_config(folder, tmp_path):
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(InputError, match=r"config\.json: not valid JSON"):
        read_config(folder)
    with pytest.raises(InputError, match=r"nowhere/config\.json: no such file"):
        checkpoint_files(epath.Path(tmp_path / "nowhere"))


def test_config_alone_is_not_a_checkpoint(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(folder / "config.json", other)
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        load(epath.Path(other))


def test_tensor_names():
    """Layer numbers are padded in paths, so that sorting keeps their order, and not in files."""
    assert tensor_name("layers.010.mlp.up_proj.weight") == "model.layers.10.mlp.up_proj.weight"
    assert tensor_name("norm.weight") == "model.norm.weight"
    assert tensor_name("lm_head") == "lm_head.weight"
    model, _ = ours()
    assert len({tensor_name(path) for path in model.base_shapes}) == len(model.base_shapes)
    assert len(model.base_shapes) == 9 * CONFIG.num_hidden_layers + 3
