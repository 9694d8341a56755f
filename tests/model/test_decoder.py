"""The decoder against transformers' Llama, from the rotary table up to the logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from tiny_llama import CONFIG, NO_LORA, both, logits, ours, random_llama, random_tokens
from tiny_llama import torch_logits as oracle_logits

from g2is_jax.model.build import load_model
from g2is_jax.model.decoder import Attention, Block, Mlp, RmsNorm, rotary_tables

T = 512
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def llama(torch):
    return random_llama(torch)


@pytest.fixture(scope="module")
def hidden_TD():
    return np.random.default_rng(1).normal(size=(T, CONFIG.hidden_size)).astype(np.float32)


def filled(module, oracle):
    """The module with the oracle's weights; the names have to agree."""
    for name, value in oracle.state_dict().items():
        parameter = functools.reduce(getattr, name.split("."), module)
        assert parameter.shape == tuple(value.shape), name
        parameter[...] = jnp.asarray(value.numpy())
    return module


def rotary_of(torch, llama):
    x = torch.zeros(1, T, CONFIG.hidden_size)
    return llama.model.rotary_emb(x, torch.arange(T)[None])


def assert_close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), theirs.detach().numpy(), rtol=0, atol=TOLERANCE)


def causal(torch):
    return torch.full((T, T), float("-inf")).triu(1)[None, None]


def test_rotary_tables(torch, llama):
    cosine, sine = rotary_tables(jnp.arange(T), CONFIG.head_dim, CONFIG.rope_theta)
    for table, theirs in zip((cosine, sine), rotary_of(torch, llama), strict=True):
        assert_close(jnp.concatenate([table, table], axis=-1), theirs[0])


def test_norm(torch, llama, hidden_TD):
    norm = filled(RmsNorm(CONFIG.hidden_size, CONFIG.rms_norm_eps, jnp.float32), llama.model.norm)
    small_TD = 0.01 * hidden_TD  # of a size at which eps matters
    assert_close(norm(jnp.asarray(small_TD)), llama.model.norm(torch.tensor(small_TD)))


def test_attention(torch, llama, hidden_TD):
    theirs = llama.model.layers[1].self_attn
    attention = filled(Attention(CONFIG, jnp.float32, NO_LORA), theirs)
    y_TD, _ = attention(jnp.asarray(hidden_TD), 0, None, [None] * 4)
    expected, _ = theirs(
        torch.tensor(hidden_TD)[None],
        position_embeddings=rotary_of(torch, llama),
        attention_mask=causal(torch),
    )
    assert_close(y_TD, expected[0])


def test_mlp(torch, llama, hidden_TD):
    theirs = llama.model.layers[1].mlp
    mlp = filled(Mlp(CONFIG, jnp.float32, NO_LORA), theirs)
    assert_close(mlp(jnp.asarray(hidden_TD), [None] * 3), theirs(torch.tensor(hidden_TD)))


def test_block(torch, llama, hidden_TD):
    theirs = llama.model.layers[0]
    block = filled(Block(CONFIG, jnp.float32, NO_LORA), theirs)
    y_TD, _ = block(jnp.asarray(hidden_TD), 0, None, None)
    expected = theirs(
        torch.tensor(hidden_TD)[None],
        position_embeddings=rotary_of(torch, llama),
        attention_mask=causal(torch),
    )
    assert_close(y_TD, expected[0] if expected.ndim == 3 else expected)


@pytest.mark.parametrize("tied", [False, True])
def test_logits(torch, tmp_path, tied):
    llama, model, base = both(torch, tmp_path, tied)
    assert ("lm_head" in base) is not tied
    tokens_T = random_tokens(T)
    expected_TV = oracle_logits(torch, llama, tokens_T)
    assert expected_TV.std() > 0.5  # else the tolerance would say little
    logits_TV = logits(model, {}, base, tokens_T)
    assert logits_TV.dtype == np.float32
    np.testing.assert_allclose(logits_TV, expected_TV, rtol=0, atol=TOLERANCE)


def test_logits_of_a_trained_model(torch, shared_data):
    from transformers import LlamaForCausalLM

    folder = shared_data / "stories260K"
    llama = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager")
    model, base = load_model(epath.Path(folder), NO_LORA, "float32", remat=False)
    tokens_T = np.random.default_rng(2).integers(0, 512, T).astype(np.int32)
    expected_TV = oracle_logits(torch, llama, tokens_T)
    np.testing.assert_allclose(
        logits(model, {}, base, tokens_T), expected_TV, rtol=0, atol=TOLERANCE
    )


def test_bfloat16_base_stays_near_float32(shared_data):
    """On a trained model: logits in float32 whose error is that of bfloat16, about 2^-8."""
    folder = epath.Path(shared_data / "stories260K")
    tokens_T = np.asarray([1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395])
    logits_TV = {}
    for dtype in ("float32", "bfloat16"):
        model, base = load_model(folder, NO_LORA, dtype, remat=False)
        assert {leaf.dtype for leaf in base.values()} == {jnp.dtype(dtype)}
        logits_TV[dtype] = logits(model, {}, base, tokens_T)
        assert logits_TV[dtype].dtype == np.float32
    error_TV = np.abs(logits_TV["bfloat16"] - logits_TV["float32"])
    assert 0 < error_TV.max() < 0.05 * np.abs(logits_TV["float32"]).max()


def test_later_tokens_do_not_matter():
    """Causal: exactly, since padding stands behind every example."""
    model, base = ours()
    tokens_T = random_tokens(31)
    changed_T = np.concatenate([tokens_T[:20], (tokens_T[20:] + 1) % CONFIG.vocab_size])
    logits_TV, changed_TV = (logits(model, {}, base, t) for t in (tokens_T, changed_T))
    np.testing.assert_array_equal(logits_TV[:20], changed_TV[:20])
    assert np.abs(logits_TV[20:] - changed_TV[20:]).min(axis=-1).max() > 0


def test_vmap_equals_a_loop():
    model, base = ours()
    tokens_BT = random_tokens(3 * 17).reshape(3, 17)
    batched = jax.jit(jax.vmap(model.logits, in_axes=(None, None, 0)))
    batched_BTV = batched({}, base, tokens_BT)
    looped_BTV = [logits(model, {}, base, tokens_T) for tokens_T in tokens_BT]
    np.testing.assert_allclose(batched_BTV, looped_BTV, rtol=0, atol=1e-5)


def test_remat_changes_no_value():
    tokens_T = random_tokens(23)
    (model, base), (saving, _) = ours(), ours(remat=True)
    assert "remat" in str(jax.make_jaxpr(saving.logits)({}, base, tokens_T))
    expected_TV = logits(model, {}, base, tokens_T)
    np.testing.assert_allclose(logits(saving, {}, base, tokens_T), expected_TV, rtol=0, atol=1e-5)


def test_base_is_an_argument():
    """The weights are not baked into the program as constants."""
    model, base = ours()
    lowered = jax.jit(model.logits).lower({}, base, random_tokens(7))
    values = sum(leaf.size for leaf in base.values())
    assert len(lowered.as_text()) < 4 * values
