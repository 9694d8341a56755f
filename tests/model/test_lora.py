"""The adapter's layer: where it is attached, its scale, its dropout and its first values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from g2is_jax.model.build import build_model
from g2is_jax.model.lora import Linear, LoraConfig, linear_layers, match_report
from g2is_jax.runs.errors import InputError
from tests.support.tiny_models import (
    BFLOAT16,
    NO_LORA,
    SIZES,
    config_of,
    logits,
    lora_config,
    ours,
    random_tokens,
)

THREE_LAYERS = config_of("llama", num_hidden_layers=3)


def adapted(model) -> set[str]:
    """Return the paths of the layers that carry an adapter."""
    return {path.rpartition(".")[0] for path in model.adapter_shapes}


def test_fresh_adapter_is_nothing():
    """B is zero, so the output is the base's; A is uniform within 1/sqrt(in), as PEFT draws it."""
    model, _, base = ours(lora=lora_config())
    adapter = model.init_adapter(seed=3)
    tokens_T = random_tokens(12)
    plain_TV = logits(ours()[0], {}, base, tokens_T)
    np.testing.assert_array_equal(logits(model, adapter, base, tokens_T), plain_TV)
    for path, leaf in adapter.items():
        if path.endswith("lora_A"):
            bound = leaf.shape[1] ** -0.5
            assert 0.9 * bound < np.abs(leaf).max() <= bound
            assert float(np.std(leaf)) == pytest.approx(bound / 3**0.5, rel=0.2)
    firsts = [
        float(np.asarray(leaf)[0, 0]) for path, leaf in adapter.items() if path.endswith("lora_A")
    ]
    assert len(set(firsts)) == len(firsts)  # each leaf is drawn on its own
    other = model.init_adapter(seed=4)
    for path in (path for path in adapter if path.endswith("lora_A")):
        assert (np.asarray(other[path]) != np.asarray(adapter[path])).any()


def test_base_keeps_its_dtype():
    """An adapter in float32 does not promote a bfloat16 network."""
    model, adapter, base = ours("qwen2", lora_config(), BFLOAT16)
    hidden, _ = jax.eval_shape(model.step, adapter, base, jnp.zeros(4, int), 0, None)
    assert hidden.dtype == jnp.bfloat16
    gradient = jax.eval_shape(
        jax.grad(lambda a: model.logits(a, base, jnp.zeros(4, int)).sum()), adapter
    )
    assert {leaf.dtype for leaf in gradient.values()} == {jnp.dtype("float32")}


def test_rank_zero_attaches_nothing():
    assert ours(lora=NO_LORA)[0].adapter_shapes == {}
    assert ours(lora=LoraConfig(0, 1.0, 0.0, ("*",), False))[0].adapter_shapes == {}


def test_canonical_order():
    """Leaves are sorted by path, with layers in their order also from the tenth on."""
    config = config_of("llama", num_hidden_layers=11)
    model = build_model(config, lora_config("o_proj", "down_proj"), BFLOAT16)
    paths = sorted(model.adapter_shapes)
    assert len(paths) == 2 * 2 * 11
    assert paths[:2] == ["layers.000.mlp.down_proj.lora_A", "layers.000.mlp.down_proj.lora_B"]
    assert [int(path.split(".")[1]) for path in paths[::4]] == list(range(11))
    assert model.adapter_shapes[paths[0]] == (3, SIZES["intermediate_size"])
    assert model.adapter_shapes[paths[1]] == (SIZES["hidden_size"], 3)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("k_proj",), {f"layers.{i:03d}.self_attn.k_proj" for i in range(3)}),
        (("layers.1.self_attn.q_proj",), {"layers.001.self_attn.q_proj"}),
        (("layers.2.mlp.*",), {f"layers.002.mlp.{n}_proj" for n in ("gate", "up", "down")}),
        (("[qv]_proj", "layers.0.*"), None),
    ],
)
def test_targets(targets, expected):
    found = adapted(build_model(THREE_LAYERS, lora_config(*targets), BFLOAT16))
    assert found == expected if expected else len(found) == 7 + 2 * 2


