"""A feature row is the gradient of its own example, whatever runs beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from g2is_jax.data.batches import pad_batch
from g2is_jax.data.chat import Encoded
from g2is_jax.features import gradients, projection
from g2is_jax.features.gradients import KINDS, direction, feature_function
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.model.lora import LoraConfig
from g2is_jax.training import loss
from g2is_jax.training.loss import batch_loss
from tests.support.documented_projection import documented_matrix
from tests.support.projected import project
from tests.support.random_llama import (
    B1,
    B2,
    CONFIG,
    EPS,
    NONE,
    STEP,
    build,
    directions,
    feature_rows,
    flat,
    inputs_of,
    random_examples,
    random_model,
    random_moments,
    torch_twin,
    unit,
    without_supervision,
)
from tests.support.tiny_models import config_of

# Leaves hold 36 to 72 values: a part of a block of 41, or one and a part.
DENSE = ProjectionConfig("rademacher", 41, repetitions=1)
SKETCH_ONCE = ProjectionConfig("sketch", 41, repetitions=1)
SKETCH = ProjectionConfig("sketch", 41, repetitions=2)
SEED = 3


def moments():
    """First and second moments, flattened."""
    found = random_moments(random_model()[0])
    return flat(found.first), flat(found.second)


# Against PyTorch, PEFT and plain NumPy.


@pytest.fixture(scope="module")
def torch_gradients(torch) -> np.ndarray:
    """Gradient (G,) of each example's mean loss over its supervised tokens, in leaf order."""
    wrapped, by_path = torch_twin(torch)
    rows = []
    for example in random_examples():
        tokens = torch.tensor(example.tokens_T, dtype=torch.long)
        logits = wrapped(input_ids=tokens[None]).logits[0, :-1]
        supervised = torch.tensor(example.supervised_T[1:])
        mean = torch.nn.functional.cross_entropy(logits[supervised], tokens[1:][supervised])
        leaves = torch.autograd.grad(mean, list(by_path.values()))
        rows.append(torch.cat([leaf.flatten() for leaf in leaves]).numpy())
    return np.stack(rows)


def direction_by_hand(kind: str, g, m, v, t: int):
    """The table of method.md, section 3."""
    u = B1 * m + (1 - B1) * g
    w = B2 * v + (1 - B2) * g**2
    u_hat, w_hat = u / (1 - B1 ** (t + 1)), w / (1 - B2 ** (t + 1))
    return {
        "sgd": g,
        "adam": u_hat / (np.sqrt(w_hat) + EPS),
        "adam_less": u / np.sqrt(w + EPS),
        "rms": g / (np.sqrt(w_hat) + EPS),
        "sign": np.sign(g),
    }[kind]


def projected_by_hand(config: ProjectionConfig, rows_BG: np.ndarray) -> np.ndarray:
    """The product with the documented signs of each leaf."""
    if config.kind == "none":
        return rows_BG
    sizes = {path: leaf.size for path, leaf in sorted(random_model()[1].items())}
    matrices = [documented_matrix(config, SEED, path, size) for path, size in sizes.items()]
    return rows_BG @ np.concatenate(matrices)


@pytest.mark.parametrize(
    ("config", "kinds"),
    [(NONE, KINDS), (DENSE, KINDS), (SKETCH, KINDS), (SKETCH_ONCE, ("adam",))],
    ids=["none", "rademacher", "sketch", "sketch once"],
)
def test_row_is_torchs_gradient_under_the_formula(torch_gradients, config, kinds):
    """For every kind, in one pass; then through the projection's signs."""
    found = feature_rows(kinds, random_examples(), projection=config, seed=SEED)
    m, v = moments()
    for kind, rows in zip(kinds, found.features_KBP, strict=True):
        whole = direction_by_hand(kind, torch_gradients, m[None], v[None], STEP)
        if kind == "sign":  # of what is nothing but rounding the sign is open
            size = np.abs(torch_gradients)
            assert (size > 1e-6 * size.max(axis=1, keepdims=True)).all()
        expected = projected_by_hand(config, whole)
        errors = np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert errors.max() <= 1e-4, kind
    norms = np.linalg.norm(torch_gradients, axis=1)  # whatever direction and projection
    np.testing.assert_allclose(found.gradient_norms_B, norms, rtol=1e-4)
    supervised = [e.supervised_T.sum() for e in random_examples()]
    np.testing.assert_array_equal(found.tokens_B, supervised)


# Against optax, the training loss, and single passes.


