"""Checkpoints: what is read equals what was written, and whatever does not fit is named."""

import json
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from etils import epath

from g2is_jax.model import weights
from g2is_jax.model.build import load_model
from g2is_jax.model.weight_files import checkpoint_files
from g2is_jax.model.weights import read_decoder, tensor_name, write_checkpoint
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import from_bytes, to_bytes
from tests.support.compilation import many_devices
from tests.support.small import ROOT
from tests.support.tiny_models import (
    BFLOAT16,
    FLOAT32,
    NO_LORA,
    RAW,
    logits,
    oracle,
    oracle_logits,
    ours,
    random_tokens,
)


def write(folder, family="llama", dtype=jnp.float32, **settings):
    """Write a checkpoint with our writer."""
    model, _, base = ours(family)
    folder = epath.Path(folder)
    write_checkpoint(folder, RAW[family], model.base_shapes, base.__getitem__, dtype, **settings)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path)


def load(folder, settings=FLOAT32):
    return load_model(folder, NO_LORA, settings)


def edit_tensors(folder, change):
    file = folder / "model.safetensors"
    tensors = dict(from_bytes(file.read_bytes()))
    change(tensors)
    file.write_bytes(to_bytes(tensors))


@pytest.mark.parametrize("family", RAW)
def test_round_trip(tmp_path, family):
    model, _, base = ours(family)
    read_model, read_base = load(write(tmp_path, family))
    assert read_model.config == model.config
    assert list(read_base) == sorted(base)
    for path, leaf in base.items():
        np.testing.assert_array_equal(read_base[path], leaf)


@pytest.mark.parametrize("family", RAW)
def test_transformers_reads_what_we_write(torch, tmp_path, family):
    """transformers reads one file, or several behind an index."""
    from transformers import AutoModelForCausalLM

    model, _, base = ours(family)
    tokens_T = random_tokens(64)
    expected_TV = logits(model, {}, base, tokens_T)
    for name, settings in (("one", {}), ("several", {"shard_bytes": 60_000})):
        folder = write(tmp_path / name, family, **settings)
        assert len(list(folder.glob("*.safetensors"))) > 1 or name == "one"
        theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        theirs_TV = oracle_logits(torch, theirs, tokens_T)
        np.testing.assert_allclose(theirs_TV, expected_TV, rtol=0, atol=2e-4)


def test_bfloat16_file(folder):
    """A bfloat16 file is read into either dtype, and has half the size."""
    _, base = load(folder)
    size = (folder / "model.safetensors").stat().length
    write(folder, dtype=jnp.bfloat16)
    assert (folder / "model.safetensors").stat().length < 0.6 * size
    _, as_float = load(folder)
    _, as_bfloat = load(folder, BFLOAT16)
    for path, leaf in base.items():
        expected = np.asarray(leaf).astype(ml_dtypes.bfloat16)
        assert as_bfloat[path].dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(as_bfloat[path]), expected)
        np.testing.assert_array_equal(as_float[path], expected.astype(np.float32))


def test_shards_of_transformers(torch, tmp_path):
    """Several files behind an index are read, as every large checkpoint comes."""
    llama = oracle(torch, "llama")
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
    """Copies that some writers store are passed over; they hold nothing of their own."""
    folder = write(tmp_path, "llama3")

    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(5, np.float32)

    edit_tensors(folder, change)
    assert "lm_head" not in load(folder)[1]


