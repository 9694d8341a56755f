"""The loss of one example, and what training and feature extraction rely on in sums of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from g2is_jax.data.batches import pad_batch
from g2is_jax.training import loss as of_loss
from g2is_jax.training.loss import batch_loss, example_loss
from tests.support.tiny_models import lora_config, ours, random_leaves
from tests.support.tiny_training import VOCABULARY, random_rows, tiny_model

LENGTHS = (13, 6, 16, 9, 2)


@pytest.fixture(scope="module")
def world():
    model = tiny_model()
    return model, random_leaves(model.adapter_shapes, 1), random_leaves(model.base_shapes, 2)


@functools.cache
def value_and_gradient(model):
    return jax.jit(jax.value_and_grad(functools.partial(example_loss, model), has_aux=True))


@functools.cache
def logits_of(model):
    return jax.jit(model.logits)


def assert_same(ours, theirs, tolerance=1e-5):
    for path, leaf in theirs.items():
        error = np.linalg.norm(ours[path] - leaf) / np.linalg.norm(leaf)
        assert error <= tolerance, path


def test_equals_torch_cross_entropy(torch, world):
    """The loss sums over the supervised tokens, each predicted from the position before it."""
    model, adapter, base = world
    (row,) = random_rows([16])
    rng = np.random.default_rng(0)
    supervised_T = rng.random(16) < 0.5
    supervised_T[0] = True  # nothing predicts the first token: never counted
    (total, count), _ = value_and_gradient(model)(adapter, base, row.tokens_T, supervised_T)
    logits_TV = np.asarray(logits_of(model)(adapter, base, row.tokens_T))
    labels_T = torch.tensor(np.where(supervised_T, row.tokens_T, -100), dtype=torch.long)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits_TV[:-1]), labels_T[1:], reduction="sum"
    )
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    assert int(count) == supervised_T[1:].sum()


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("place", [1, 7, 15])
def test_one_supervised_token(world, place):
    """The loss of one token depends on the tokens up to it and on no later one."""
    model, adapter, base = world
    tokens_T = random_rows([16])[0].tokens_T
    supervised_T = np.arange(16) == place
    run = value_and_gradient(model)
    (total, count), gradient = run(adapter, base, tokens_T, supervised_T)
    assert int(count) == 1
    log_probabilities_V = jax.nn.log_softmax(logits_of(model)(adapter, base, tokens_T)[place - 1])
    assert float(total) == pytest.approx(-float(log_probabilities_V[tokens_T[place]]), rel=1e-5)
    later_T = np.where(np.arange(16) > place, (tokens_T + 5) % VOCABULARY, tokens_T)
    (same, _), same_gradient = run(adapter, base, later_T, supervised_T)
    assert float(same) == float(total)
    for path, leaf in gradient.items():
        np.testing.assert_array_equal(same_gradient[path], leaf)


@pytest.mark.usefixtures("optimised")
def test_padding_adds_exactly_nothing(world):
    """Padding of any content changes no bit of the loss or of the gradient's leaves."""
    model, adapter, base = world
    row = random_rows([9])[0]
    results = []
    for pad in (0, 7, VOCABULARY - 1):
        batch = pad_batch([row], [0], size_B=1, width_T=16, pad=pad)
        results.append(
            value_and_gradient(model)(adapter, base, batch.tokens_BT[0], batch.supervised_BT[0])
        )
    for result in results[1:]:
        assert jax.tree.all(jax.tree.map(np.array_equal, result, results[0]))
    (total, count), gradient = value_and_gradient(model)(
        adapter, base, row.tokens_T, row.supervised_T
    )
    (padded, padded_count), padded_gradient = results[0]
    assert padded_count == count
    assert float(padded) == pytest.approx(float(total), rel=1e-6)
    assert_same(padded_gradient, gradient)


@pytest.mark.usefixtures("optimised")
def test_empty_rows_add_exactly_nothing(world):
    model, adapter, base = world
    rows = random_rows(LENGTHS)
    run = jax.jit(jax.value_and_grad(functools.partial(batch_loss, model), has_aux=True))
    tight, roomy = (pad_batch(rows, range(5), size_B, 16) for size_B in (5, 8))
    (total, count), gradient = run(adapter, base, tight.tokens_BT, tight.supervised_BT)
    (same, same_count), same_gradient = run(adapter, base, roomy.tokens_BT, roomy.supervised_BT)
    assert int(count) == int(same_count) == sum(row.supervised_T.sum() for row in rows)
    assert float(same) == pytest.approx(float(total), rel=1e-6)
    assert_same(same_gradient, gradient)