def test_adam_is_the_update_of_optax():
    g_BG, rows = feature_rows(("sgd", "adam"), random_examples()).features_KBP
    adam = optax.scale_by_adam(b1=B1, b2=B2, eps=EPS)
    m, v = (jnp.asarray(x, jnp.float32) for x in moments())
    state = optax.ScaleByAdamState(count=jnp.asarray(STEP), mu=m, nu=v)
    expected = [adam.update(jnp.asarray(g), state)[0] for g in g_BG]
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("optimised")
def test_rows_weighted_by_their_tokens_are_the_training_gradient():
    encoded = random_examples()
    found = feature_rows(("sgd", "adam"), encoded)
    network, adapter, base = random_model()
    batch = pad_batch(encoded, range(8), 8, 16)

    def mean_loss(adapter):
        total, count = batch_loss(network, adapter, base, batch.tokens_BT, batch.supervised_BT)
        return total / count

    expected = flat(jax.jit(jax.grad(mean_loss))(adapter))
    mean = np.average(found.features_KBP[0].astype(np.float64), axis=0, weights=found.tokens_B)
    assert np.linalg.norm(mean - expected) < 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("kinds", "config"), [(("sgd", "adam"), NONE), (("adam",), SKETCH)], ids=["none", "sketch"]
)
def test_one_pass_for_several_kinds_equals_a_pass_for_each(kinds, config):
    together = feature_rows(KINDS, random_examples(), projection=config, seed=SEED)
    fewer = feature_rows(kinds, random_examples(), projection=config, seed=SEED)
    assert len(fewer.features_KBP) == len(kinds)
    for kind, rows in zip(kinds, fewer.features_KBP, strict=True):
        expected = unit(together.features_KBP[KINDS.index(kind)])
        np.testing.assert_allclose(unit(rows), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(fewer.gradient_norms_B, together.gradient_norms_B, rtol=1e-6)


def test_the_direction_is_taken_before_the_projection():
    """Adam does not commute with a projection."""
    encoded = random_examples()
    whole = feature_rows(("sgd", "adam"), encoded).features_KBP[1]
    shapes = dict(sorted(random_model()[0].adapter_shapes.items()))
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    parts = np.split(whole, ends[:-1], axis=1)
    leaves = {
        path: jnp.asarray(part.reshape(8, *shape))
        for (path, shape), part in zip(shapes.items(), parts, strict=True)
    }
    expected = unit(jax.jit(lambda leaves: project(SKETCH, SEED, leaves))(leaves))
    rows = feature_rows("adam", encoded, projection=SKETCH, seed=SEED).features_KBP[0]
    np.testing.assert_allclose(unit(rows), expected, rtol=0, atol=1e-6)


def test_without_supervised_tokens_the_gradient_is_zero():
    """The adam feature is then the bare momentum: such rows are for callers to drop."""
    encoded = random_examples()
    mute = [*without_supervision(encoded[:1]), *encoded[1:]]
    found = feature_rows(KINDS, mute)
    for kind in ("sgd", "rms", "sign"):
        np.testing.assert_array_equal(found.features_KBP[KINDS.index(kind), 0], 0)
    assert found.gradient_norms_B[0] == found.tokens_B[0] == 0
    assert (found.gradient_norms_B[1:] > 0).all()
    m, v = moments()
    for kind in ("adam", "adam_less"):
        expected = direction_by_hand(kind, np.zeros_like(m), m, v, STEP)
        row = found.features_KBP[KINDS.index(kind), 0]
        np.testing.assert_allclose(row, expected, rtol=1e-4)


def test_the_first_token_is_never_predicted():
    plain = random_examples()
    marked = [Encoded(e.tokens_T, e.supervised_T.copy(), False) for e in plain]
    for example in marked:
        example.supervised_T[0] = True
    first, second = (feature_rows(("sgd", "adam"), rows) for rows in (plain, marked))
    for features, same in zip(first, second, strict=True):
        np.testing.assert_array_equal(features, same)


# Execution changes nothing.


@pytest.mark.usefixtures("optimised")
def test_batch_size_padding_and_order_change_nothing():
    encoded = random_examples()
    adam = ("adam",)
    expected = feature_rows(adam, encoded, projection=SKETCH)
    runs = {
        "one at a time": feature_rows(adam, encoded, size=1, projection=SKETCH),
        "wider and half empty": feature_rows(adam, encoded, 16, width=24, projection=SKETCH),
        "backwards": [
            part[..., ::-1, :] if part.ndim > 1 else part[::-1]
            for part in feature_rows(adam, encoded[::-1], projection=SKETCH)
        ],
    }
    for name, (features_KBP, norms_B, tokens_B) in runs.items():
        rows = unit(features_KBP[0])
        np.testing.assert_allclose(
            rows, unit(expected.features_KBP[0]), rtol=0, atol=1e-6, err_msg=name
        )
        np.testing.assert_allclose(norms_B, expected.gradient_norms_B, rtol=1e-5, err_msg=name)
        np.testing.assert_array_equal(tokens_B, expected.tokens_B, err_msg=name)


@pytest.mark.usefixtures("optimised")
def test_padding_adds_exactly_nothing():
    """Whatever stands in it, even in the rows beside it: bit for bit."""
    encoded = random_examples()
    longer = [
        Encoded(
            np.append(e.tokens_T, np.full(16 - len(e.tokens_T), 17, np.int32)),
            np.append(e.supervised_T, np.zeros(16 - len(e.tokens_T), bool)),
            False,
        )
        for e in encoded
    ]
    first, second = (feature_rows(("sgd", "adam"), rows) for rows in (encoded, longer))
    np.testing.assert_array_equal(first.features_KBP, second.features_KBP)


@pytest.mark.usefixtures("optimised")
def test_a_row_that_is_not_finite_leaves_the_others_alone():
    encoded = random_examples()
    encoded[2].tokens_T[0] = unused = CONFIG.vocab_size - 1
    network, adapter, base = random_model()
    poisoned = base | {"embed_tokens": base["embed_tokens"].at[unused].set(jnp.nan)}
    expected, found = (
        feature_rows(("sgd", "adam"), encoded, world=(network, adapter, weights))
        for weights in (base, poisoned)
    )
    assert np.isnan(found.features_KBP[:, 2]).any(axis=1).all()
    others = np.delete(np.arange(8), 2)
    np.testing.assert_array_equal(found.features_KBP[:, others], expected.features_KBP[:, others])
    assert np.isnan(found.gradient_norms_B).nonzero()[0].tolist() == [2]


def test_remat_changes_nothing():
    runs = (
        feature_rows(("sgd", "adam"), random_examples(), world=random_model(remat))
        for remat in (False, True)
    )
    first, second = (unit(run.features_KBP) for run in runs)
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-6)


