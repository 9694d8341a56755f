"""Merged checkpoints: transformers loads them and computes what base and adapter compute."""

import json
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from g2is_jax.model.adapters import write_adapter
from g2is_jax.model.build import load_model
from g2is_jax.model.merge import merge_folders, write_merged
from g2is_jax.model.weights import write_checkpoint
from g2is_jax.runs.errors import InputError
from tests.support.small import ROOT
from tests.support.tiny_models import (
    BFLOAT16,
    FLOAT32,
    NO_LORA,
    both,
    logits,
    lora_config,
    oracle_logits,
    ours,
    random_leaves,
    random_tokens,
    raw_of,
)

# peft 0.21 asks transformers 5.23 for a property that it has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
ALL_FILES = 10**9
COPIED = ("tokenizer.json", "generation_config.json", "chat_template.jinja", "merges.txt")
LEFT = ("adapter_config.json", "README.md", "model.safetensors.index.json", "pytorch_model.bin")


@pytest.mark.parametrize(
    ("family", "rslora", "shard_bytes"),
    [("llama", False, 50_000), ("llama3", True, ALL_FILES), ("gemma2", False, 50_000)],
)
def test_in_transformers(torch, tmp_path, family, rslora, shard_bytes):
    """The merged model equals PEFT's unmerged one and ours; tied or not, in one file or several."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lora = lora_config("all-linear", rslora=rslora)
    theirs, model, base = both(torch, tmp_path / "base", family, lora)
    adapter, tokens_T = random_leaves(model.adapter_shapes, seed=1), random_tokens(50)
    source, target = epath.Path(tmp_path / "base"), epath.Path(tmp_path / "merged")
    write_merged(target, source, model, adapter, base, shard_bytes)
    assert (target / "model.safetensors").exists() == (shard_bytes == ALL_FILES)
    merged = AutoModelForCausalLM.from_pretrained(target, attn_implementation="eager").eval()
    found_TV = oracle_logits(torch, merged, tokens_T)
    plain_TV = oracle_logits(torch, theirs, tokens_T)
    write_adapter(epath.Path(tmp_path / "adapter"), adapter, model, "base")
    adapted = PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    expected_TV = oracle_logits(torch, adapted, tokens_T)
    assert np.abs(expected_TV - plain_TV).max() > 0.1
    np.testing.assert_allclose(found_TV, expected_TV, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found_TV, logits(model, adapter, base, tokens_T), rtol=0, atol=1e-4)


def test_a_head_of_its_own_is_not_tied_in_the_merged_model(tmp_path):
    """Though the base's config.json ties it: other readers might drop it."""
    lora = lora_config("q_proj")
    model, adapter, base = ours("llama", lora)
    source, target = epath.Path(tmp_path / "base"), epath.Path(tmp_path / "merged")
    raw = raw_of("llama", tie_word_embeddings=True)
    write_checkpoint(source, raw, model.base_shapes, base.__getitem__, model.dtype)
    read, leaves = load_model(source, lora, FLOAT32)
    write_merged(target, source, read, adapter, leaves)
    assert json.loads((target / "config.json").read_text())["tie_word_embeddings"] is False
    merged = load_model(target, NO_LORA, FLOAT32)[1]
    np.testing.assert_array_equal(merged["lm_head"], base["lm_head"])


@pytest.fixture
def folders(tmp_path) -> tuple[epath.Path, epath.Path]:
    """A bfloat16 checkpoint with all that may lie beside one, and an adapter of two layers."""
    source, adapter = epath.Path(tmp_path / "base"), epath.Path(tmp_path / "adapter")
    model, leaves, base = ours("qwen2", lora_config("layers.1.*.v_proj", "k_proj"), BFLOAT16)
    write_adapter(adapter, leaves, model, "base")
    source.mkdir()
    write_checkpoint(
        source, raw_of("qwen2"), model.base_shapes, base.__getitem__, model.dtype, 50_000
    )
    assert (source / "model.safetensors.index.json").exists()
    for name in set(COPIED + LEFT) - {"model.safetensors.index.json"}:
        (source / name).write_text(f'{{"this is": "{name}"}}')
    return source, adapter