def test_nothing_supervised(world):
    model, adapter, base = world
    tokens_T = random_rows([16])[0].tokens_T
    (total, count), gradient = value_and_gradient(model)(
        adapter, base, tokens_T, np.zeros(16, bool)
    )
    assert (float(total), int(count)) == (0.0, 0)
    assert all((leaf == 0).all() for leaf in gradient.values())


def test_weighted_mean_of_example_gradients_is_the_training_gradient(world):
    """Extraction divides each example by its own count; training adds the same gradients up."""
    model, adapter, base = world
    rows = random_rows(LENGTHS)
    batch = pad_batch(rows, range(5), 5, 16)

    def mean_loss(a):
        total, count = batch_loss(model, a, base, batch.tokens_BT, batch.supervised_BT)
        return total / count

    training = jax.jit(jax.grad(mean_loss))(adapter)
    weighted, tokens = {path: 0.0 for path in adapter}, 0
    for tokens_T, supervised_T in zip(batch.tokens_BT, batch.supervised_BT, strict=True):
        (_, count), gradient = value_and_gradient(model)(adapter, base, tokens_T, supervised_T)
        own = {path: np.asarray(leaf) / int(count) for path, leaf in gradient.items()}
        weighted = {path: weighted[path] + int(count) * own[path] for path in own}
        tokens += int(count)
    assert_same({path: total / tokens for path, total in weighted.items()}, training)


def test_dropout_key_decides_the_loss(world):
    _, adapter, base = world
    model = tiny_model(dropout=0.3)
    rows = random_rows(LENGTHS)
    batch = pad_batch(rows, range(5), 5, 16)
    run = jax.jit(functools.partial(batch_loss, model))

    def loss(key):
        keys_B = jax.random.split(key, 5)
        return float(run(adapter, base, batch.tokens_BT, batch.supervised_BT, keys_B)[0])

    assert loss(jax.random.key(1)) == loss(jax.random.key(1))
    assert len({loss(jax.random.key(seed)) for seed in range(4)}) == 4


def test_dropout_gradient_is_nearly_unbiased(world):
    """At B = 0 the loss is exactly the plain one, and linear in what dropout does to B's gradient:
    the mean over keys is the plain gradient."""
    _, _, base = world
    model = tiny_model(dropout=0.3)
    adapter = model.init_adapter(0)
    row = random_rows([16])[0]
    plain = value_and_gradient(model)(adapter, base, row.tokens_T, row.supervised_T)
    keys_K = jax.random.split(jax.random.key(0), 500)
    gradient = jax.value_and_grad(functools.partial(example_loss, model), has_aux=True)
    run = jax.jit(jax.vmap(gradient, in_axes=(None, None, None, None, 0)))
    (losses_K, _), gradients_K = run(adapter, base, row.tokens_T, row.supervised_T, keys_K)
    np.testing.assert_allclose(losses_K, float(plain[0][0]), rtol=1e-6)
    for path, leaf in plain[1].items():
        if path.endswith("lora_B"):
            error = np.linalg.norm(gradients_K[path].mean(axis=0) - leaf) / np.linalg.norm(leaf)
            single = np.linalg.norm(gradients_K[path][0] - leaf) / np.linalg.norm(leaf)
            assert single > 0.1
            assert error < 0.1


# Logits of supervised tokens alone.


def all_positions(model, adapter, base, tokens_T, supervised_T, key=None):
    """Return the loss from the logits of every token, left to autograd."""
    logits_TV = model.logits(adapter, base, tokens_T, key)
    log_probabilities_TV = jax.nn.log_softmax(logits_TV[:-1])
    losses_T = -jnp.take_along_axis(log_probabilities_TV, tokens_T[1:, None], axis=1)[:, 0]
    return jnp.sum(jnp.where(supervised_T[1:], losses_T, 0.0))


@functools.cache
def rows_of(loss, model):
    """Return jitted values and gradients of a batch, row by row."""
    gradient = jax.value_and_grad(lambda *of: loss(model, *of))
    return jax.jit(jax.vmap(gradient, (None, None, 0, 0, 0)))


def supervised_positions(*of):
    return example_loss(*of)[0]


def assert_is_the_plain_loss(model, plain_model, adapter, base, supervised_BT, keys_B=None):
    """Check value and gradient of each row of a batch; `plain_model` is the same model."""
    shape = supervised_BT.shape
    tokens_BT = np.random.default_rng(3).integers(0, model.config.vocab_size, shape, np.int32)
    batch = (adapter, base, tokens_BT, supervised_BT, keys_B)
    losses_B, gradients = rows_of(supervised_positions, model)(*batch)
    expected_B, expected = rows_of(all_positions, plain_model)(*batch)
    np.testing.assert_allclose(losses_B, expected_B, rtol=2e-6, atol=1e-6)
    for row, supervised_T in enumerate(supervised_BT):
        if supervised_T[1:].any():
            ours, plain = ({p: x[row] for p, x in g.items()} for g in (gradients, expected))
            assert_same(ours, plain, 2e-6)
        else:
            assert losses_B[row] == 0
            assert not any(leaf[row].any() for leaf in gradients.values())


