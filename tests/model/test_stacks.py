"""Stacked layers: how they are cut, where their parameters lie, and that a scan changes nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from g2is_jax.model import build
from g2is_jax.model.adapters import read_adapter, write_adapter
from g2is_jax.model.backends import execution
from g2is_jax.model.build import Model, build_model, load_model
from g2is_jax.model.generate import Prompts, Stops, generate
from g2is_jax.model.lora import LoraConfig
from g2is_jax.model.sampling import GenerateConfig
from g2is_jax.model.stacks import Layout, Stack, stacks_of
from g2is_jax.model.weights import write_checkpoint
from g2is_jax.training.loss import example_loss
from tests.support.tiny_models import (
    FLOAT32,
    FULL,
    RAW,
    SLIDING,
    config_of,
    lora_config,
    random_leaves,
    random_tokens,
    raw_of,
)

SCANNED = dataclasses.replace(FLOAT32, scan=True)
# Layers of every kind that a family has, in no order that repeats to the end.
DEEP: dict[str, dict] = {
    family: {"num_hidden_layers": 3} for family in RAW if "layer_types" not in RAW[family]
} | {
    "gemma2": {"num_hidden_layers": 5, "layer_types": [FULL, SLIDING] * 2 + [FULL]},
    "gemma3_text": {"num_hidden_layers": 4, "layer_types": [SLIDING, FULL, SLIDING, SLIDING]},
    "olmo3": {"num_hidden_layers": 6, "layer_types": [SLIDING, SLIDING, FULL] * 2},
    "smollm3": {"num_hidden_layers": 6, "no_rope_layers": [1, 1, 0] * 2},
    "qwen2_sliding": {"num_hidden_layers": 5, "max_window_layers": 2},
}
SOME = ("q_proj", "layers.1.mlp.up_proj", "layers.[25].self_attn.o_proj")


def test_layers_are_one_stack_or_each_its_own():
    assert stacks_of(32, scan=True) == (Stack(0, 32),)
    assert stacks_of(3, scan=False) == (Stack(0, 1), Stack(1, 1), Stack(2, 1))


def test_depth_chooses_on_a_cpu():
    """Few layers are each compiled, and many scanned and computed again, unless a config says."""
    chosen = execution("float32", "auto", "auto", "auto", False, False, "cpu")
    assert chosen.for_depth(build.DEEP - 1) == dataclasses.replace(chosen, scan=False)
    assert chosen.for_depth(build.DEEP) == dataclasses.replace(chosen, scan=True, remat=True)
    for layers, scan in (("scan", True), ("loop", False)):
        asked = execution("float32", "auto", "auto", layers, False, False, "cpu")
        assert (asked.scan, asked.remat) == (scan, False)
        assert asked.for_depth(100) == asked
    config = config_of("llama", num_hidden_layers=build.DEEP)
    model = build_model(config, lora_config(), chosen)
    assert (model.settings.scan, model.settings.remat) == (True, True)
    assert len(model.decoder.stacks) == 1


def test_names_are_slices():
    stack = Stack(2, 12)
    assert stack.name == "002:014"
    assert list(stack.layers) == list(range(20))[2:14]
    assert Stack(7, 1).name == "007"


def test_layout_there_and_back():
    """A parameter that some layers lack is zeros there, and nothing once it is taken apart."""
    shapes = {f"layers.{i:03d}.a": (3, 2) for i in range(6)} | {"layers.003.b": (2,), "end": (4,)}
    leaves = random_leaves(shapes)
    layout = Layout(shapes, stacks_of(6, scan=True))
    assert layout.leaf_shapes() == {
        "end": (4,),
        "layers.000:006.a": (6, 3, 2),
        "layers.000:006.b": (6, 2),
    }
    stacked = layout.stacked(leaves)
    assert {path: leaf.shape for path, leaf in stacked.items()} == layout.leaf_shapes()
    np.testing.assert_array_equal(stacked["layers.000:006.a"][5], leaves["layers.005.a"])
    np.testing.assert_array_equal(stacked["layers.000:006.b"][:3], np.zeros((3, 2)))
    back = layout.by_layer(stacked)
    assert list(back) == sorted(shapes)
    jax.tree.map(np.testing.assert_array_equal, back, dict(sorted(leaves.items())))


def two(family: str, lora: LoraConfig, **settings) -> list[tuple[Model, dict, dict]]:
    """The same model, adapter and base: each layer compiled, and repeating layers scanned."""
    found = []
    config = config_of(family, **DEEP[family])
    for base_settings in (FLOAT32, SCANNED):
        model = build_model(config, lora, dataclasses.replace(base_settings, **settings))
        adapter = model.adapter_layout.stacked(random_leaves(model.adapter_shapes, seed=1))
        base = model.base_layout.stacked(random_leaves(model.base_shapes))
        found.append((model, adapter, base))
    assert len(found[1][0].decoder.stacks) == 1 < len(config.layers)
    return found


@pytest.mark.parametrize("family", RAW)
def test_scan_changes_neither_loss_nor_gradient(family):
    """In every family, with dropout and packed rows, and an adapter that some layers lack."""
    lora = lora_config(*SOME, dropout=0.2)
    tokens_T = random_tokens(48)
    supervised_T, segments_T = tokens_T % 3 > 0, np.repeat(np.arange(3), 16)
    found = []
    for model, adapter, base in two(family, lora):
        loss = functools.partial(example_loss, model)
        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        key = jax.random.key(0)
        (total, _), gradient = run(adapter, base, tokens_T, supervised_T, key, segments_T)
        found.append((total, model.adapter_layout.by_layer(gradient)))
        for path, leaf in gradient.items():  # a layer without an adapter stays without
            parts = model.adapter_layout.parts[path]
            assert all(not leaf[i].any() for i, part in enumerate(parts) if part is None)
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for path, leaf in found[0][1].items():
        scale = float(np.abs(leaf).max())
        assert scale > 0
        np.testing.assert_allclose(found[1][1][path], leaf, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "smollm3"])
def test_scan_decodes_the_same(family):
    prompts = Prompts(random_tokens(30).reshape(3, 10), np.ones((3, 10), bool), np.arange(3))
    prompts.mask_BT[1, 6:] = False
    greedy = GenerateConfig(9, temperature=0.0, top_p=1.0, seed=0)
    replies = [
        generate(model, adapter, base, prompts, greedy, Stops((), ()), str)
        for model, adapter, base in two(family, lora_config())
    ]
    assert replies[0] == replies[1]
    assert len({tuple(reply.tokens) for reply in replies[0]}) == 3


def test_scan_with_remat():
    lora, tokens_T = lora_config(), random_tokens(20)
    (_, _, _), (plain, adapter, base) = two("llama", lora)
    saving = two("llama", lora, remat=True)[1][0]
    gradients = [
        jax.jit(jax.grad(lambda a, m=model: m.logits(a, base, tokens_T).std()))(adapter)
        for model in (plain, saving)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *gradients)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_loading_fills_the_stacks(tmp_path, dtype):
    """Each tensor is in its own layer's place, cast, whatever the order of the file."""
    raw = raw_of("gemma2", **DEEP["gemma2"])
    lora = lora_config()
    model, _, base = two("gemma2", lora)[1]
    folder = epath.Path(tmp_path)
    write_checkpoint(
        folder, raw, model.base_shapes, functools.partial(model.base_layout.take, base), jnp.float32
    )
    settings = dataclasses.replace(SCANNED, dtype=jnp.dtype(dtype).name)
    _, loaded = load_model(folder, lora, settings)
    assert {leaf.dtype for leaf in loaded.values()} == {jnp.dtype(dtype)}
    assert list(loaded) == sorted(base)
    for path, leaf in base.items():
        np.testing.assert_array_equal(loaded[path], leaf.astype(dtype), path)


def test_adapter_files_name_each_layer(tmp_path):
    """The files of a scanned model are those of the other, byte by byte, and fit it."""
    lora = lora_config(*SOME)
    (looped, plain, _), (scanned, stacked, _) = two("llama", lora)
    for name, model, adapter in (("a", looped, plain), ("b", scanned, stacked)):
        write_adapter(epath.Path(tmp_path / name), adapter, model, "base")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    again = read_adapter(epath.Path(tmp_path / "a"), scanned)
    jax.tree.map(np.testing.assert_array_equal, again, stacked)


def test_fresh_adapters_are_the_same():
    (looped, _, _), (scanned, _, _) = two("llama", lora_config(*SOME))
    fresh = scanned.adapter_layout.by_layer(scanned.init_adapter(5))
    jax.tree.map(np.testing.assert_array_equal, fresh, looped.init_adapter(5))
