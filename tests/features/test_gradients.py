"""A feature row is the gradient of its own example, whatever runs beside it."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from random_llama import (
    CONFIG,
    FIELDS,
    LORA,
    STEP,
    random_examples,
    random_model,
    random_moments,
)

from g2is_jax.data.batches import Plan, pad_batch
from g2is_jax.data.chat import Encoded
from g2is_jax.features import gradients
from g2is_jax.features.gradients import KINDS, DirectionConfig, FeatureBatch, extract
from g2is_jax.features.projection import ProjectionConfig, project
from g2is_jax.features.store import StoreConfig, StoreWriter, read_store
from g2is_jax.model.lora import checkpoint_path
from g2is_jax.runs.errors import InputError
from g2is_jax.training.loss import batch_loss

# Such that each has a say: eps is not small beside sqrt(v), nor are the bias corrections near 1.
B1, B2, EPS, SCALE = 0.8, 0.97, 1e-3, 0.02
NONE = ProjectionConfig("none", 0, seed=0, repetitions=1)
DENSE = ProjectionConfig("rademacher", 101, seed=0, repetitions=1)
LENGTHS = (9, 16, 14, 8, 6, 15, 7, 11)
PLANS = [
    Plan(np.array(rows), 2, width)
    for rows, width in (([4, 6], 8), ([3], 8), ([0, 7], 16), ([1, 2], 16), ([5], 16))
]


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling is nearly all the time here; without its optimisations it takes two thirds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def config(kind: str) -> DirectionConfig:
    return DirectionConfig(kind, B1, B2, EPS)


@functools.cache
def model(remat: bool = False):
    return random_model(remat)


@functools.cache
def moments():
    return random_moments(model()[0], SCALE)


def feature_rows(
    kind: str,
    encoded: list[Encoded],
    size: int = 8,
    width: int = 16,
    projection: ProjectionConfig = NONE,
    remat: bool = False,
) -> FeatureBatch:
    """Rows of the examples, `size` at a time and `width` tokens wide; unused places dropped."""
    network, adapter, base = model(remat)
    function = gradients.feature_function(network, config(kind), projection)
    step, parts = jnp.asarray(STEP), []
    for start in range(0, len(encoded), size):
        batch = pad_batch(encoded, range(start, min(start + size, len(encoded))), size, width)
        m, v = moments().first, moments().second
        result = function(adapter, base, m, v, step, batch.tokens_BT, batch.supervised_BT)
        parts.append([np.asarray(part)[batch.rows_B >= 0] for part in result])
    return FeatureBatch(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def flat(leaves: dict) -> np.ndarray:
    return np.concatenate([np.asarray(leaves[path], np.float64).ravel() for path in sorted(leaves)])


# Against PyTorch and PEFT.


def checkpoint_name(path: str) -> str:
    return path if path == "lm_head" else f"model.{checkpoint_path(path)}"


def build_torch_model(torch):
    """The same Llama with PEFT's adapter, in double precision, and its parameters by leaf path."""
    import peft
    import transformers

    _, adapter, base = model()
    settings = transformers.LlamaConfig(**FIELDS, attn_implementation="eager")
    llama = transformers.LlamaForCausalLM(settings)
    named = {checkpoint_name(path): torch.tensor(np.asarray(x)) for path, x in base.items()}
    bare = {"model.embed_tokens", "lm_head"}  # ours carry no ".weight" there
    llama.load_state_dict({k + ".weight" if k in bare else k: x for k, x in named.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft calls what transformers deprecates
        wrapped = peft.get_peft_model(
            llama,
            peft.LoraConfig(
                r=LORA.rank,
                lora_alpha=LORA.alpha,
                lora_dropout=LORA.dropout,
                target_modules=list(LORA.targets),
                task_type="CAUSAL_LM",
            ),
        )
    wrapped = wrapped.double().eval()
    parameters = dict(wrapped.named_parameters())
    by_path = {
        path: parameters[f"base_model.model.{checkpoint_name(path)}.default.weight"]
        for path in sorted(adapter)
    }
    assert len(by_path) == sum(p.requires_grad for p in parameters.values())
    with torch.no_grad():
        for path, parameter in by_path.items():
            parameter.copy_(torch.tensor(np.asarray(adapter[path])))
    return wrapped, by_path


@pytest.fixture(scope="module")
def torch_gradients(torch) -> np.ndarray:
    """Gradient (G,) of each example's mean loss over its supervised tokens, in leaf order."""
    wrapped, by_path = build_torch_model(torch)
    rows = []
    for example in random_examples(LENGTHS):
        tokens = torch.tensor(example.tokens_T, dtype=torch.long)
        logits = wrapped(input_ids=tokens[None]).logits[0, :-1]
        supervised = torch.tensor(example.supervised_T[1:])
        loss = torch.nn.functional.cross_entropy(logits[supervised], tokens[1:][supervised])
        leaves = torch.autograd.grad(loss, list(by_path.values()))
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


@pytest.mark.parametrize("kind", KINDS)
def test_row_is_torchs_gradient_under_the_formula(torch_gradients, kind):
    rows = feature_rows(kind, random_examples(LENGTHS)).features_BP
    m, v = flat(moments().first), flat(moments().second)
    expected = direction_by_hand(kind, torch_gradients, m[None], v[None], STEP)
    compared = np.ones(expected.shape, bool)
    if kind == "sign":
        largest = np.abs(torch_gradients).max(axis=1, keepdims=True)
        compared = np.abs(torch_gradients) > 1e-5 * largest
        assert compared.mean() > 0.99
        np.testing.assert_array_equal(rows[compared], expected[compared])
    errors = np.linalg.norm(np.where(compared, rows - expected, 0), axis=1)
    assert (errors <= 1e-4 * np.linalg.norm(expected, axis=1)).all()


def test_gradient_norms_and_token_counts(torch_gradients):
    encoded = random_examples(LENGTHS)
    norms = np.linalg.norm(torch_gradients, axis=1)
    for kind in ("sgd", "sign"):  # |g|, whatever the direction
        result = feature_rows(kind, encoded)
        np.testing.assert_allclose(result.gradient_norms_B, norms, rtol=1e-4)
        np.testing.assert_array_equal(result.tokens_B, [e.supervised_T.sum() for e in encoded])


# Against optax and the training loss.


def test_adam_is_the_update_of_optax():
    encoded = random_examples(LENGTHS)
    g_BG = feature_rows("sgd", encoded).features_BP
    adam = optax.scale_by_adam(b1=B1, b2=B2, eps=EPS)
    m, v = (flat(x).astype(np.float32) for x in (moments().first, moments().second))
    state = optax.ScaleByAdamState(count=jnp.asarray(STEP), mu=jnp.asarray(m), nu=jnp.asarray(v))
    expected = [adam.update(jnp.asarray(g), state)[0] for g in g_BG]
    rows = feature_rows("adam", encoded).features_BP
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)


def test_rows_weighted_by_their_tokens_are_the_training_gradient():
    encoded = random_examples(LENGTHS)
    result = feature_rows("sgd", encoded)
    network, adapter, base = model()
    batch = pad_batch(encoded, range(8), 8, 16)

    def loss(adapter):
        total, count = batch_loss(network, adapter, base, batch.tokens_BT, batch.supervised_BT)
        return total / count

    expected = flat(jax.jit(jax.grad(loss))(adapter))
    mean = np.average(result.features_BP.astype(np.float64), axis=0, weights=result.tokens_B)
    assert np.linalg.norm(mean - expected) < 1e-6 * np.linalg.norm(expected)


def test_without_supervised_tokens_the_gradient_is_zero():
    """And the adam feature is the bare momentum: such rows are for callers to drop."""
    mute = [Encoded(e.tokens_T, np.zeros_like(e.supervised_T), False) for e in random_examples([9])]
    sgd = feature_rows("sgd", mute)
    np.testing.assert_array_equal(sgd.features_BP, 0)
    assert sgd.gradient_norms_B == 0
    assert sgd.tokens_B == 0
    adam = feature_rows("adam", mute).features_BP
    m, v = flat(moments().first), flat(moments().second)
    expected = direction_by_hand("adam", np.zeros_like(m), m, v, STEP)
    np.testing.assert_allclose(adam[0], expected, rtol=1e-4)


def test_the_first_token_is_never_predicted():
    plain = random_examples([14])
    marked = [Encoded(e.tokens_T, e.supervised_T.copy(), False) for e in plain]
    marked[0].supervised_T[0] = True
    first, second = (feature_rows("sgd", rows) for rows in (plain, marked))
    np.testing.assert_array_equal(first.features_BP, second.features_BP)


# Execution changes nothing.


def test_batch_size_padding_and_order_change_nothing():
    encoded = random_examples(LENGTHS)
    expected = unit(feature_rows("adam", encoded).features_BP)
    runs = {
        "one at a time": feature_rows("adam", encoded, size=1).features_BP,
        "wider and half empty": feature_rows("adam", encoded, size=16, width=24).features_BP,
        "backwards": feature_rows("adam", encoded[::-1]).features_BP[::-1],
    }
    for name, rows in runs.items():
        np.testing.assert_allclose(unit(rows), expected, rtol=0, atol=1e-6, err_msg=name)


def test_the_padding_token_changes_nothing():
    encoded = random_examples(LENGTHS)
    longer = [
        Encoded(
            np.append(e.tokens_T, np.full(16 - len(e.tokens_T), 17, np.int32)),
            np.append(e.supervised_T, np.zeros(16 - len(e.tokens_T), bool)),
            False,
        )
        for e in encoded
    ]
    first, second = (feature_rows("adam", rows).features_BP for rows in (encoded, longer))
    np.testing.assert_array_equal(first, second)


def test_remat_changes_nothing():
    encoded = random_examples(LENGTHS)
    rows = [feature_rows("adam", encoded, remat=remat).features_BP for remat in (False, True)]
    np.testing.assert_allclose(unit(rows[0]), unit(rows[1]), rtol=0, atol=1e-6)


def test_the_direction_is_taken_before_the_projection():
    """Adam does not commute with a projection."""
    encoded = random_examples(LENGTHS)
    whole = feature_rows("adam", encoded).features_BP
    shapes = dict(sorted(model()[0].adapter_shapes.items()))
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    parts = np.split(whole, ends[:-1], axis=1)
    leaves = {
        path: jnp.asarray(part.reshape(8, *shape))
        for (path, shape), part in zip(shapes.items(), parts, strict=True)
    }
    expected = unit(jax.jit(functools.partial(project, DENSE))(leaves))
    rows = feature_rows("adam", encoded, projection=DENSE).features_BP
    np.testing.assert_allclose(unit(rows), expected, rtol=0, atol=1e-6)


# Extraction into a store.


def write_store(
    folder, order=range(8), batch_tokens=1, writer=StoreWriter, projection=NONE, poisoned=None
):
    """Rows `order` of the 8 examples under their own numbers; `poisoned` breaks one of them."""
    encoded, order = random_examples(LENGTHS), list(order)
    network, adapter, base = model()
    if poisoned is not None:
        unused = CONFIG.vocab_size - 1
        encoded[poisoned].tokens_T[0] = unused
        base = base | {"embed_tokens": base["embed_tokens"].at[unused].set(jnp.nan)}
    extract(
        network,
        adapter,
        base,
        moments(),
        [encoded[row] for row in order],
        config("adam"),
        projection,
        batch_tokens,
        writer(epath.Path(folder), order, StoreConfig("float32", chunk_rows=3)),
    )


@pytest.mark.parametrize(
    ("order", "batch_tokens"),
    [(range(8), 1000), (range(8), 1), ([5, 2, 7, 0, 1, 6, 4, 3], 1)],
    ids=["one batch", "single rows", "another order"],
)
def test_extraction_writes_each_row_under_its_number(tmp_path, order, batch_tokens):
    write_store(tmp_path / "store", order, batch_tokens)
    store = read_store(epath.Path(tmp_path / "store"))
    expected = feature_rows("adam", random_examples(LENGTHS))
    np.testing.assert_array_equal(store.rows_N, np.arange(8))
    np.testing.assert_allclose(store.features_NP, unit(expected.features_BP), rtol=0, atol=1e-6)
    norms = np.linalg.norm(expected.features_BP, axis=1)
    np.testing.assert_allclose(store.norms_N, norms, rtol=1e-5)
    np.testing.assert_allclose(store.gradient_norms_N, expected.gradient_norms_B, rtol=1e-5)
    np.testing.assert_array_equal(store.tokens_N, expected.tokens_B)


class Killed(StoreWriter):
    """Dies when it is handed the second chunk."""

    def write(self, index, *parts):
        if index == 1:
            raise KeyboardInterrupt
        super().write(index, *parts)


def test_resumed_extraction_computes_only_what_is_missing(tmp_path, monkeypatch):
    computed = []
    lay_out = gradients.lay_out

    def counting(encoded, plan):
        computed.extend(plan.rows.tolist())
        return lay_out(encoded, plan)

    monkeypatch.setattr(gradients, "lay_out", counting)
    write_store(tmp_path / "whole")
    whole = computed.copy()
    assert sorted(whole) == list(range(8))
    computed.clear()
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "killed", writer=Killed)
    computed.clear()
    write_store(tmp_path / "killed")
    assert 0 < len(computed) < 8
    assert computed == whole[-len(computed) :]
    files = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}
    assert {f.name: f.read_bytes() for f in (tmp_path / "killed").iterdir()} == files


