"""The decoder against transformers, family by family, from the rotary table up to the logits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from g2is_jax.model.attention import Attention
from g2is_jax.model.block import Block, Mlp
from g2is_jax.model.build import load_model
from g2is_jax.model.norm import RmsNorm
from g2is_jax.model.rope import positions_in, rotary_frequencies, rotary_tables
from g2is_jax.runs.errors import InputError
from tests.support.tiny_models import (
    FLOAT32,
    LLAMA_3_ROPE,
    NO_LORA,
    RAW,
    YARN_ROPE,
    both,
    config_of,
    logits,
    oracle,
    oracle_logits,
    ours,
    random_tokens,
)

T = 512
SHORT = 112  # one width, so that each family is compiled once for several tests
TOLERANCE = 2e-4
LAYER = 1  # without rope in smollm3
BY_KIND = ("gemma3_text", "olmo3")  # have a rope for each kind of layer
every_family = pytest.mark.parametrize("family", RAW)


@pytest.fixture(scope="module")
def theirs(torch):
    return functools.cache(functools.partial(oracle, torch))


@pytest.fixture(scope="module")
def hidden_TD():
    return np.random.default_rng(1).normal(size=(T, 42)).astype(np.float32)


def filled(module, oracle):
    """Return the module with the oracle's weights; the names have to agree."""
    for name, value in oracle.state_dict().items():
        parameter = functools.reduce(getattr, name.split("."), module)
        assert parameter.shape == tuple(value.shape), name
        parameter[...] = jnp.asarray(value.numpy())
    return module


def tables(family, layer=LAYER):
    c = config_of(family)
    rope = c.layers[layer].rope
    return None if rope is None else rotary_tables(jnp.arange(T), c.head_dim, rope)


def rotary_of(torch, model, layer=LAYER):
    """Return the tables of a layer, of its kind in the families that tell kinds apart."""
    kinds = (model.config.layer_types[layer],) if model.config.model_type in BY_KIND else ()
    return model.model.rotary_emb(torch.zeros(1, T, 42), torch.arange(T)[None], *kinds)


def mask_of(torch, family, layer=LAYER):
    """Return the additive mask, 0 where a query sees a key."""
    window = config_of(family).layers[layer].window
    unseen = torch.ones(T, T, dtype=torch.bool).triu(1)
    if window is not None:
        unseen |= torch.ones(T, T, dtype=torch.bool).tril(-window)
    return torch.zeros(T, T).masked_fill(unseen, float("-inf"))[None, None]


def assert_close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), theirs.detach().numpy(), rtol=0, atol=TOLERANCE)