def test_all_linear_is_every_matrix_between_embedding_and_head():
    model, _, _ = ours(lora=lora_config())
    matrices = {path for path, shape in model.base_shapes.items() if len(shape) == 2}
    inner = {path.removesuffix(".weight") for path in matrices - {"embed_tokens", "lm_head"}}
    assert adapted(model) == inner
    assert len(linear_layers(model.base_shapes)) == len(inner) == 7 * 2


def test_a_target_that_matches_nothing():
    with pytest.raises(InputError, match=r"lora\.targets: 'layers\.3\.\*' matches no linear layer"):
        build_model(THREE_LAYERS, lora_config("q_proj", "layers.3.*"), BFLOAT16)


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (("v_proj", "q_proj"), "q_proj, v_proj in 3 of 3 layers; 6 matrices, 1,476 parameters"),
        (
            ("layers.1.self_attn.q_proj", "layers.[02].mlp.up_proj", "layers.[12].*.k_proj"),
            "up_proj in 2 of 3 layers (0, 2), k_proj in 2 of 3 layers (1-2), "
            "q_proj in 1 of 3 layers (1); 5 matrices, 1,248 parameters",
        ),
    ],
)
def test_match_report(targets, layers):
    """The report has names, layers, and the number of parameters that the model then has."""
    model = build_model(THREE_LAYERS, lora_config(*targets), BFLOAT16)
    assert match_report(model.lora, model.base_shapes) == f"LoRA r=3, scale 2.33333: {layers}"
    count = sum(int(np.prod(shape)) for shape in model.adapter_shapes.values())
    assert f" {count:,} parameters" in layers


def test_match_report_of_no_adapter():
    assert match_report(NO_LORA, ours()[0].base_shapes) == "LoRA: none"


def linear(lora: LoraConfig) -> tuple[Linear, jax.Array]:
    """A layer with random weights, and an input."""
    layer = Linear("q_proj", 11, 5, False, jnp.float32, lora)
    rng = np.random.default_rng(0)
    for parameter in (layer.weight, layer.lora_A, layer.lora_B):
        parameter[...] = jnp.asarray(rng.normal(size=parameter.shape), jnp.float32)
    return layer, jnp.asarray(rng.normal(size=(4, 11)), jnp.float32)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 7 / 3), (True, 7 / 3**0.5)])
def test_scale(rslora, scale):
    """The layer is W x + scale B A x, with scale alpha / r, or alpha / sqrt(r) (rsLoRA)."""
    layer, x_TD = linear(lora_config(rslora=rslora))
    w, a, b, x = (
        np.asarray(p, np.float64)
        for p in (layer.weight[...], layer.lora_A[...], layer.lora_B[...], x_TD)
    )
    np.testing.assert_allclose(layer(x_TD, None), x @ (w + scale * b @ a).T, rtol=1e-5, atol=1e-5)


def test_dropout_acts_on_the_adapter_alone():
    """With an adapter of zeros there is nothing to drop; one key always drops the same."""
    model, adapter, base = ours(lora=lora_config(dropout=0.4))
    tokens_T = random_tokens(9)
    run = jax.jit(model.logits)
    keys = jax.random.split(jax.random.key(0), 3)
    zero_TV = run(model.zero_adapter(), base, tokens_T)
    np.testing.assert_array_equal(run(model.zero_adapter(), base, tokens_T, keys[0]), zero_TV)
    first, again, other = (
        np.asarray(run(adapter, base, tokens_T, key)) for key in (keys[0], keys[0], keys[1])
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_dropout_is_unbiased():
    """The mean over keys is the output without dropout, as kept values are x / keep."""
    layer, x_TD = linear(lora_config("q_proj", dropout=0.3))
    keys = jax.random.split(jax.random.key(0), (5_000, len(x_TD)))
    dropped_KTD = jax.jit(jax.vmap(lambda keys_T: layer(x_TD, keys_T)))(keys)
    plain_TD = np.asarray(layer(x_TD, None))
    spread_TD = np.asarray(dropped_KTD.std(axis=0)) / len(keys) ** 0.5
    assert (spread_TD > 0).all()
    assert (np.abs(dropped_KTD.mean(axis=0) - plain_TD) < 4.5 * spread_TD).all()
