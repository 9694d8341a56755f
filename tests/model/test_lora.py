"""The adapter against PEFT: its gradients by torch autograd, and its files in both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from tiny_llama import (
    ALL_LINEAR,
    CONFIG,
    NO_LORA,
    both,
    logits,
    lora,
    ours,
    random_adapter,
    random_tokens,
    torch_logits,
)

from g2is_jax.model.build import load_model
from g2is_jax.model.lora import Linear, LoraConfig, read_adapter, write_adapter
from g2is_jax.runs.errors import InputError
from g2is_jax.training.loss import example_loss

# peft 0.21 asks transformers 5.23 for a property that it has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
TARGETS = [("q_proj", "v_proj"), ("*_proj",)]


def peft_model(torch, llama, targets):
    """The model with an adapter of the same rank and alpha, away from zero."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    names = [name for name in ALL_LINEAR if lora(*targets).matches(name)]
    config = PeftConfig(
        r=3, lora_alpha=7.0, lora_dropout=0.0, target_modules=names, task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(llama, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    return adapted


def peft_gradients(torch, adapted, tokens_T, supervised_T) -> dict[str, np.ndarray]:
    """Gradient of the summed loss of one example, by the names of the adapter's file."""
    adapted.zero_grad()
    tokens = torch.tensor(tokens_T[None], dtype=torch.long)
    labels = tokens.masked_fill(~torch.tensor(supervised_T)[None], -100)
    predicted = adapted(tokens).logits[:, :-1].flatten(0, 1)
    torch.nn.functional.cross_entropy(
        predicted, labels[:, 1:].flatten(), reduction="sum"
    ).backward()
    return {
        name.replace(".default", ""): parameter.grad.numpy()
        for name, parameter in adapted.named_parameters()
        if "lora_" in name
    }


@pytest.mark.parametrize("targets", TARGETS)
def test_gradients_of_single_examples(torch, tmp_path, targets):
    """Each example of a vmapped batch on its own, padding and all, leaf by leaf."""
    llama, model, base = both(torch, tmp_path / "base", config=lora(*targets))
    adapted = peft_model(torch, llama, targets)
    adapted.save_pretrained(tmp_path / "adapter")
    adapter = read_adapter(epath.Path(tmp_path / "adapter"), model.adapter_shapes)
    lengths, width = (33, 20, 7), 40
    tokens_BT = random_tokens(len(lengths) * width).reshape(-1, width)
    supervised_BT = np.arange(width)[None] < np.array(lengths)[:, None]
    supervised_BT &= np.arange(width)[None] >= 5

    def gradient(tokens_T, supervised_T):
        return jax.grad(lambda a: example_loss(model, a, base, tokens_T, supervised_T)[0])(adapter)

    batch = jax.jit(jax.vmap(gradient))(tokens_BT, supervised_BT)
    for row, length in enumerate(lengths):
        expected = peft_gradients(
            torch, adapted, tokens_BT[row, :length], supervised_BT[row, :length]
        )
        assert len(expected) == len(batch)
        for path, leaf_BG in batch.items():
            parts = [
                part.lstrip("0") or "0" if part.isdigit() else part for part in path.split(".")
            ]
            theirs = expected["base_model.model.model." + ".".join(parts) + ".weight"]
            error = np.linalg.norm(leaf_BG[row] - theirs) / np.linalg.norm(theirs)
            assert error <= 1e-4, (path, row)


@pytest.mark.parametrize("targets", TARGETS)
def test_written_here_read_by_peft(torch, tmp_path, targets):
    from peft import PeftModel

    llama, model, base = both(torch, tmp_path / "base", config=lora(*targets))
    adapter = random_adapter(model)
    tokens_T = random_tokens(50)
    write_adapter(epath.Path(tmp_path / "adapter"), adapter, model.lora, str(tmp_path / "base"))
    plain_TV = torch_logits(torch, llama, tokens_T)
    adapted = PeftModel.from_pretrained(llama, tmp_path / "adapter").eval()
    expected_TV = torch_logits(torch, adapted, tokens_T)
    assert np.abs(expected_TV - plain_TV).max() > 0.1
    np.testing.assert_allclose(
        logits(model, adapter, base, tokens_T), expected_TV, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("targets", TARGETS)
def test_written_by_peft_read_here(torch, tmp_path, targets):
    llama, model, base = both(torch, tmp_path / "base", config=lora(*targets))
    adapted = peft_model(torch, llama, targets).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    adapter = read_adapter(epath.Path(tmp_path / "adapter"), model.adapter_shapes)
    tokens_T = random_tokens(50)
    np.testing.assert_allclose(
        logits(model, adapter, base, tokens_T),
        torch_logits(torch, adapted, tokens_T),
        rtol=0,
        atol=1e-4,
    )


def test_round_trip(tmp_path):
    model, _ = ours(config=lora())
    adapter = random_adapter(model)
    write_adapter(epath.Path(tmp_path), adapter, model.lora, "base")
    read = read_adapter(epath.Path(tmp_path), model.adapter_shapes)
    assert list(read) == sorted(adapter)
    for path, leaf in adapter.items():
        np.testing.assert_array_equal(read[path], leaf)


@pytest.mark.parametrize(
    ("other", "tensor"),
    [
        (LoraConfig(5, 7.0, 0.0, ("q_proj",)), r"layers\.0\.self_attn\.q_proj\.lora_A\.weight"),
        (lora("q_proj", "o_proj"), r"layers\.0\.self_attn\.o_proj\.lora_A\.weight"),
        (lora("up_proj"), r"layers\.0\.mlp\.up_proj\.lora_A\.weight"),
    ],
)
def test_adapter_of_another_shape(tmp_path, other, tensor):
    model, _ = ours(config=lora("q_proj"))
    write_adapter(epath.Path(tmp_path), random_adapter(model), model.lora, "base")
    with pytest.raises(InputError, match=rf"adapter_model\.safetensors: tensor .*{tensor}"):
        read_adapter(epath.Path(tmp_path), ours(config=other)[0].adapter_shapes)


def test_absent_or_damaged_adapter(tmp_path):
    model, _ = ours(config=lora("q_proj"))
    folder = epath.Path(tmp_path)
    with pytest.raises(InputError, match="no such adapter"):
        read_adapter(folder, model.adapter_shapes)
    write_adapter(folder, random_adapter(model), model.lora, "base")
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_adapter(folder, model.adapter_shapes)


def test_fresh_adapter_is_nothing():
    """B is zero, so the output is the base's; A is uniform within 1/sqrt(in), as PEFT draws it."""
    model, base = ours(config=lora())
    adapter = model.init_adapter(seed=3)
    tokens_T = random_tokens(12)
    plain_TV = logits(ours()[0], {}, base, tokens_T)
    np.testing.assert_array_equal(logits(model, adapter, base, tokens_T), plain_TV)
    for path, leaf in adapter.items():
        if path.endswith("lora_A"):
            bound = leaf.shape[1] ** -0.5
            assert 0.9 * bound < np.abs(leaf).max() <= bound
            assert float(jnp.std(leaf)) == pytest.approx(bound / 3**0.5, rel=0.2)
    firsts = [float(leaf[0, 0]) for path, leaf in adapter.items() if path.endswith("lora_A")]
    assert len(set(firsts)) == len(firsts)  # each leaf is drawn on its own
    other = model.init_adapter(seed=4)
    assert all((other[path] != leaf).any() for path, leaf in adapter.items() if "lora_A" in path)


def test_base_keeps_its_dtype(shared_data):
    """An adapter in float32 does not promote a bfloat16 network."""
    folder = epath.Path(shared_data / "stories260K")
    model, base = load_model(folder, lora(), "bfloat16", remat=False)
    hidden, _ = jax.eval_shape(model.step, random_adapter(model), base, jnp.zeros(4, int), 0, None)
    assert hidden.dtype == jnp.bfloat16
    adapter = random_adapter(model)
    gradient = jax.eval_shape(
        jax.grad(lambda a: model.logits(a, base, jnp.zeros(4, int)).sum()), adapter
    )
    assert {leaf.dtype for leaf in gradient.values()} == {jnp.dtype("float32")}


def test_rank_zero_attaches_nothing():
    assert ours(config=NO_LORA)[0].adapter_shapes == {}
    assert ours(config=LoraConfig(0, 1.0, 0.0, ("*",)))[0].adapter_shapes == {}


def test_canonical_order():
    """Sorted by path; layers in their order also from the tenth on."""
    model, _ = ours(config=lora("o_proj", "down_proj"))
    paths = sorted(model.adapter_shapes)
    assert len(paths) == 2 * 2 * CONFIG.num_hidden_layers
    assert paths[:2] == ["layers.000.mlp.down_proj.lora_A", "layers.000.mlp.down_proj.lora_B"]
    assert model.adapter_shapes[paths[0]] == (3, CONFIG.intermediate_size)
    assert model.adapter_shapes[paths[1]] == (CONFIG.hidden_size, 3)


def test_dropout_acts_on_the_adapter_alone():
    """With an adapter of zeros there is nothing to drop; one key always drops the same."""
    model, base = ours(config=lora(dropout=0.4))
    tokens_T = random_tokens(9)
    run = jax.jit(model.logits)
    keys = jax.random.split(jax.random.key(0), 3)
    zero_TV = run(model.zero_adapter(), base, tokens_T)
    np.testing.assert_array_equal(run(model.zero_adapter(), base, tokens_T, keys[0]), zero_TV)
    adapter = random_adapter(model)
    first, again, other = (
        np.asarray(run(adapter, base, tokens_T, key)) for key in (keys[0], keys[0], keys[1])
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_dropout_is_unbiased():
    """Of one linear layer: x / keep where kept."""
    layer = Linear("q_proj", 11, 5, jnp.float32, lora("q_proj", dropout=0.3))
    rng = np.random.default_rng(0)
    for parameter in (layer.weight, layer.lora_A, layer.lora_B):
        parameter[...] = jnp.asarray(rng.normal(size=parameter.shape), jnp.float32)
    x_TD = jnp.asarray(rng.normal(size=(4, 11)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 5_000)
    dropped_KTD = jax.jit(jax.vmap(lambda key: layer(x_TD, key)))(keys)
    plain_TD = np.asarray(layer(x_TD, None))
    spread_TD = np.asarray(dropped_KTD.std(axis=0)) / len(keys) ** 0.5
    assert (spread_TD > 0).all()
    assert (np.abs(dropped_KTD.mean(axis=0) - plain_TD) < 4.5 * spread_TD).all()


@pytest.mark.usefixtures("torch")
def test_peft_reads_the_settings(tmp_path):
    """Rank, alpha and targets stand in adapter_config.json."""
    from peft import LoraConfig as PeftConfig

    model, _ = ours(config=lora("q_proj", "*o_proj", dropout=0.25))
    write_adapter(epath.Path(tmp_path), random_adapter(model), model.lora, "somewhere")
    read = PeftConfig.from_pretrained(str(tmp_path))
    assert (read.r, read.lora_alpha, read.lora_dropout) == (3, 7.0, 0.25)
    assert set(read.target_modules) == {"q_proj", "o_proj"}
    assert read.base_model_name_or_path == "somewhere"
