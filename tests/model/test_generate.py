"""Greedy decoding: against recorded text, transformers, a loop without cache, and itself alone."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from tiny_llama import NO_LORA, both, lora, ours, random_adapter, random_tokens

from g2is_jax.model.build import load_model
from g2is_jax.model.generate import greedy_function, until_end


def decode(model, adapter, base, prompts, new_tokens, ends=(), width=None):
    """Continuations of prompts, padded on the right with tokens that would disturb if seen."""
    width = width or max(map(len, prompts))
    prompts_BT = np.full((len(prompts), width), 99, np.int32)
    for row, prompt in enumerate(prompts):
        prompts_BT[row, : len(prompt)] = prompt
    lengths_B = jnp.asarray([len(prompt) for prompt in prompts], jnp.int32)
    run = greedy_function(model, new_tokens, ends)
    return np.asarray(run(adapter, base, jnp.asarray(prompts_BT), lengths_B))


def decode_uncached(model, adapter, base, prompt, new_tokens):
    """The whole text through the model for every token."""
    tokens_T = np.zeros(len(prompt) + new_tokens, np.int32)
    tokens_T[: len(prompt)] = prompt
    run = jax.jit(model.logits)
    for place in range(len(prompt), len(tokens_T)):
        tokens_T[place] = np.argmax(run(adapter, base, jnp.asarray(tokens_T))[place - 1])
    return tokens_T[len(prompt) :]


@pytest.fixture(scope="module")
def stories(shared_data):
    return load_model(epath.Path(shared_data / "stories260K"), NO_LORA, "float32", remat=False)


@pytest.fixture(scope="module")
def adapted():
    """A random model with an adapter that matters."""
    model, base = ours(config=lora())
    return model, random_adapter(model), base


def test_recorded_story(stories, shared_data):
    """200 tokens of the trained model, as its authors printed them."""
    recorded = json.loads((shared_data / "stories260K/greedy_reference.json").read_text())
    tokens = recorded["token_ids"]
    assert tokens[0] == 1
    model, base = stories
    np.testing.assert_array_equal(decode(model, {}, base, [[1]], 200)[0], tokens[1:201])


@pytest.mark.parametrize("tied", [False, True])
def test_equals_transformers(torch, tmp_path, tied):
    llama, model, base = both(torch, tmp_path, tied)
    prompt = random_tokens(23)
    tokens = torch.tensor(prompt[None], dtype=torch.long)
    expected = llama.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=64,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    np.testing.assert_array_equal(decode(model, {}, base, [prompt], 64)[0], expected[0, 23:])


def test_mixed_lengths_equal_each_alone(adapted):
    model, adapter, base = adapted
    prompts = [random_tokens(length, seed=length) for length in (5, 1, 19, 11)]
    together = decode(model, adapter, base, prompts, 30)  # 19 tokens wide
    assert len(set(map(tuple, together.tolist()))) == len(prompts)
    for row, prompt in enumerate(prompts):
        alone = decode(model, adapter, base, [prompt], 30, width=19)[0]
        np.testing.assert_array_equal(together[row], alone)


def test_padding_does_not_matter(adapted):
    model, adapter, base = adapted
    prompts = [random_tokens(length, seed=length) for length in (5, 1, 19, 11)]
    wide = decode(model, adapter, base, prompts, 30, width=24)
    np.testing.assert_array_equal(decode(model, adapter, base, prompts, 30), wide)


def test_cached_equals_uncached(adapted):
    model, adapter, base = adapted
    prompt = random_tokens(13)
    cached = decode(model, adapter, base, [prompt], 40)[0]
    np.testing.assert_array_equal(cached, decode_uncached(model, adapter, base, prompt, 40))
    plain = decode(model, model.zero_adapter(), base, [prompt], 40)[0]
    assert (plain != cached).any()  # the adapter is in use


def test_stops_at_end_tokens(adapted):
    """A row repeats its end token while others go on; before it nothing changes."""
    model, adapter, base = adapted
    prompts = [random_tokens(length, seed=length) for length in (5, 1, 19, 11)]
    free = decode(model, adapter, base, prompts, 30)
    ends = (int(free[0, 4]), int(free[2, 11]))
    stopped = decode(model, adapter, base, prompts, 30, ends)
    places = []
    for row in range(len(prompts)):
        hits = np.flatnonzero(np.isin(free[row], ends))
        place = hits[0] if len(hits) else 29
        places.append(place)
        np.testing.assert_array_equal(stopped[row, : place + 1], free[row, : place + 1])
        assert (stopped[row, place:] == stopped[row, place]).all()
        assert until_end(stopped[row], ends) == free[row, : place + (not len(hits))].tolist()
    assert places[0] <= 4
    assert places[2] <= 11


def test_everyone_ends_at_once(adapted):
    """The first token may be the end; the loop then does nothing."""
    model, adapter, base = adapted
    prompt = random_tokens(5)
    (first,) = decode(model, adapter, base, [prompt], 1)[0].tolist()
    stopped = decode(model, adapter, base, [prompt, prompt], 9, (first,))
    assert (stopped == first).all()
    assert until_end(stopped[0], (first,)) == []


def test_one_compilation_for_a_shape(adapted):
    model, adapter, base = adapted
    run = greedy_function(model, 7, (3,))
    for seed in range(3):
        decode(model, adapter, base, [random_tokens(9, seed), random_tokens(4, seed)], 7, (3,))
    assert run._cache_size() == 1
    assert greedy_function(model, 7, (3,)) is run


def test_until_end():
    assert until_end([4, 5, 2, 6], (2,)) == [4, 5]
    assert until_end(np.array([4, 5]), ()) == [4, 5]
    assert until_end([2], (1, 2)) == []
