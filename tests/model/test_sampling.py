"""Sampling: drawn as often as the exact probabilities say, from the same tokens as transformers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from g2is_jax.model.generate import Prompts, Stops, generate
from g2is_jax.model.sampling import GenerateConfig, choose, nucleus, row_keys
from g2is_jax.runs.errors import InputError
from tests.support.tiny_models import NO_LORA, ours, random_tokens

LOGITS = np.array([0.3, 2.0, -1.0, 1.1, 0.9, -4.0, 1.6], np.float32)
DRAWS = 40_000


def exact(logits_V, temperature: float, top_p: float) -> np.ndarray:
    """Return probabilities in float64, by a loop over the tokens, likeliest first."""
    weights_V = np.exp(np.asarray(logits_V, np.float64) / temperature)
    weights_V /= weights_V.sum()
    kept_V, reached = np.zeros_like(weights_V), 0.0
    for token in np.argsort(-weights_V, kind="stable"):
        if reached < top_p:
            kept_V[token] = weights_V[token]
            reached += weights_V[token]
    return kept_V / kept_V.sum()


def assert_drawn_as(tokens, probabilities_V) -> None:
    """Check chi-square within five deviations of chance, and no draw of probability zero."""
    counts_V = np.bincount(tokens, minlength=len(probabilities_V))
    possible_V = probabilities_V > 0
    assert counts_V[~possible_V].sum() == 0
    expected = probabilities_V[possible_V] * counts_V.sum()
    freedom = possible_V.sum() - 1
    chi_square = ((counts_V[possible_V] - expected) ** 2 / expected).sum()
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom) + 1e-9


def rows_of(logits_V, count: int) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(logits_V)[None], (count, len(logits_V)))


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.0, 0.8), (2.5, 0.9), (0.7, 0.5)]
)
def test_drawn_as_often_as_exact(temperature, top_p):
    """Draws agree over rows at one step, and over steps of one row."""
    expected_V = exact(LOGITS, temperature, top_p)
    assert (top_p < 1) == bool((expected_V == 0).any())
    keys_B = row_keys(11, jnp.arange(DRAWS, dtype=jnp.uint32))
    over_rows = choose(rows_of(LOGITS, DRAWS), keys_B, 4, temperature, top_p)
    assert_drawn_as(np.asarray(over_rows), expected_V)
    drawn = functools.partial(
        choose, rows_of(LOGITS, 1), keys_B[:1], temperature=temperature, top_p=top_p
    )
    over_steps = jax.jit(jax.vmap(lambda step: drawn(step=step)[0]))(jnp.arange(DRAWS))
    assert_drawn_as(np.asarray(over_steps), expected_V)


def test_steps_and_rows_are_independent():
    """Pairs of tokens come as often as the product of their probabilities says."""
    probabilities_V = exact(LOGITS, 1.0, 0.8)
    pairs_VV = np.outer(probabilities_V, probabilities_V)
    keys_B = row_keys(11, jnp.arange(DRAWS, dtype=jnp.uint32))
    first, second = (
        np.asarray(choose(rows_of(LOGITS, DRAWS), keys_B, step, 1.0, 0.8)) for step in (0, 1)
    )
    assert_drawn_as(first * len(LOGITS) + second, pairs_VV.reshape(-1))
    assert_drawn_as(first[:-1:2] * len(LOGITS) + first[1::2], pairs_VV.reshape(-1))


def test_replies_begin_as_the_logits_say():
    """The first two drawn tokens of replies follow the model's probabilities."""
    model, adapter, base = ours("llama", NO_LORA)
    prompt_T = random_tokens(5)
    rows = 8_000
    prompts = Prompts(np.tile(prompt_T, (rows, 1)), np.ones((rows, 5), bool), np.arange(rows))
    config = GenerateConfig(2, temperature=0.5, top_p=0.6, seed=1)
    replies = generate(model, adapter, base, prompts, config, Stops((), ()), str)
    run = jax.jit(model.logits)
    first_V = exact(run(adapter, base, prompt_T)[-1], 0.5, 0.6)
    firsts, seconds = np.array([reply.tokens for reply in replies]).T
    assert_drawn_as(firsts, first_V)
    likeliest = int(np.argmax(first_V))
    second_V = exact(run(adapter, base, np.append(prompt_T, likeliest))[-1], 0.5, 0.6)
    assert (second_V > 0).sum() > 1
    assert_drawn_as(seconds[firsts == likeliest], second_V)


def theirs_kept(torch, logits_V, top_p: float) -> np.ndarray:
    from transformers import TopPLogitsWarper

    scores = TopPLogitsWarper(top_p)(None, torch.tensor(np.array(logits_V)[None]))
    return np.isfinite(scores[0].numpy())


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.99])
def test_nucleus_equals_transformers(torch, top_p):
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 5.0):
        logits_V = (scale * rng.normal(size=501)).astype(np.float32)
        expected_V = theirs_kept(torch, logits_V, top_p)
        np.testing.assert_array_equal(nucleus(jnp.asarray(logits_V), top_p), expected_V)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9])
def test_nucleus_with_ties(torch, top_p):
    """The nucleus is what transformers keeps, plus equals of the last token kept there."""
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(20):
        logits_V = rng.integers(-3, 3, 101).astype(np.float32)
        expected_V = theirs_kept(torch, logits_V, top_p)
        kept_V = np.asarray(nucleus(jnp.asarray(logits_V), top_p))
        assert kept_V[expected_V].all()
        assert (logits_V[kept_V & ~expected_V] == logits_V[expected_V].min()).all()
        order = rng.permutation(101)
        np.testing.assert_array_equal(nucleus(jnp.asarray(logits_V[order]), top_p), kept_V[order])
        broken += (kept_V & ~expected_V).any()
    assert broken  # there were ties to break


def test_nucleus_sorts_nothing():
    """A sort of a vocabulary takes a TPU's compiler a minute."""
    assert " sort" not in str(jax.make_jaxpr(lambda logits_V: nucleus(logits_V, 0.9))(jnp.ones(9)))


def test_nucleus_keeps_the_likeliest():
    for logits in ([0.0, 0.0, 0.0], [50.0, -50.0, -np.inf], [-3.0, -2.0, -1.0]):
        logits_V = jnp.asarray(logits, jnp.float32)
        kept_V = np.asarray(nucleus(logits_V, 1e-9))
        np.testing.assert_array_equal(kept_V, logits_V == logits_V.max())


def test_tiny_temperature_takes_the_likeliest():
    """The lowest temperature is exact for logits that differ little or lie far from zero."""
    logits_BV = jnp.asarray([[1e4, 1e4 + 1, -1e4], [0.0, -1e-3, 1e-3]], jnp.float32)
    keys_B = row_keys(0, jnp.arange(2, dtype=jnp.uint32))
    for top_p in (0.9, 1.0):
        np.testing.assert_array_equal(choose(logits_BV, keys_B, 0, 1e-6, top_p), [1, 2])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", 1e-40),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", float("nan")),
    ],
)
def test_wrong_settings(field, value):
    fields = {"new_tokens": 4, "temperature": 0.7, "top_p": 0.9, "seed": 0, field: value}
    with pytest.raises(InputError, match=rf"^{field} = .*; it must be"):
        GenerateConfig(**fields)