@every_family
def test_rotary_tables(torch, theirs, family):
    for layer in (0,) if family == "smollm3" else (0, 1):
        expected = rotary_of(torch, theirs(family), layer)
        for table, expected_1TD in zip(tables(family, layer), expected, strict=True):
            assert_close(jnp.concatenate([table, table], axis=-1), expected_1TD[0])


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        LLAMA_3_ROPE,
        {"rope_type": "linear", "factor": 7.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        YARN_ROPE,
    ],
)
@pytest.mark.parametrize("theta", [1e4, 5e5, 5e6])
def test_frequencies_to_two_last_places(torch, theta, scaling):
    """Heads have their real width: far positions multiply every rounding by some thousands."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = (scaling or {"rope_type": "default"}) | {"rope_theta": theta}
    config = LlamaConfig(head_dim=128, rope_parameters=dict(rope), max_position_embeddings=131072)
    expected = LlamaRotaryEmbedding(config).inv_freq
    c = config_of("llama", rope_theta=..., rope_parameters=rope)
    frequencies = rotary_frequencies(128, c.layers[0].rope)
    assert frequencies.dtype == np.float32
    np.testing.assert_allclose(frequencies, expected.numpy(), rtol=3e-7)


@pytest.mark.parametrize("family", ["llama3", "llama_yarn", "qwen3_yarn"])
def test_scaled_rope_uses_all_three_bands(family):
    """Some frequencies are kept, some stretched by the whole factor, some by less."""
    ropes = [config_of(name).layers[0].rope for name in ("llama", family)]
    plain, scaled = (rotary_frequencies(10, rope) for rope in ropes)
    ratio = plain / scaled
    assert np.isclose(ratio, 1).any()
    assert np.isclose(ratio, 5).any()
    assert ((ratio > 1.1) & (ratio < 4.9)).any()


@every_family
def test_norm(torch, theirs, family, hidden_TD):
    norm = filled(RmsNorm(42, config_of(family), jnp.float32), theirs(family).model.norm)
    small_TD = 0.01 * hidden_TD  # of a size at which eps matters
    assert_close(norm(jnp.asarray(small_TD)), theirs(family).model.norm(torch.tensor(small_TD)))


@every_family
def test_attention(torch, theirs, family, hidden_TD):
    c, expected = config_of(family), theirs(family).model.layers[LAYER].self_attn
    attention = Attention(c, (c.layers[LAYER].window,), "self_attn", jnp.float32, "blocks", NO_LORA)
    y_TD, _ = filled(attention, expected)(
        jnp.asarray(hidden_TD), 0, 0, tables(family), None, None, [None] * 4
    )
    expected_BTD, _ = expected(
        torch.tensor(hidden_TD)[None],
        position_embeddings=rotary_of(torch, theirs(family)),
        attention_mask=mask_of(torch, family),
    )
    assert_close(y_TD, expected_BTD[0])


@every_family
def test_mlp(torch, theirs, family, hidden_TD):
    expected = theirs(family).model.layers[LAYER].mlp
    mlp = filled(Mlp(config_of(family), "mlp", jnp.float32, NO_LORA), expected)
    assert_close(mlp(jnp.asarray(hidden_TD), [None] * 3), expected(torch.tensor(hidden_TD)))


@every_family
def test_block(torch, theirs, family, hidden_TD):
    expected = theirs(family).model.layers[LAYER]
    c = config_of(family)
    block = filled(Block(c, (c.layers[LAYER],), jnp.float32, "blocks", NO_LORA), expected)
    y_TD, _ = block(jnp.asarray(hidden_TD), 0, 0, tables(family), None, None, None)
    expected_BTD = expected(
        torch.tensor(hidden_TD)[None],
        position_embeddings=rotary_of(torch, theirs(family)),
        attention_mask=mask_of(torch, family),
    )
    assert_close(y_TD, expected_BTD[0])


def log_softmax(logits_TV):
    shifted_TV = logits_TV - logits_TV.max(axis=-1, keepdims=True).astype(np.float64)
    return shifted_TV - np.log(np.exp(shifted_TV).sum(axis=-1, keepdims=True))


@every_family
def test_logits(torch, tmp_path, family):
    expected, model, base = both(torch, tmp_path, family)
    assert ("lm_head" in base) is not model.config.tie_word_embeddings
    tokens_T = random_tokens(600)
    logits_TV, expected_TV = logits(model, {}, base, tokens_T), None
    expected_TV = oracle_logits(torch, expected, tokens_T)
    assert expected_TV.std() > 0.5  # else the tolerance would say little
    assert logits_TV.dtype == np.float32
    np.testing.assert_allclose(logits_TV, expected_TV, rtol=0, atol=TOLERANCE)
    p_TV, q_TV = log_softmax(expected_TV), log_softmax(logits_TV)
    assert (np.exp(p_TV) * (p_TV - q_TV)).sum(axis=-1).max() <= 1e-6


def test_every_family_differs():
    """Families whose weights have the same shapes give different logits on the same weights."""
    seen = {}
    for family in RAW:
        model, _, base = ours(family)
        seen[family] = logits(model, {}, base, random_tokens(SHORT))[-1].round(3).tolist()
    assert seen.pop("mistral_full") == seen["llama"]  # as it should be
    assert len({tuple(last_V) for last_V in seen.values()}) == len(seen)


def test_logits_of_a_trained_model(torch, shared_data):
    from transformers import LlamaForCausalLM

    folder = shared_data / "stories260K"
    llama = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager")
    model, base = load_model(epath.Path(folder), NO_LORA, FLOAT32)
    tokens_T = random_tokens(T, seed=2, vocabulary=512)
    expected_TV = oracle_logits(torch, llama, tokens_T)
    np.testing.assert_allclose(
        logits(model, {}, base, tokens_T), expected_TV, rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("activations", ["float32", "bfloat16"])
def test_dtypes_on_a_trained_model(shared_data, dtype, activations):
    """Logits are float32, and their error is that of bfloat16, about 2^-8, or none."""
    folder = epath.Path(shared_data / "stories260K")
    tokens_T = np.asarray([1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395])
    settings = dataclasses.replace(FLOAT32, dtype=dtype, activations=activations)
    model, base = load_model(folder, NO_LORA, settings)
    assert {leaf.dtype for leaf in base.values()} == {jnp.dtype(dtype)}
    hidden, _ = jax.eval_shape(model.step, {}, base, jnp.zeros(4, int), 0, None)
    assert hidden.dtype == jnp.dtype(activations)
    assert {x.dtype for x in jax.tree.leaves(model.empty_caches(3))} == {jnp.dtype(activations)}
    exact = load_model(folder, NO_LORA, FLOAT32)
    exact_TV, logits_TV = (logits(m, {}, b, tokens_T) for m, b in (exact, (model, base)))
    assert logits_TV.dtype == np.float32
    error_TV = np.abs(logits_TV - exact_TV)
    if settings == FLOAT32:
        assert error_TV.max() == 0
    else:
        assert 0 < error_TV.max() < 0.05 * np.abs(exact_TV).max()


@every_family
def test_later_tokens_do_not_matter(family):
    """Causality is exact, since padding stands behind every example."""
    model, _, base = ours(family)
    tokens_T = random_tokens(SHORT)
    changed_T = np.concatenate([tokens_T[:20], (tokens_T[20:] + 1) % 131])
    logits_TV, changed_TV = (logits(model, {}, base, t) for t in (tokens_T, changed_T))
    np.testing.assert_array_equal(logits_TV[:20], changed_TV[:20])
    assert np.abs(logits_TV[20:] - changed_TV[20:]).min(axis=-1).max() > 0


@every_family
def test_packed_rows_equal_each_alone(family):
    """One row is longer than the sliding windows, and padding has a segment of its own."""
    model, _, base = ours(family)
    rows = [random_tokens(length, seed=length) for length in (9, 70, 1, 25)]
    padding_T = random_tokens(SHORT - sum(map(len, rows)))
    packed_T = np.concatenate([*rows, padding_T])
    segments_T = np.repeat(np.arange(5), [*map(len, rows), len(padding_T)])
    packed = functools.partial(model.logits, dropout_key=None, segments_T=jnp.asarray(segments_T))
    packed_TV = np.asarray(jax.jit(packed)({}, base, packed_T))
    for segment, row in enumerate(rows):
        row_T = np.pad(row, (0, SHORT - len(row)))  # as test_later_tokens_do_not_matter allows
        alone_TV = logits(model, {}, base, row_T)[: len(row)]
        np.testing.assert_allclose(packed_TV[segments_T == segment], alone_TV, rtol=0, atol=1e-4)
    unpacked_TV = logits(model, {}, base, packed_T)
    assert np.abs(unpacked_TV - packed_TV)[len(rows[0]) :].max() > 0.01


def test_positions_in_segments():
    np.testing.assert_array_equal(
        positions_in(jnp.asarray([4, 4, 4, 1, 1, 4, 0])), [0, 1, 2, 0, 1, 0, 0]
    )


def test_no_more_positions_than_the_model_has():
    model, _, base = ours()
    with pytest.raises(InputError, match=r"1025 tokens are more than .* max_position_embeddings"):
        jax.eval_shape(model.logits, {}, base, jnp.zeros(1025, int))
    with pytest.raises(InputError, match=r"1030 tokens are more than .* = 1024"):
        model.empty_caches(1030)


def test_vmap_equals_a_loop():
    model, _, base = ours()
    tokens_BT = random_tokens(3 * 17).reshape(3, 17)
    batched = jax.jit(jax.vmap(model.logits, in_axes=(None, None, 0)))
    batched_BTV = batched({}, base, tokens_BT)
    looped_BTV = [logits(model, {}, base, tokens_T) for tokens_T in tokens_BT]
    np.testing.assert_allclose(batched_BTV, looped_BTV, rtol=0, atol=1e-5)


def test_remat_changes_no_value():
    tokens_T = random_tokens(23)
    (model, _, base), (saving, _, _) = (
        ours(settings=dataclasses.replace(FLOAT32, remat=remat)) for remat in (False, True)
    )
    assert "remat" in str(jax.make_jaxpr(saving.logits)({}, base, tokens_T))
    expected_TV = logits(model, {}, base, tokens_T)
    np.testing.assert_allclose(logits(saving, {}, base, tokens_T), expected_TV, rtol=0, atol=1e-5)


def test_base_is_an_argument():
    """The weights are not baked into the program as constants."""
    model, _, base = ours()
    lowered = jax.jit(model.logits).lower({}, base, random_tokens(7))
    values = sum(leaf.size for leaf in base.values())
    assert len(lowered.as_text()) < 4 * values