def test_chunk_sizes_change_nothing(monkeypatch):
    """The chunks are those of the head's tokens, and of the signs that are made at once."""
    expected = feature_rows(KINDS, random_examples(), projection=DENSE).features_KBP
    monkeypatch.setattr(loss, "tokens_with_logits", lambda size: 5)
    monkeypatch.setattr(projection, "HASHED_ROWS", 32)
    monkeypatch.setattr(projection, "SIGN_ROWS", 12)
    gradients._tap.cache_clear()
    found = feature_rows("adam", random_examples(), projection=DENSE, world=build()).features_KBP
    adam = unit(expected[KINDS.index("adam")])
    np.testing.assert_allclose(unit(found[0]), adam, rtol=0, atol=1e-6)


# Compilation and memory.


def test_another_seed_has_other_signs_and_the_same_program():
    encoded = random_examples()
    first = feature_rows("adam", encoded, projection=SKETCH, seed=0)
    function = feature_function(random_model()[0], directions("adam"), SKETCH)
    programs = function._cache_size()
    assert programs > 0
    second = feature_rows("adam", encoded, projection=SKETCH, seed=1)
    assert function._cache_size() == programs
    assert not np.allclose(first.features_KBP, second.features_KBP)
    np.testing.assert_array_equal(first.gradient_norms_B, second.gradient_norms_B)


@pytest.mark.usefixtures("optimised")
def test_full_gradients_are_never_kept():
    """A large adapter and many rows keep only a few leaves' at a time."""
    rows = 32
    lora = LoraConfig(256, 7.0, 0.0, ("o_proj",), rslora=False)
    config = config_of("llama", vocab_size=53, intermediate_size=34, num_hidden_layers=6)
    world = build(config, lora)
    batch = (np.zeros((rows, 2), np.int32), np.zeros((rows, 2), bool))
    function = feature_function(world[0], directions("adam"), SKETCH_ONCE)
    compiled = function.lower(inputs_of(world, SKETCH_ONCE), *batch).compile()
    kept_whole = 4 * rows * sum(leaf.size for leaf in world[1].values())
    assert compiled.memory_analysis().temp_size_in_bytes < 0.4 * kept_whole


def test_an_unknown_kind_is_no_other_one():
    """The config's check names the field; here there is nothing to fall back on."""
    [config] = directions("adamw")
    with pytest.raises(KeyError, match="adamw"):
        direction(config, *np.ones((3, 2), np.float32), np.int32(0))