@pytest.mark.parametrize("block_bytes", [200, 2**20])
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_head_that_is_not_the_embedding_is_kept(
    torch, tmp_path, monkeypatch, stored, block_bytes
):
    """Though the config ties them; transformers keeps it too."""
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(weights, "BLOCK_BYTES", block_bytes)
    folder = write(tmp_path, "llama3", jnp.dtype(stored))
    head_VD = np.asarray(ours("llama3")[2]["embed_tokens"], stored).copy()
    head_VD[-1, -1] += 1  # in the last block alone

    def change(tensors):
        tensors["lm_head.weight"] = head_VD

    edit_tensors(folder, change)
    decoder, notes = read_decoder(folder)
    assert not decoder.tie_word_embeddings
    assert notes == [
        f"{folder}: lm_head.weight is not the embedding, though config.json says "
        "tie_word_embeddings; it is kept as a head of its own"
    ]
    model, base = load(folder)
    np.testing.assert_array_equal(base["lm_head"], head_VD.astype(np.float32))
    tokens_T = random_tokens(20)
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype="float32"
    )
    np.testing.assert_allclose(
        oracle_logits(torch, theirs, tokens_T), logits(model, {}, base, tokens_T), rtol=0, atol=2e-4
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, ml_dtypes.float8_e4m3fn])
def test_quantised_weights_are_refused(folder, dtype):
    """Without their scales they would be read as numbers of another meaning."""
    name = "model.layers.0.mlp.up_proj.weight"

    def narrow(tensors):
        tensors[name] = np.ones(tensors[name].shape, dtype)

    edit_tensors(folder, narrow)
    kind = np.dtype(dtype).name
    with pytest.raises(InputError, match=f"{name} is {kind}, and there are no scales; give the"):
        load(folder)
    (folder / "config.json").write_text(
        json.dumps(RAW["llama"] | {"quantization_config": {"quant_method": "bitsandbytes"}})
    )
    edit_tensors(folder, lambda tensors: tensors.update({f"{name}.absmax": np.ones(3, np.float32)}))
    with pytest.raises(InputError, match=rf"is {kind}, with {name}\.absmax beside it; give the"):
        load(folder)


def test_packed_weights_are_refused(folder):
    """As GPTQ and AWQ write them, under other names."""
    layer = "model.layers.0.mlp.up_proj"

    def pack(tensors):
        del tensors[f"{layer}.weight"]
        tensors[f"{layer}.qweight"] = np.ones((5, 6), np.int32)
        tensors[f"{layer}.qzeros"] = np.ones((5, 6), np.int32)

    edit_tensors(folder, pack)
    with pytest.raises(InputError, match=rf"quantised .*: {layer}\.qweight is int32, with"):
        load(folder)


def test_full_precision_beside_a_leftover_quantization_config(folder):
    before = load(folder)[1]
    raw = RAW["llama"] | {"quantization_config": {"quant_method": "bitsandbytes"}}
    (folder / "config.json").write_text(json.dumps(raw))
    _, base = load(folder)
    assert all(np.array_equal(base[path], leaf) for path, leaf in before.items())
    assert "quantization_config: passed over" in read_decoder(folder)[1][0]


