"""The benchmark of gradients: its arithmetic, and that both sides compute the same features."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench import gradients as bench
from experiments.bench import less as less
from experiments.bench import models as models
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.model.build import ModelConfig
from g2is_jax.model.lora import LoraConfig
from g2is_jax.runs.errors import InputError

RAW = models.RANDOM | {"vocab_size": 53, "hidden_size": 24, "intermediate_size": 34, "head_dim": 6,
                       "num_hidden_layers": 1, "num_attention_heads": 4,
                       "num_key_value_heads": 2}  # fmt: skip
SETTINGS = {"parts": "throughput", "model": "tiny", "rank": 3, "batch": 2, "tokens": 9, "width": 64,
            "projection": "sketch", "less_rows": 18, "less_blocks": 0, "devices": 2, "remat": False,
            "threads": 1, "repeats": 2}  # fmt: skip
CONFIG = bench.BenchConfig(**SETTINGS)


@functools.cache
def subject() -> models.Subject:
    lora = LoraConfig(3, 6.0, 0.0, ("k_proj", "o_proj"), rslora=False)
    settings = ModelConfig("float32", "float32", "xla", remat=False, shard_base=False)
    return models.make_subject("tiny", RAW, lora, settings)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def our_directions(rows) -> np.ndarray:
    return models.pass_over(subject(), "adam_less", ProjectionConfig("none", 0, 1), rows, 64)()


@pytest.mark.usefixtures("torch")
def test_torch_loop_has_our_directions():
    rows = models.random_rows([16, 12, 11], RAW["vocab_size"])
    loop = less.LessLoop(subject(), 256, less.INTEGERS)
    theirs = np.stack([loop.direction(row).numpy() for row in rows])
    ours = our_directions(rows)
    error = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    assert theirs.shape == (3, subject().values)
    assert error.max() <= 1e-4


@pytest.mark.usefixtures("torch")
def test_torch_loop_projects():
    """A cached matrix holds the same signs as those made anew; all norms are kept on average."""
    rows = models.random_rows([8] * 18, RAW["vocab_size"])
    anew, cached = (less.LessLoop(subject(), 300, draw) for draw in (less.INTEGERS, "cached"))
    cached.matrix = anew._signs(0).new_tensor(
        np.concatenate([anew._signs(start).clone().numpy() for start in anew.starts], axis=1)
    )
    found, kept = anew.features(rows), cached.features(rows)
    assert found.shape == (18, 300)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(np.unique(cached.matrix.numpy()), [-1, 1])
    np.testing.assert_allclose(found, kept, rtol=2e-3, atol=1e-2 * np.abs(kept).max())
    norms = np.linalg.norm(our_directions(rows), axis=1)
    ratios = np.linalg.norm(found.astype(np.float32), axis=1) / 300**0.5 / norms
    np.testing.assert_allclose(ratios, 1, atol=0.25)


@pytest.mark.usefixtures("torch")
def test_blocks_not_timed_are_reckoned(monkeypatch):
    clock = iter(range(0, 100, 5))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    loop = less.LessLoop(subject(), 8 * less.COLUMNS, less.INTEGERS, blocks=2)
    loop.features(models.random_rows([8] * 17, RAW["vocab_size"]))
    assert loop.missing == 2 * 5 * 3  # two stacks, 5 seconds each, for 2 of 8 blocks


def test_kept_whole_is_the_same_feature():
    sketch = ProjectionConfig("sketch", 64, 2)
    batch = models.full_batch(subject(), 2, 9)
    function, inputs = models.features_of(subject(), "rms", sketch)
    ours = function(inputs, *batch)
    features_BP, squares_B = models.kept_whole(subject(), "rms", sketch)(inputs, *batch)
    largest = np.abs(features_BP).max()
    np.testing.assert_allclose(features_BP, ours.features_KBP[0], atol=1e-4 * largest)
    np.testing.assert_allclose(squares_B**0.5, ours.gradient_norms_B, rtol=1e-5)


def test_collectives_are_counted():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("data")

    def program(exchange):
        mapped = jax.shard_map(exchange, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
        return jax.jit(mapped).lower(jnp.ones((4, 2))).as_text(dialect="hlo")

    def both(x):
        return jax.lax.psum(x, "data") + jax.lax.ppermute(x, "data", [(0, 0)])

    assert bench.count_collectives(program(jnp.sin)) == 0
    assert bench.count_collectives(program(both)) == 2
    started = "  %a = (f32[2]{0}, f32[2]{0}) all-gather-start(%x), dimensions={0}\n"
    ended = "  %b = f32[2]{0} all-gather-done(%a)\n  %c = f32[2]{0} add(%b, %all-reduce.1)\n"
    assert bench.count_collectives(started + ended) == 1


def test_share_is_what_the_other_does_not_take():
    found = bench.share([2.0, 4.0, 10.0], [1.0, 3.0, 11.0])
    assert found == pytest.approx({"median": 0.25, "low": -0.1, "high": 0.5})


def test_lengths_have_a_tail():
    lengths = models.lognormal_lengths(500, 96)
    assert 8 <= min(lengths) < 20
    assert max(lengths) == 96
    assert 28 <= np.median(lengths) <= 36
    assert models.lognormal_lengths(3, 4) == [4, 4, 4]


def test_throughput_and_table(monkeypatch):
    """With sides that do next to nothing, as each of the real ones is seconds to compile."""
    names = (bench.PLAIN, bench.PROJECTED, "rms x2", bench.WHOLE, bench.SQUARES)
    quick = {name: (jax.jit(lambda inputs, *batch: jnp.sin(inputs)), jnp.ones(3)) for name in names}
    monkeypatch.setattr(bench, "sides", lambda config, subject: quick)
    result = {
        "settings": SETTINGS,
        "machine": {"cpu": "CPU", "cores": [0]},
        "versions": {"jax": "1"},
        "model": "tiny",
        "parameters": subject().parameters,
        "gradient_values": subject().values,
        "throughput": bench.throughput(CONFIG, subject()),
    }
    assert result["throughput"]["against_plain"][bench.PLAIN]["median"] == 1
    assert all(len(times) == 2 for times in result["throughput"]["seconds"].values())
    told = bench.table(json.loads(json.dumps(result)))
    assert "rms x2" in told
    assert f"{subject().values:,} values" in told


@pytest.mark.parametrize(
    ("field", "value"), [("parts", "speed"), ("rank", 0), ("tokens", 1), ("devices", 0)]
)
def test_wrong_settings(field, value):
    with pytest.raises(InputError, match=f"--{field}"):
        bench.BenchConfig(**SETTINGS | {field: value})
