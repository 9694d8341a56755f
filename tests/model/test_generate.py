"""Decoding: against recorded text, transformers, a loop without cache, and itself alone."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from g2is_jax.model.build import build_model, load_model
from g2is_jax.model.generate import (
    CHUNK,
    Prompts,
    Reply,
    Stops,
    decoding_functions,
    generate,
    left_aligned,
)
from g2is_jax.model.sampling import GenerateConfig
from g2is_jax.runs.errors import InputError
from tests.support.tiny_models import (
    FLOAT32,
    NO_LORA,
    RAW,
    both,
    config_of,
    lora_config,
    random_leaves,
    random_tokens,
)

NEVER = Stops((), ())
LENGTHS = (5, 1, 19, 11)
DISTURBING = 99  # what stands in the padding: it would change the reply if it were seen


def greedy(new_tokens: int) -> GenerateConfig:
    return GenerateConfig(new_tokens, temperature=0.0, top_p=1.0, seed=0)


def warm(new_tokens: int, seed: int = 3) -> GenerateConfig:
    return GenerateConfig(new_tokens, temperature=1.3, top_p=0.9, seed=seed)


def text_of(tokens: list[int]) -> str:
    return "".join(f"{token};" for token in tokens)


def padded(prompts, width=None, before=0, row_ids=None) -> Prompts:
    """Return padded prompts; `before`: padding tokens on a row's left, if it has so many."""
    width = width or max(map(len, prompts))
    tokens_BT = np.full((len(prompts), width), DISTURBING, np.int32)
    mask_BT = np.zeros((len(prompts), width), bool)
    for row, prompt in enumerate(prompts):
        start = min(before, width - len(prompt))
        tokens_BT[row, start : start + len(prompt)] = prompt
        mask_BT[row, start : start + len(prompt)] = True
    ids = range(len(prompts)) if row_ids is None else row_ids
    return Prompts(tokens_BT, mask_BT, np.asarray(ids, np.int32))


def reply_tokens(loaded, prompts: Prompts, config, stops=NEVER, chunk=CHUNK) -> list[list[int]]:
    return [reply.tokens for reply in replies_of(loaded, prompts, config, stops, chunk)]


def replies_of(loaded, prompts: Prompts, config, stops=NEVER, chunk=CHUNK) -> list[Reply]:
    return generate(*loaded, prompts, config, stops, text_of, chunk)


@pytest.fixture(scope="module")
def adapted():
    """A random model of two layers with an adapter that matters: model, adapter, base."""
    config = config_of("llama", num_hidden_layers=2, max_position_embeddings=64)
    model = build_model(config, lora_config(), FLOAT32)
    return model, random_leaves(model.adapter_shapes, seed=1), random_leaves(model.base_shapes)


@pytest.fixture(scope="module")
def prompts():
    return [random_tokens(length, seed=length) for length in LENGTHS]


@pytest.fixture(scope="module")
def free(adapted, prompts):
    """Return the replies to the four prompts without stops: 30 tokens each."""
    replies = replies_of(adapted, padded(prompts), greedy(30))
    assert all(len(reply.tokens) == 30 and not reply.ended for reply in replies)
    assert len({reply.text for reply in replies}) == len(LENGTHS)
    return [reply.tokens for reply in replies]


def test_recorded_story(shared_data):
    """The trained model gives the 200 tokens that its authors printed."""
    folder = epath.Path(shared_data / "stories260K")
    tokens = json.loads((folder / "greedy_reference.json").read_text())["token_ids"]
    assert tokens[0] == 1
    model, base = load_model(folder, NO_LORA, FLOAT32)
    (found,) = reply_tokens((model, {}, base), padded([[1]]), greedy(200))
    assert found == tokens[1:201]