def test_numbered_files_without_an_index(tmp_path):
    folder = write(tmp_path, shard_bytes=60_000)
    expected = load(folder)[1]
    (folder / "model.safetensors.index.json").unlink()
    base = load(folder)[1]
    assert all(np.array_equal(base[path], leaf) for path, leaf in expected.items())
    files = sorted(folder.glob("*.safetensors"))
    assert [file for file in checkpoint_files(folder) if file.suffix == ".safetensors"] == files
    held = files[1].read_bytes()
    files[1].unlink()
    with pytest.raises(
        InputError, match=rf"all {len(files)} files .* of model-\*-of-\* there is no 2;"
    ):
        load(folder)
    (folder / "other.safetensors").write_bytes(held)
    with pytest.raises(
        InputError, match=r"has model-0.*, other\.safetensors and no model\.safetensors\.ind"
    ):
        load(folder)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "a.gguf"]
)
def test_weights_in_another_format_are_named(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(InputError, match=rf"has its weights as {name} alone, .*save_pretrained"):
        load(folder)


@pytest.mark.parametrize("stored", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("keep", [(), ("config.json",)])
@pytest.mark.parametrize("named", [True, False])
def test_folder_of_an_adapter_is_named(folder, stored, keep, named):
    for file in folder.iterdir():
        if file.name not in keep:
            file.unlink()
    (folder / stored).write_bytes(b"")
    if named:
        base = {"base_model_name_or_path": "meta-llama/Llama-3.2-1B"}
        (folder / "adapter_config.json").write_text(json.dumps(base))
    base = "meta-llama/Llama-3.2-1B" if named else "BASE"
    first = "save its adapter_model.bin as .*PEFT, and " if stored.endswith("bin") else ""
    with pytest.raises(InputError, match=(
        rf"^{folder}: an adapter of {base}, not a whole model; {first}merge it into its base "
        rf"first: python -m experiments\.merge_adapter --checkpoint={base} --adapter={folder} "
    )):  # fmt: skip
        load(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file(folder, share):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"model\.safetensors: not a whole safetensors file"):
        load(folder)


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
    model, _, _ = ours()
    assert len({tensor_name(path) for path in model.base_shapes}) == len(model.base_shapes)
    assert len(model.base_shapes) == 9 * len(model.config.layers) + 3


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "[" * 99_999],
    ids=range(6),
)
def test_damaged_index(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match=r"index\.json: no weight_map of file names"):
        load(folder)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/model.safetensors", "a/b", "..", "", "tokenizer.json"]
)
def test_index_cannot_leave_the_folder(folder, name):
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=rf"index\.json: names '{name}', which is no"):
        load(folder)


@pytest.mark.parametrize("block_bytes", [1, 500, 2000, 10**9])
def test_blocks_do_not_matter(folder, monkeypatch, block_bytes):
    """The size of the blocks in which a tensor is read and cast changes nothing."""
    monkeypatch.setattr(weights, "BLOCK_BYTES", block_bytes)
    _, _, base = ours()
    for path, leaf in load(folder, BFLOAT16)[1].items():
        np.testing.assert_array_equal(leaf, base[path].astype(jnp.bfloat16))


def test_one_tensor_at_a_time(folder, monkeypatch):
    """No more than a block is read at once where it has to be cast, else no more than a tensor."""
    largest = []
    read = weights.read_tensor

    def spy(file, entry, rows):
        block = read(file, entry, rows)
        largest.append(block.nbytes)
        return block

    monkeypatch.setattr(weights, "read_tensor", spy)
    monkeypatch.setattr(weights, "BLOCK_BYTES", 3000)
    sizes = [leaf.nbytes for leaf in ours()[2].values()]
    for settings, most in ((BFLOAT16, 3000), (FLOAT32, max(sizes))):
        largest.clear()
        load(folder, settings)
        assert max(largest) <= most
        assert sum(largest) == sum(sizes)


SHARDED = """
import sys
import jax, numpy as np
from etils import epath
from g2is_jax.model.build import ModelConfig, load_model
from g2is_jax.model.lora import LoraConfig

mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
specs = {"embed_tokens": jax.P(None, "a"), "lm_head": jax.P(), "norm.weight": jax.P("a")}

def sharding(path):
    spec = jax.P("a", None) if path.endswith("q_proj.weight") else specs.get(path)
    return None if spec is None else jax.NamedSharding(mesh, spec)

settings = ModelConfig("float32", "float32", "blocks", remat=False, shard_base=False, scan=False)
arguments = epath.Path(sys.argv[1]), LoraConfig(0, 1.0, 0.0, (), False), settings
_, whole = load_model(*arguments)
_, parts = load_model(*arguments, sharding)
for path, leaf in parts.items():
    np.testing.assert_array_equal(leaf, whole[path])
    if sharding(path) is not None:
        assert leaf.sharding == sharding(path), path
assert parts["embed_tokens"].addressable_shards[0].data.shape == (131, 21)
assert len(parts["lm_head"].addressable_shards) == 8
"""


def test_straight_to_a_sharding(folder):
    """Tensors go straight to eight virtual devices, in a process of its own."""
    flags = many_devices(8) | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED, str(folder)],
        env=os.environ | flags,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
