"""Likelihoods of continuations: equal to the full softmax in float64, whatever the batches."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from g2is_jax.data.batches import pad_batch
from g2is_jax.data.chat import Encoded
from g2is_jax.evaluation import likelihood
from g2is_jax.evaluation.likelihood import continuations, likelihoods
from g2is_jax.model.generate import Prompts, Stops, generate
from g2is_jax.model.sampling import GenerateConfig
from g2is_jax.runs.errors import InputError
from g2is_jax.training import loss as of_loss
from g2is_jax.training.loss import example_loss
from tests.support.tiny_models import NO_LORA, both, lora_config, oracle_logits, ours, random_tokens

LENGTHS = (14, 2, 24, 9, 15, 24, 31)


@pytest.fixture(scope="module")
def adapted():
    """A random model with an adapter that matters: model, adapter, base."""
    return ours("llama", lora_config(dropout=0.1))


def random_rows(lengths, seed: int = 0) -> list[Encoded]:
    """Random tokens, of which the later half is supervised."""
    tokens = [random_tokens(length, seed + length) for length in lengths]
    return [Encoded(t, np.arange(len(t)) >= max(len(t) // 2, 1), False) for t in tokens]


def likelihood_of(logits_TV, row: Encoded) -> tuple[float, int, bool]:
    """From all logits of a row, in float64, a token at a time."""
    logits_TV = np.asarray(logits_TV, np.float64)
    total, count, greedy = 0.0, 0, True
    for place in np.flatnonzero(row.supervised_T):
        logits_V, token = logits_TV[place - 1], row.tokens_T[place]
        total += logits_V[token] - np.log(np.exp(logits_V).sum())
        count += 1
        greedy &= bool(logits_V[token] == logits_V.max())
    return total, count, greedy


def greedy_continuation(adapted, prompt, count: int) -> np.ndarray:
    prompts = Prompts(prompt[None], np.ones((1, len(prompt)), bool), np.zeros(1, np.int32))
    config = GenerateConfig(count, temperature=0.0, top_p=1.0, seed=0)
    (reply,) = generate(*adapted, prompts, config, Stops((), ()), str)
    return np.array(reply.tokens, np.int32)


@pytest.fixture(scope="module")
def rows(adapted):
    """Random rows, one continued greedily, one greedily but for its last token, one unasked."""
    rows = random_rows(LENGTHS)
    prompt = random_tokens(7)
    followed = greedy_continuation(adapted, prompt, 5)
    missed = followed + np.array([0, 0, 0, 0, 1], np.int32)
    rows += continuations([(prompt, followed), (prompt, missed)], 64)
    return [*rows, Encoded(prompt, np.zeros(7, bool), True)]


@pytest.fixture(scope="module")
def expected(adapted, rows):
    model, adapter, base = adapted
    run = jax.jit(model.logits)
    return [
        likelihood_of(run(adapter, base, np.pad(row.tokens_T, (0, 31 - len(row.tokens_T)))), row)
        for row in rows
    ]


def assert_equal(found, expected):
    sums_M, counts_M, greedy_M = zip(*expected, strict=True)
    assert found.sums_M.dtype == np.float64
    np.testing.assert_allclose(found.sums_M, sums_M, rtol=1e-5)
    np.testing.assert_array_equal(found.counts_M, counts_M)
    np.testing.assert_array_equal(found.greedy_M, greedy_M)


@pytest.mark.parametrize("batch_tokens", [1, 80, 10_000])
def test_equals_full_softmax(adapted, rows, expected, batch_tokens):
    assert [greedy for _, _, greedy in expected] == [False] * len(LENGTHS) + [True, False, True]
    assert_equal(likelihoods(*adapted, rows, batch_tokens), expected)


def test_order_does_not_matter(adapted, rows, expected):
    assert_equal(likelihoods(*adapted, rows[::-1], 80), expected[::-1])


def test_the_next_batch_is_dispatched_before_the_last_is_waited_for(adapted, monkeypatch):
    """Each of four batches holds one row; what they came to is there once it is asked for."""
    events: list[str] = []

    class Later:
        def __init__(self, batch: int, value: float):
            self.batch, self.value = batch, value

        def __array__(self, dtype=None, copy=None) -> np.ndarray:
            events.append(f"end {self.batch}")
            return np.array([self.value])

    def dispatched(adapter, base, tokens_BT, supervised_BT) -> tuple[Later, Later, Later]:
        batch = sum(event.startswith("start") for event in events)
        events.append(f"start {batch}")
        return Later(batch, -float(batch)), Later(batch, 1), Later(batch, True)

    monkeypatch.setattr(likelihood, "likelihood_function", lambda model, mesh: dispatched)
    found = likelihoods(*adapted, random_rows((3, 4, 5, 6)), 1)
    order = "start 0, start 1, end 0, start 2, end 1, start 3, end 2, end 3"
    assert ", ".join(dict.fromkeys(events)) == order
    assert found.sums_M.tolist() == [0, -1, -2, -3]


def test_equals_the_loss_of_training(adapted, rows):
    """Without its dropout: the same sum, with the other sign, and the same count."""
    model, adapter, base = adapted
    found = likelihoods(model, adapter, base, rows, 80)
    batch = pad_batch(rows, range(len(rows)), len(rows), max(len(row.tokens_T) for row in rows))
    loss = jax.jit(jax.vmap(functools.partial(example_loss, model, adapter, base)))
    sums_B, counts_B = loss(batch.tokens_BT, batch.supervised_BT)
    np.testing.assert_allclose(-found.sums_M, sums_B, rtol=1e-5)
    np.testing.assert_array_equal(found.counts_M, counts_B)


def test_logits_are_those_of_some_tokens_at_a_time(adapted, monkeypatch):
    """No array of the program has a value for each token of the batch and each of the words."""
    monkeypatch.setattr(of_loss, "tokens_with_logits", lambda size: 4)
    model, adapter, base = adapted
    fresh = dataclasses.replace(model)  # another model to functools.cache
    batch = (jnp.zeros((3, 17), int), jnp.ones((3, 17), bool))
    text = likelihood.likelihood_function(fresh, None).lower(adapter, base, *batch).as_text()
    shapes = re.findall(rf"tensor<([\dx]*)x{model.config.vocab_size}xf32>", text)
    rows = {int(np.prod([int(side) for side in shape.split("x")])) for shape in shapes}
    assert 4 in rows
    assert max(rows) <= model.config.hidden_size  # the head itself, of whatever dtype


def test_equals_transformers(torch, tmp_path):
    theirs, model, base = both(torch, tmp_path, "gemma2")
    rows = random_rows(LENGTHS, seed=3)
    expected = [likelihood_of(oracle_logits(torch, theirs, row.tokens_T), row) for row in rows]
    assert_equal(likelihoods(model, {}, base, rows, 100), expected)


def test_rows_as_long_as_the_model_takes(torch, tmp_path):
    """Their width is no multiple of eight, and they are not padded to one."""
    theirs, model, base = both(torch, tmp_path, "llama", NO_LORA, max_position_embeddings=27)
    rows = random_rows((27, 26, 11))
    expected = [likelihood_of(oracle_logits(torch, theirs, row.tokens_T), row) for row in rows]
    assert_equal(likelihoods(model, {}, base, rows, 54), expected)
    with pytest.raises(InputError, match="28 tokens are more than the model's max_position"):
        likelihoods(model, {}, base, random_rows((28, 3)), 54)


def test_long_prompts_lose_their_beginning():
    prompt, continuation = np.arange(10, 20), [7, 8, 9]
    whole, cut, bare = (continuations([(prompt, continuation)], n)[0] for n in (13, 12, 4))
    assert whole.tokens_T.tolist() == [*range(10, 20), 7, 8, 9]
    assert not whole.truncated
    assert cut.tokens_T.tolist() == [*range(11, 20), 7, 8, 9]
    assert cut.truncated
    assert bare.tokens_T.tolist() == [19, 7, 8, 9]
    for row in (whole, cut, bare):
        assert row.tokens_T.dtype == np.int32
        assert row.tokens_T[row.supervised_T].tolist() == continuation


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([], [3]), "pair 1: the prompt is empty, .*; begin it with"),
        (([3], []), "pair 1: the continuation is empty; leave"),
        (([3], [3] * 6), "pair 1: a continuation of 6 tokens .* within 6; shorten"),
    ],
)
def test_wrong_pairs(pair, message):
    with pytest.raises(InputError, match=message):
        continuations([([1], [2]), pair], 6)


def test_no_rows(adapted):
    assert likelihoods(*adapted, [], 80).sums_M.shape == (0,)


def test_batches_have_room_for_what_comes_later(rows):
    """A cache holds prompts and replies: short prompts with long replies fill it too."""
    later, tokens = 24, 96
    plans = list(likelihood.batches("rows", rows, tokens, 1024, later=later))
    assert sorted(row for batch in plans for row in batch.rows_B if row >= 0) == [*range(len(rows))]
    places = [batch.tokens_BT.shape[0] * (batch.tokens_BT.shape[1] + later) for batch in plans]
    longest = max(len(row.tokens_T) for row in rows)
    assert max(places) <= max(tokens, longest + 8 + later)
    widths = {batch.tokens_BT.shape[1] for batch in likelihood.batches("rows", rows, tokens, 1024)}
    assert max(batch.tokens_BT.shape[1] for batch in plans) == max(widths)


def test_processes_share_the_batches(monkeypatch, capsys):
    rows, shares = random_rows(LENGTHS), []
    for process in range(2):
        monkeypatch.setattr(likelihood, "process_share", lambda process=process: (process, 2))
        of = likelihood.batches("rows", rows, 32, 1024)
        shares.append([row for batch in of for row in batch.rows_B.tolist() if row >= 0])
        mine = len(shares[-1])
        assert f"rows: {mine}/{mine} rows" in capsys.readouterr().err
    assert sorted(shares[0] + shares[1]) == list(range(len(rows)))
    assert all(shares)