@pytest.fixture
def one_thread(torch):
    """Limit torch to one thread: with a tiny model, more cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def theirs_alone(torch, theirs, prompt, new_tokens):
    tokens = torch.tensor(prompt[None], dtype=torch.long)
    theirs.generation_config.eos_token_id = None
    out = theirs.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("family", RAW)
def test_equals_transformers(torch, tmp_path, family):
    """transformers gets each prompt alone; here they share a batch, padded left, right or both."""
    theirs, model, base = both(torch, tmp_path, family)
    prompts = [random_tokens(length, seed=length) for length in (53, 1, 20)]
    expected = [theirs_alone(torch, theirs, prompt, 64) for prompt in prompts]
    for before in (0, 60, 4):
        found = reply_tokens((model, {}, base), padded(prompts, 60, before), greedy(64))
        assert found == expected, f"{before} places of padding before"


@pytest.mark.parametrize("config", [greedy(30), warm(30)], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("width", "before"), [(19, 19), (24, 0), (24, 24), (24, 3)])
def test_padding_does_not_matter(adapted, prompts, config, width, before):
    expected = reply_tokens(adapted, padded(prompts), config)
    assert reply_tokens(adapted, padded(prompts, width, before), config) == expected


@pytest.mark.parametrize("config", [greedy(30), warm(30)], ids=["greedy", "sampled"])
def test_rows_do_not_depend_on_their_batch(adapted, prompts, config):
    """Rows come alone, in another order, and beside rows that only fill the batch."""
    together = reply_tokens(adapted, padded(prompts), config)
    order = [2, 0, 3, 1]
    shuffled = padded([prompts[row] for row in order], row_ids=order)
    assert reply_tokens(adapted, shuffled, config) == [together[row] for row in order]
    filled = padded([[], prompts[1], [], prompts[2]], row_ids=[-1, 1, -1, 2])
    assert reply_tokens(adapted, filled, config) == [[], together[1], [], together[2]]
    for row, prompt in enumerate(prompts):
        (alone,) = reply_tokens(adapted, padded([prompt], 19, row_ids=[row]), config)
        assert alone == together[row]


@pytest.mark.parametrize("config", [greedy(30), warm(30)], ids=["greedy", "sampled"])
def test_chunks_do_not_matter(adapted, prompts, config):
    """One row holds a stop string, so that the text is searched after each chunk."""
    tokens = reply_tokens(adapted, padded(prompts), config)
    stops = Stops((), (text_of(tokens[1][16:18]),))
    found = [replies_of(adapted, padded(prompts), config, stops, chunk) for chunk in (1, 7, 64)]
    assert all(replies == found[0] for replies in found)
    assert found[0][1].ended
    assert any(not reply.ended for reply in found[0])


def test_cached_equals_uncached(adapted):
    """Without a cache the whole text goes through the model for every token."""
    model, adapter, base = adapted
    prompt = random_tokens(13)
    tokens_T = np.zeros(13 + 40, np.int32)
    tokens_T[:13] = prompt
    run = jax.jit(model.logits)
    for place in range(13, 13 + 40):
        tokens_T[place] = np.argmax(run(adapter, base, jnp.asarray(tokens_T))[place - 1])
    (cached,) = reply_tokens(adapted, padded([prompt]), greedy(40))
    assert cached == tokens_T[13:].tolist()
    (plain,) = reply_tokens((model, model.zero_adapter(), base), padded([prompt]), greedy(40))
    assert plain != cached  # the adapter is in use


def test_stops_at_end_tokens(adapted, prompts, free):
    """Each row ends before the first of them; nothing changes before it."""
    ends = (free[0][4], free[2][11])
    stopped = replies_of(adapted, padded(prompts), greedy(30), Stops(ends, ()))
    for tokens, reply in zip(free, stopped, strict=True):
        hits = np.flatnonzero(np.isin(tokens, ends))
        expected = tokens[: hits[0]] if len(hits) else tokens
        assert reply == Reply(expected, text_of(expected), len(hits) > 0)
    assert len(stopped[0].tokens) <= 4
    assert len(stopped[2].tokens) <= 11


def test_decoding_ends_with_the_last_row(adapted, prompts, free):
    """No step is done for rows that have ended, nor for rows that only fill the batch."""
    model, adapter, base = adapted
    ends = tuple({tokens[3] for tokens in free})
    rows = padded([*prompts, []])
    prefill, advance = decoding_functions(model, 0.0, 1.0, ends, None)
    tokens_BT, lengths_B = left_aligned(rows.tokens_BT, rows.mask_BT)
    keys_B = jax.random.split(jax.random.key(0), 5)
    state = prefill(adapter, base, tokens_BT, lengths_B, keys_B, room=49)
    _, _, count = advance(adapter, base, state, np.zeros(5, bool), 1, 30, chunk=30)
    assert int(count) <= 3


def test_first_token_ends(adapted, prompts, free):
    ends = tuple({tokens[0] for tokens in free})
    for reply in replies_of(adapted, padded(prompts), greedy(30), Stops(ends, ())):
        assert reply == Reply([], "", True)


def test_stop_string_over_two_tokens(adapted, prompts, free):
    """The string starts inside one token and ends inside the next; the text is cut before it."""
    string = text_of(free[0][7:9])[1:-1]
    replies = replies_of(adapted, padded(prompts), greedy(30), Stops((), (string,)))
    for tokens, reply in zip(free, replies, strict=True):
        whole = text_of(tokens)
        assert reply.text == whole.partition(string)[0]
        assert reply.ended == (string in whole)
        assert string not in text_of(reply.tokens[:-1])
        assert reply.tokens == tokens[: len(reply.tokens)]
    assert len(replies[0].tokens) <= 9
    assert string in text_of(replies[0].tokens)


def test_stop_string_in_the_first_token(adapted, prompts, free):
    string = text_of(free[0][:1])
    (reply,) = replies_of(adapted, padded(prompts[:1]), greedy(30), Stops((), (string,)))
    assert reply == Reply(free[0][:1], "", True)


def test_stop_string_that_never_comes(adapted, prompts, free):
    replies = replies_of(adapted, padded(prompts), greedy(30), Stops((), ("never",)))
    assert replies == [Reply(tokens, text_of(tokens), False) for tokens in free]


def test_the_earliest_stop_counts(adapted, prompts, free):
    """The earliest of stop token and strings counts; of strings ended by one token, the longest."""
    token, text = free[0][6], text_of(free[0])
    place = free[0].index(token)
    later = Stops((token,), (text_of(free[0][place : place + 2]),))
    (reply,) = replies_of(adapted, padded(prompts[:1]), greedy(30), later)
    assert reply == Reply(free[0][:place], text_of(free[0][:place]), True)
    strings = (text_of(free[0][4:6])[-2:], text_of(free[0][3:6]))
    first = min(text.find(string) for string in strings)
    (reply,) = replies_of(adapted, padded(prompts[:1]), greedy(30), Stops((token,), strings))
    assert text.startswith(reply.text)
    assert len(reply.text) == first


def test_same_seed_same_draw(adapted, prompts):
    """Another seed, or another row id, draws other tokens."""
    first = reply_tokens(adapted, padded(prompts), warm(30, seed=5))
    assert reply_tokens(adapted, padded(prompts), warm(30, seed=5)) == first
    for other in (
        reply_tokens(adapted, padded(prompts), warm(30, seed=6)),
        reply_tokens(adapted, padded(prompts, row_ids=[7, 8, 9, 10]), warm(30, seed=5)),
    ):
        assert all(a != b for a, b in zip(first, other, strict=True))


def test_cold_sampling_is_greedy(adapted, prompts, free):
    cold = GenerateConfig(30, temperature=1e-6, top_p=1.0, seed=0)
    assert reply_tokens(adapted, padded(prompts), cold) == free
    narrow = GenerateConfig(30, temperature=1.0, top_p=1e-6, seed=0)
    assert reply_tokens(adapted, padded(prompts), narrow) == free


def test_one_compilation_for_a_shape(adapted):
    model, _, _ = adapted
    functions = decoding_functions(model, 0.0, 1.0, (3,), None)
    for seed in range(3):
        rows = padded([random_tokens(9, seed), random_tokens(4 + seed, seed)])
        reply_tokens(adapted, rows, greedy(7), Stops((3,), ()))
    assert [function._cache_size() for function in functions] == [1, 1]
    assert decoding_functions(model, 0.0, 1.0, (3,), None) is functions


def test_prefill_computes_logits_of_last_tokens_alone(adapted):
    model, adapter, base = adapted
    prefill, _ = decoding_functions(model, 0.0, 1.0, (), None)
    keys_B = jax.random.split(jax.random.key(0), 2)
    text = prefill.lower(
        adapter, base, jnp.zeros((2, 17), jnp.int32), jnp.array([17, 3]), keys_B, room=18
    ).as_text()
    vocabulary = model.config.vocab_size
    assert f"tensor<2x1x{vocabulary}xf32>" in text
    assert f"17x{vocabulary}x" not in text


def test_no_room_for_the_reply(adapted):
    """There is room up to the model's last position, and padding takes none."""
    most = adapted[0].config.max_position_embeddings
    wide = padded([random_tokens(4)], width=most + 8, before=most)
    assert len(reply_tokens(adapted, wide, greedy(2))[0]) == 2
    long = padded([random_tokens(most - 2)])
    assert len(reply_tokens(adapted, long, greedy(2))[0]) == 2
    with pytest.raises(InputError, match=r"62 tokens leaves no room for 3 .* = 64; cut"):
        reply_tokens(adapted, long, greedy(3))


def test_left_aligned():
    tokens_BT = np.array([[9, 9, 1, 2], [1, 2, 3, 9], [9, 4, 9, 9], [9, 9, 9, 9]])
    mask_BT = tokens_BT != 9
    aligned_BT, lengths_B = left_aligned(tokens_BT, mask_BT)
    np.testing.assert_array_equal(lengths_B, [2, 3, 1, 0])
    for row, length in enumerate(lengths_B):
        expected = [t for t in tokens_BT[row] if t != 9]
        np.testing.assert_array_equal(aligned_BT[row, :length], expected)


def test_empty_stop_string():
    with pytest.raises(InputError, match="empty"):
        Stops((), ("a", ""))