def supervised_rows() -> np.ndarray:
    """Return rows of 24 tokens: none supervised, one, all, half, two spans."""
    rng = np.random.default_rng(1)
    supervised_BT = np.zeros((5, 24), bool)
    supervised_BT[1, 7] = supervised_BT[2] = True
    supervised_BT[3] = rng.random(24) < 0.5
    supervised_BT[4, 3:8] = supervised_BT[4, 20:] = True
    return supervised_BT


@pytest.mark.parametrize("chunk", [1, 7, 40, 120])
def test_supervised_tokens_alone(world, monkeypatch, chunk):
    """Chunks hold one token, some (the last is not full), or all that there are."""
    monkeypatch.setattr(of_loss, "tokens_with_logits", lambda size: chunk)
    assert_is_the_plain_loss(tiny_model(), *world, supervised_rows())


@pytest.mark.parametrize(
    ("size", "chunk"),
    [(5, 5), (128, 128), (400, 128), (768, 192), (2048, 512), (8192, 512), (16_384, 1024)],
)
def test_tokens_with_logits(size, chunk):
    """A quarter of a small batch, what is fast of a larger one, a sixteenth of a large one."""
    assert of_loss.tokens_with_logits(size) == chunk


def test_counted_first():
    """No sort, which takes compilers for TPUs long, has to put them there."""
    counted_X = np.random.default_rng(0).random(1000) < 0.3
    order_X = np.argsort(~counted_X, kind="stable")
    found_X, place_X = of_loss._counted_first(jnp.asarray(counted_X))
    np.testing.assert_array_equal(found_X, order_X)
    np.testing.assert_array_equal(order_X[place_X], np.arange(1000))
    assert " sort" not in str(jax.make_jaxpr(of_loss._counted_first)(counted_X))


def test_supervised_tokens_alone_under_dropout(world):
    model = tiny_model(dropout=0.3)
    keys_B = jax.random.split(jax.random.key(5), 5)
    assert_is_the_plain_loss(model, model, *world[1:], supervised_rows(), keys_B)


def test_supervised_tokens_alone_of_a_capped_and_tied_head():
    model, adapter, base = ours("gemma2", lora_config("v_proj"))
    assert model.config.logit_softcap
    assert model.config.tie_word_embeddings
    assert_is_the_plain_loss(model, model, adapter, base, supervised_rows())


@pytest.mark.parametrize("with_gradient", [True, False])
def test_logits_of_other_tokens_are_not_computed(world, monkeypatch, with_gradient):
    """Chunks of 4 tokens are as many as a batch's supervised tokens fill."""
    _, adapter, base = world
    model = tiny_model()  # nothing is compiled for it yet
    monkeypatch.setattr(of_loss, "tokens_with_logits", lambda size: 4)
    computed, plain = [], of_loss._scores

    def counting(model, head_VD, hidden_SD, targets_S):
        jax.debug.callback(lambda: computed.append(len(targets_S)))
        return plain(model, head_VD, hidden_SD, targets_S)

    monkeypatch.setattr(of_loss, "_scores", counting)
    loss = functools.partial(batch_loss, model)
    if with_gradient:
        loss = jax.value_and_grad(loss, has_aux=True)
    run = jax.jit(loss)
    tokens_BT = np.ones((3, 16), np.int32)
    for count, chunks in ((0, 0), (1, 1), (4, 1), (5, 2), (45, 12)):
        supervised_BT = np.zeros((3, 16), bool)
        supervised_BT[:, 1:] = (7 * np.arange(45) % 45 < count).reshape(3, 15)
        jax.block_until_ready(run(adapter, base, tokens_BT, supervised_BT))
        jax.effects_barrier()
        assert computed == [4] * chunks, count
        computed.clear()


def test_no_gradient_with_respect_to_the_base(world):
    model, adapter, base = world
    row = random_rows([9])[0]

    def loss(adapter, base):
        return example_loss(model, adapter, base, row.tokens_T, row.supervised_T)[0]

    for argnums in (1, (0, 1)):
        with pytest.raises(ValueError, match="no gradient with respect to the base"):
            jax.grad(loss, argnums)(adapter, base)
