"""A hidden-state row is the weighted mean over its own example, whatever runs beside it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from g2is_jax.data.batches import Plan
from g2is_jax.data.chat import Encoded
from g2is_jax.features import extract
from g2is_jax.features.hidden_states import EVEN, extract_hidden, hidden_function
from g2is_jax.features.store import Store, StoreConfig, StoreWriter, open_store
from g2is_jax.model.build import Model
from tests.support.random_llama import LORA, random_examples, random_model
from tests.support.tiny_models import both, random_tokens

LENGTHS = (9, 16, 14, 8, 6, 15, 7, 1)  # the last row is one token
PLANS = [
    Plan(np.array(rows), 2, width)
    for rows, width in (([4, 6], 8), ([3], 8), ([0, 7], 16), ([1, 2], 16), ([5], 16))
]


@functools.cache
def model() -> tuple[Model, dict]:
    network, _, base = random_model()
    return network, base


def by_hand(hidden_TD) -> np.ndarray:
    """sum_i i h_i / sum_i i in float64, token by token."""
    total, weights = np.zeros(hidden_TD.shape[1]), 0
    for i, h in enumerate(np.asarray(hidden_TD, np.float64), start=1):
        total, weights = total + i * h, weights + i
    return total / weights


def padded(encoded: list[Encoded], width: int, pad: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """tokens_BT and lengths_B."""
    tokens_BT = np.full((len(encoded), width), pad, np.int32)
    for tokens_T, example in zip(tokens_BT, encoded, strict=True):
        tokens_T[: len(example.tokens_T)] = example.tokens_T
    return tokens_BT, np.array([len(example.tokens_T) for example in encoded], np.int32)


def write_store(
    folder, order=range(8), batch_tokens=1, writer=StoreWriter, network_and_base=None
) -> Store | None:
    """Rows `order` of the 8 examples under their own numbers."""
    encoded, order = random_examples(LENGTHS), list(order)
    network, base = network_and_base or model()
    with writer(epath.Path(folder), order, StoreConfig("float32", chunk_rows=3)) as open_writer:
        extract_hidden(network, base, [encoded[i] for i in order], batch_tokens, open_writer)
    return open_store(epath.Path(folder))


@functools.cache
def expected() -> np.ndarray:
    """Each row alone, without padding."""
    network, base = model()

    @jax.jit
    def hidden(tokens_T):
        return network.step(network.zero_adapter(), base, tokens_T, 0, None)[0]

    return np.stack([by_hand(hidden(e.tokens_T)) for e in random_examples(LENGTHS)])


# Against transformers.


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_row_is_the_weighted_mean_of_transformers_hidden_states(torch, tmp_path, family):
    theirs, network, base = both(torch, tmp_path, family, LORA)
    lengths = (513, 1, 66, 200)
    encoded = [
        Encoded(random_tokens(length, seed), np.ones(length, bool), False)
        for seed, length in enumerate(lengths)
    ]
    rows = hidden_function(network, None)(base, *padded(encoded, 520))
    theirs = theirs.double()
    for row, example in zip(rows, encoded, strict=True):
        tokens = torch.tensor(example.tokens_T[None], dtype=torch.long)
        with torch.no_grad():
            hidden = theirs(tokens, output_hidden_states=True).hidden_states[-1][0]
        wanted = by_hand(hidden.numpy())
        assert np.linalg.norm(row - wanted) < 2e-5 * np.linalg.norm(wanted)


# Execution changes nothing.


@pytest.mark.parametrize(
    ("order", "batch_tokens"),
    [(range(8), 1000), (range(8), 1), ([5, 2, 7, 0, 1, 6, 4, 3], 1)],
    ids=["one batch", "single rows", "another order"],
)
def test_extraction_writes_each_row_under_its_number(tmp_path, order, batch_tokens):
    store = write_store(tmp_path / "store", order, batch_tokens)
    norms_N = np.linalg.norm(expected(), axis=1)
    np.testing.assert_array_equal(store.rows_N, np.arange(8))
    np.testing.assert_allclose(store.norms_N, norms_N, rtol=1e-5)
    np.testing.assert_allclose(store.read()[:], expected() / norms_N[:, None], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(store.gradient_norms_N, 0)
    tokens_N = [e.supervised_T.sum() for e in random_examples(LENGTHS)]
    np.testing.assert_array_equal(store.tokens_N, tokens_N)
    assert store.finite_N.all()


def test_even_weights_give_the_plain_mean():
    encoded = random_examples(LENGTHS)
    network, base = model()
    hidden = jax.jit(lambda tokens_T: network.hidden(network.zero_adapter(), base, tokens_T))
    wanted = [np.asarray(hidden(e.tokens_T), np.float64).mean(axis=0) for e in encoded]
    for width in (16, 24):
        tokens_BT, lengths_B = padded(encoded, width)
        rows = hidden_function(network, None, EVEN)(base, tokens_BT, lengths_B)
        np.testing.assert_allclose(rows, wanted, atol=2e-6)
    tokens_BT, lengths_B = padded(encoded, 16)
    rows = hidden_function(network, None, EVEN)(base, tokens_BT, 0 * lengths_B)
    np.testing.assert_array_equal(rows, 0)
    assert not np.allclose(wanted, expected(), atol=1e-2)


def test_batch_and_padding_change_nothing():
    encoded = random_examples(LENGTHS)
    network, base = model()
    compute = functools.partial(hidden_function(network, None), base)
    for width in (16, 24, 64):
        np.testing.assert_allclose(compute(*padded(encoded, width)), expected(), atol=2e-6)
    backwards = compute(*padded(encoded[::-1], 16))[::-1]
    np.testing.assert_allclose(backwards, expected(), atol=2e-6)


def test_the_padding_token_changes_nothing():
    encoded = random_examples(LENGTHS)
    network, base = model()
    rows = [hidden_function(network, None)(base, *padded(encoded, 16, pad)) for pad in (0, 17)]
    np.testing.assert_array_equal(*rows)


# The mean, of given hidden states.


@pytest.fixture
def averaged(monkeypatch):
    """(hidden_BTD, lengths_B) -> features_BD, of a model that looks its hidden states up."""
    table = "embed_tokens"

    def look_up(self, adapter, base, tokens_T):
        return base[table][tokens_T]

    monkeypatch.setattr(Model, "hidden", look_up)
    network = dataclasses.replace(model()[0])  # another model to functools.cache

    def average(hidden_BTD, lengths_B):
        b, t, d = hidden_BTD.shape
        base = {table: jnp.asarray(hidden_BTD).reshape(-1, d)}
        tokens_BT = np.arange(b * t, dtype=np.int32).reshape(b, t)
        return np.asarray(
            hidden_function(network, None)(base, tokens_BT, np.array(lengths_B, np.int32))
        )

    return average


def random_hidden(*shape: int) -> np.ndarray:
    return np.random.default_rng(4).normal(size=shape).astype(np.float32)


def test_weights_are_the_positions(averaged):
    hidden_BTD = random_hidden(3, 11, 5)
    rows = averaged(hidden_BTD, [11, 7, 2])
    wanted = [by_hand(h_TD[:n]) for h_TD, n in zip(hidden_BTD, (11, 7, 2), strict=True)]
    np.testing.assert_allclose(rows, wanted, rtol=1e-5, atol=1e-6)


def test_a_row_of_one_token_is_its_hidden_state(averaged):
    hidden_BTD = random_hidden(2, 4, 5)
    np.testing.assert_array_equal(averaged(hidden_BTD, [1, 1]), hidden_BTD[:, 0])


def test_padding_counts_for_nothing_even_if_it_is_not_finite(averaged):
    hidden_BTD = random_hidden(2, 8, 5)
    expected = averaged(hidden_BTD, [5, 3])
    hidden_BTD[0, 5:], hidden_BTD[1, 3:] = np.nan, np.inf
    np.testing.assert_array_equal(averaged(hidden_BTD, [5, 3]), expected)


def test_the_square_of_a_length_need_not_be_an_integer(averaged):
    rows = averaged(np.ones((1, 70_000, 1), np.float32), [70_000])
    np.testing.assert_allclose(rows, 1, rtol=1e-4)


def test_an_empty_place_is_zero(averaged):
    np.testing.assert_array_equal(averaged(random_hidden(2, 8, 5), [0, 0]), 0)


def test_bfloat16_states_are_averaged_in_float32(averaged):
    """A sum in bfloat16 would lose most of its 2,048 terms."""
    hidden_BTD = jnp.asarray(1 + 0.1 * random_hidden(1, 2048, 5), jnp.bfloat16)
    rows = averaged(hidden_BTD, [2048])
    assert rows.dtype == np.float32
    wanted = by_hand(hidden_BTD[0].astype(jnp.float32))
    np.testing.assert_allclose(rows[0], wanted, rtol=1e-5)


# Resumption and compilation.


class Killed(StoreWriter):
    """Dies when it is handed the second chunk."""

    def write(self, index, *parts):
        if index == 1:
            raise KeyboardInterrupt
        super().write(index, *parts)


def test_resumed_extraction_computes_only_what_is_missing(tmp_path, monkeypatch):
    computed = []
    lay_out = extract.lay_out

    def counting(encoded, plan):
        computed.extend(plan.rows.tolist())
        return lay_out(encoded, plan)

    monkeypatch.setattr(extract, "lay_out", counting)
    write_store(tmp_path / "whole")
    whole = computed.copy()
    assert sorted(whole) == list(range(8))
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "killed", writer=Killed)
    computed.clear()
    write_store(tmp_path / "killed")
    assert 0 < len(computed) < 8
    assert computed == whole[-len(computed) :]
    files = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}
    assert {f.name: f.read_bytes() for f in (tmp_path / "killed").iterdir()} == files


def test_one_compilation_for_each_shape(tmp_path, monkeypatch):
    traced = []
    hidden = Model.hidden

    def counting(self, adapter, base, tokens_T):
        traced.append(tokens_T.shape)
        return hidden(self, adapter, base, tokens_T)

    monkeypatch.setattr(Model, "hidden", counting)
    monkeypatch.setattr(extract, "length_batches", lambda *_, **__: PLANS)
    network, base = model()
    fresh = dataclasses.replace(network)  # another model to functools.cache
    for folder in ("pool", "validation"):
        write_store(tmp_path / folder, network_and_base=(fresh, base))
    assert sorted(traced) == [(8,), (16,)]  # of five batches
