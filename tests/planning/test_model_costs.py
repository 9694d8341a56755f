"""Costs estimated from shapes, against the programs that they are the costs of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from g2is_jax.model import attention_blocks
from g2is_jax.model.build import Model, ModelConfig, build_model
from g2is_jax.model.families import decoder_config
from g2is_jax.model.lora import LoraConfig
from g2is_jax.planning.base_models import BASE_MODELS
from g2is_jax.planning.model_costs import (
    base_bytes,
    cache_bytes,
    forward_operations,
    gradient_operations,
    head_operations,
    kept_bytes,
    size,
)
from g2is_jax.training.loss import example_loss
from g2is_jax.training.steps import gradient_function
from tests.support.tiny_models import FLOAT32, RAW

LORA = LoraConfig(8, 16.0, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj"), False)
BFLOAT16 = ModelConfig("bfloat16", "bfloat16", "blocks", remat=False, shard_base=False, scan=False)


def model_of(raw: dict, layers: int, settings: ModelConfig = BFLOAT16) -> Model:
    raw = raw | {"num_hidden_layers": layers}
    return build_model(decoder_config(raw, "config.json"), LORA, settings)


def abstract(model: Model) -> tuple[dict, dict]:
    """Adapter and base without values."""
    return tuple(
        {path: jax.ShapeDtypeStruct(shape, dtype) for path, shape in shapes.items()}
        for shapes, dtype in ((model.adapter_shapes, jnp.float32), (model.base_shapes, model.dtype))
    )


def products(jaxpr) -> int:
    """Operations of all matrix products of a program; what is in a loop is left out."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted])
            total += 2 * int(inner) * int(np.prod(equation.outvars[0].aval.shape))
        elif equation.primitive.name != "while":
            total += sum(products(inner) for inner in jaxprs_in_params(equation.params))
    return total


def traced(model: Model, function, tokens: int) -> int:
    adapter, base = abstract(model)
    tokens_T = jax.ShapeDtypeStruct((tokens,), jnp.int32)
    return products(jax.make_jaxpr(function)(adapter, base, tokens_T).jaxpr)


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "google/gemma-7b"])
def test_operations_of_a_layer_are_those_of_the_program(name):
    """The second layer alone: in the first, nothing flows back to the embeddings."""
    tokens, found, estimated = 512, [], []
    for layers in (1, 2):
        model = model_of(BASE_MODELS[name], layers)

        def gradient(adapter, base, tokens_T, model=model):
            everything_T = jnp.ones(tokens_T.shape, bool)
            loss = jax.grad(lambda a: example_loss(model, a, base, tokens_T, everything_T)[0])
            return loss(adapter)

        found.append((traced(model, model.logits, tokens), traced(model, gradient, tokens)))
        forward = forward_operations(model, tokens) + head_operations(model)
        estimated.append((tokens * forward, tokens * gradient_operations(model, tokens)))
    np.testing.assert_allclose(*(np.diff(x, axis=0) for x in (found, estimated)), rtol=5e-3)
    np.testing.assert_allclose(found[1][0], estimated[1][0], rtol=5e-3)  # the head's, too


def test_operations_of_a_layer_by_hand():
    """A token of a row of 2,048 in a layer of Llama-3.1-8B, with rank 128 on q, k, v and o."""
    raw = BASE_MODELS["meta-llama/Llama-3.1-8B"] | {"num_hidden_layers": 1}
    lora = LoraConfig(128, 512.0, 0.0, LORA.targets, False)
    model = build_model(decoder_config(raw, "config.json"), lora, BFLOAT16)
    linear = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336  # q, o; k, v; the MLP
    adapter = 2 * 128 * (4096 + 4096) + 2 * 128 * (4096 + 1024)  # q, o; k, v
    attention = 2 * 2 * 32 * 128 * 1024.5  # q k and weights v; a mean of 1,024.5 keys is seen
    assert forward_operations(model, 2048) == 2 * (linear + adapter) + attention == 459_808_768
    backward = 2 * linear + 4 * adapter + 2.5 * attention  # of the weights computed again, 5 of 4
    head = 2 * 2 * 128256 * 4096  # forward, and back to what went in
    expected = 2 * (linear + adapter) + attention + backward + head
    assert gradient_operations(model, 2048) == expected


def test_remat_computes_the_blocks_once_more():
    raw = RAW["llama"]
    plain, again = (
        model_of(raw, 2, ModelConfig("float32", "float32", "blocks", remat, False, False))
        for remat in (False, True)
    )
    more = gradient_operations(again, 100) - gradient_operations(plain, 100)
    assert more == forward_operations(plain, 100)


def test_a_window_bounds_what_attention_costs():
    full, windowed = (
        model_of(RAW["mistral"] | {"sliding_window": window}, 2) for window in (None, 37)
    )
    short, long = 20, 1000
    assert forward_operations(full, short) == forward_operations(windowed, short)
    saved = forward_operations(full, long) - forward_operations(windowed, long)
    assert saved == 2 * 4 * 60 * ((long + 1) / 2 - 37)


@pytest.mark.usefixtures("optimised")
def test_kept_bytes_are_about_what_the_compiler_sets_aside(monkeypatch):
    """The bytes of one layer more, as the rest does not depend on their number.

    Rows go one by one: of those that go together CACHE bytes a layer may be kept too.
    """
    monkeypatch.setattr(attention_blocks, "CACHE", 1)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 224,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    rows, length, compiled, estimated = 2, 128, [], []
    for layers in (1, 2):
        model = model_of(RAW["llama"] | sizes, layers, FLOAT32)
        adapter, base = abstract(model)
        batch = {
            "rows_B": jax.ShapeDtypeStruct((rows,), "int32"),
            "tokens_BT": jax.ShapeDtypeStruct((rows, length), "int32"),
            "supervised_BT": jax.ShapeDtypeStruct((rows, length), "bool"),
            "segments_BT": None,
        }
        key = jax.eval_shape(lambda: jax.random.key(0))
        lowered = gradient_function(model).lower(adapter, base, batch, key)
        compiled.append(lowered.compile().memory_analysis().temp_size_in_bytes)
        estimated.append(kept_bytes(model, rows * length))
    assert np.diff(estimated) == pytest.approx(np.diff(compiled), rel=0.25)


def test_remat_keeps_the_blocks_inputs_and_one_block():
    plain, again = (
        model_of(RAW["llama"], 2, ModelConfig("float32", "float32", "blocks", remat, False, False))
        for remat in (False, True)
    )
    block = kept_bytes(plain, 10) / 2
    assert kept_bytes(again, 10) == block + 10 * 2 * 42 * 4


def test_bytes_of_the_base_on_each_device():
    raw = BASE_MODELS["meta-llama/Llama-3.1-8B"]
    shared = ModelConfig("bfloat16", "bfloat16", "blocks", remat=False, shard_base=True, scan=False)
    model, shared_out = model_of(raw, 2), model_of(raw, 2, shared)
    whole = 2 * size(model.base_shapes)
    assert [base_bytes(model, 1), base_bytes(model, 8), base_bytes(shared_out, 1)] == [whole] * 3
    layer = 2 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    head, norms = 2 * 128256 * 4096, 2 * 5 * 4096
    assert base_bytes(shared_out, 8) == norms + (2 * layer + 2 * head) / 8 + layer + head


def test_bytes_of_a_cache():
    model = model_of(RAW["llama"], 2)
    caches = jax.eval_shape(lambda: model.empty_caches(7))
    assert cache_bytes(model) == sum(leaf.size * 2 for leaf in jax.tree.leaves(caches)) / 7