def test_chunks_hold_whole_batches_of_at_least_the_asked_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(gradients, "length_batches", lambda *_: PLANS)
    laid_out = []

    class Finished(StoreWriter):
        def start(self, chunks):
            laid_out.extend(chunk.tolist() for chunk in chunks)
            return [True] * len(chunks)

    write_store(tmp_path / "store", writer=Finished)
    assert laid_out == [[4, 6, 3], [0, 7, 1, 2], [5]]


def test_a_gradient_that_is_not_finite_names_its_row(tmp_path):
    """And leaves the other rows of its batch alone."""
    with pytest.raises(InputError, match=r"^row 5 \(counted from 0; 1 of 8 in its chunk\)"):
        write_store(tmp_path / "store", [7, 3, 5, 0, 1, 2, 6, 4], batch_tokens=1000, poisoned=5)


def test_one_compilation_for_each_shape(tmp_path, monkeypatch):
    traced = []
    loss = gradients.example_loss

    def counting(model, adapter, base, tokens_T, supervised_T):
        traced.append(tokens_T.shape)
        return loss(model, adapter, base, tokens_T, supervised_T)

    monkeypatch.setattr(gradients, "example_loss", counting)
    monkeypatch.setattr(gradients, "length_batches", lambda *_: PLANS)
    fresh = ProjectionConfig("none", 0, seed=1, repetitions=1)
    write_store(tmp_path / "pool", projection=fresh)
    assert sorted(traced) == [(8,), (16,)]  # of five batches
    write_store(tmp_path / "validation", projection=fresh)  # another stage with the same settings
    assert len(traced) == 2


def test_unknown_kind_is_named():
    with pytest.raises(InputError, match="feature kind 'adamw' is unknown"):
        config("adamw")