def test_weights_and_files(tmp_path, folders):
    """Merged weights are rounded once, from the float32 sum; no bit of the others changes."""
    source, adapter = folders
    output = epath.Path(tmp_path / "merged")
    report = merge_folders(str(source), adapter, output, "bfloat16")
    assert report.startswith("LoRA r=3, scale 2.33333: k_proj in 2 of 2 layers, v_proj in 1 of 2 ")
    _, leaves, base = ours("qwen2", lora_config("layers.1.*.v_proj", "k_proj"), BFLOAT16)
    _, merged = load_model(output, NO_LORA, BFLOAT16)
    changed = set()
    for path, leaf in base.items():
        expected = np.asarray(leaf)
        if (layer := path.removesuffix(".weight")) + ".lora_A" in leaves:
            a_RD, b_DR = (np.asarray(leaves[f"{layer}.lora_{x}"], np.float64) for x in "AB")
            full = expected.astype(np.float64) + 7 / 3 * b_DR @ a_RD
            assert (np.asarray(merged[path]) != expected).mean() > 0.5
            expected = full.astype(np.float32).astype(expected.dtype)
            changed.add(layer)
        # A sum that lies between two values may be rounded to the other.
        assert (np.asarray(merged[path]) != expected).mean() <= (0.002 if layer in changed else 0)
    assert len(changed) == 3
    names = {file.name for file in output.iterdir()}
    assert names == {"config.json", "model.safetensors", *COPIED}
    assert all((output / n).read_text() == (source / n).read_text() for n in COPIED)


def test_interrupted_merge_is_no_checkpoint(tmp_path, folders):
    """A folder that a killed merge left is not taken for a model, and not overwritten."""
    source, adapter = folders
    model, leaves, base = ours("qwen2", lora_config("layers.1.*.v_proj", "k_proj"), BFLOAT16)
    target = epath.Path(tmp_path / "merged")
    short = {path: leaf for path, leaf in base.items() if path != "norm.weight"}
    with pytest.raises(KeyError):
        write_merged(target, source, model, leaves, short)
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        load_model(target, NO_LORA, BFLOAT16)
    with pytest.raises(InputError, match="merged: is not empty; give another --output"):
        merge_folders(str(source), adapter, target, "bfloat16")


def test_adapter_of_another_base(tmp_path, folders):
    """The mistake is found before anything is written."""
    source, adapter = folders
    model, leaves, _ = ours("gemma", lora_config("v_proj"), BFLOAT16)
    write_adapter(adapter, leaves, model, "base")
    output = epath.Path(tmp_path / "merged")
    with pytest.raises(InputError, match="is not shared with the model"):
        merge_folders(str(source), adapter, output, "bfloat16")
    assert not output.exists()


def test_command_line(tmp_path, folders):
    """The script merges in float32, and shows a mistake in one line."""
    source, adapter = folders

    def start(*argv: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "experiments.merge_adapter", *argv]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)

    folder_flags = (
        f"--checkpoint={source}",
        f"--adapter={adapter}",
        f"--output={tmp_path / 'merged'}",
    )
    right = start(*folder_flags, "--dtype=float32")
    mistakes = {
        start(*folder_flags, "--dtype=int4"): "value should be one of <float32|bfloat16>",
        start(*folder_flags[::2], f"--adapter={tmp_path}"): "adapter_config.json: no such adapter",
    }
    out, error = right.communicate()
    assert (right.returncode, error) == (0, "")
    assert out.startswith("LoRA r=3, scale 2.33333: k_proj in 2 of 2 layers")
    for process, message in mistakes.items():
        out, error = process.communicate()
        assert (process.returncode, out) == (2, "")
        assert error.startswith("error: ")
        assert message in error
        assert len(error.splitlines()) == 1
