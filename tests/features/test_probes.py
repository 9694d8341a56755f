"""Two-sided probes: plain projections of the gradients of a layer's own weight."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from g2is_jax.features.gradients import DirectionConfig, feature_function, shared_inputs
from g2is_jax.features.probes import probes
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.model.build import build_model
from g2is_jax.model.lora import checkpoint_path
from g2is_jax.model.two_sided import CORE, SIDE_IN, SIDE_OUT, TwoSidedConfig
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.mesh import data_mesh
from g2is_jax.training.loss import example_loss
from g2is_jax.training.optimizer import Moments
from tests.support.eight_devices import run_on_eight_devices
from tests.support.projected import project
from tests.support.random_llama import CONFIG, LENGTHS, build, random_examples, unit
from tests.support.tiny_models import FLOAT32, NO_LORA

SGD = (DirectionConfig("sgd", 0.9, 0.999, 1e-8),)
NONE = ProjectionConfig("none", 0, repetitions=1)
K, SEED = 5, 3
ALL = TwoSidedConfig(K, ("all-linear",))


def probed(config: TwoSidedConfig = ALL, **settings):
    """A model with probes, these, and the base, whose values are those of `build`."""
    model = build_model(CONFIG, config, replace(FLOAT32, **settings))
    _, _, base = build(lora=NO_LORA, **settings)
    return model, probes(model, SEED), base


def rows_of(
    world, examples, projection=NONE, size: int = 8, width: int = 16, mesh=None
) -> np.ndarray:
    """The features of each example, `size` at a time and `width` tokens wide."""
    model, leaves, base = world
    moments = Moments(0, leaves, leaves)
    inputs = shared_inputs(model, leaves, base, moments, projection, SEED, mesh)
    function, found = feature_function(model, SGD, projection, mesh), []
    for start in range(0, len(examples), size):
        some = examples[start : start + size]
        tokens_BT = np.zeros((size, width), np.int32)
        supervised_BT = np.zeros((size, width), bool)
        for row, example in enumerate(some):
            tokens_BT[row, : len(example.tokens_T)] = example.tokens_T
            supervised_BT[row, : len(example.tokens_T)] = example.supervised_T
        features_KBP = function(inputs, tokens_BT, supervised_BT).features_KBP
        found.append(np.asarray(features_KBP)[0, : len(some)])
    return np.concatenate(found)


@pytest.fixture(scope="module")
def whole() -> list[dict[str, np.ndarray]]:
    """The gradient of each linear layer's weight, for each example."""
    model, _, base = build(lora=NO_LORA)
    linear = {path: x for path, x in base.items() if path.endswith("_proj.weight")}

    @jax.jit
    def gradient(tokens_T, supervised_T):
        def mean(linear):
            total, count = example_loss(model, {}, base | linear, tokens_T, supervised_T)
            return total / count

        return jax.grad(mean)(linear)

    found = (gradient(e.tokens_T, e.supervised_T) for e in random_examples())
    return [{path: np.asarray(x, np.float64) for path, x in own.items()} for own in found]


def expected_rows(whole, layers=None) -> np.ndarray:
    """P_out dL/dW P_in^T / K of each layer, side by side in the canonical order."""
    leaves = {path: np.asarray(x, np.float64) for path, x in probed()[1].items()}
    rows = []
    for own in whole:
        parts = []
        for path in sorted(own):
            layer = path.removesuffix(".weight")
            if layers is None or layer in layers:
                side_out, side_in = leaves[f"{layer}.{SIDE_OUT}"], leaves[f"{layer}.{SIDE_IN}"]
                parts.append((side_out @ own[path] @ side_in.T / K).ravel())
        rows.append(np.concatenate(parts))
    return np.stack(rows)


@pytest.mark.parametrize("settings", [{}, {"scan": True}, {"scan": True, "remat": True}], ids=str)
def test_a_plain_projection_of_the_full_gradient(whole, settings):
    found, expected = rows_of(probed(**settings), random_examples()), expected_rows(whole)
    assert found.shape == (len(LENGTHS), 14 * K * K)
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert errors.max() <= 1e-4


def test_then_the_projection_of_a_run(whole):
    sketch = ProjectionConfig("sketch", 41, repetitions=2)
    model, _, _ = probed()
    found = rows_of(probed(), random_examples(), sketch)
    rows, start, cores = expected_rows(whole), 0, {}
    for path in sorted(model.gradient_shapes):
        cores[path] = jnp.asarray(rows[:, start : start + K * K].reshape(-1, K, K), jnp.float32)
        start += K * K
    np.testing.assert_allclose(found, project(sketch, SEED, cores), rtol=1e-3, atol=1e-5)


def test_batch_order_and_padding_change_nothing():
    examples, world = random_examples(), probed()
    rows = rows_of(world, examples)
    order = [5, 0, 7, 2, 4, 6, 1, 3]
    again = rows_of(world, [examples[place] for place in order], size=3, width=21)
    np.testing.assert_allclose(unit(again), unit(rows[order]), atol=2e-6)


def test_layers_by_name(whole):
    chosen = TwoSidedConfig(K, ("layers.1.mlp.*", "o_proj"))
    found = rows_of(probed(chosen), random_examples())
    layers = [
        path.removesuffix(".weight")
        for path in sorted(whole[0])
        if checkpoint_path(path).startswith("layers.1.mlp") or path.endswith("o_proj.weight")
    ]
    assert len(layers) == 5
    np.testing.assert_allclose(found, expected_rows(whole, layers), rtol=1e-3, atol=1e-5)


def test_probes_do_not_change_the_model():
    model, leaves, base = probed()
    plain, _, _ = build(lora=NO_LORA)
    tokens_T = random_examples()[1].tokens_T
    np.testing.assert_array_equal(
        model.logits(leaves, base, tokens_T), plain.logits({}, base, tokens_T)
    )


def test_signs_are_of_the_seed_the_layer_and_the_side():
    model, leaves, _ = probed()
    sides = [path for path in leaves if not path.endswith(CORE)]
    assert all(set(np.unique(leaves[path])) == {-1, 1} for path in sides)
    first = {path: np.asarray(leaves[path])[:, :20].tobytes() for path in sides}
    assert len({*first.values()}) == len(first)
    others = probes(model, SEED + 1)
    assert all(first[path] != np.asarray(others[path])[:, :20].tobytes() for path in sides)


def test_a_layer_that_is_not_there():
    with pytest.raises(InputError, match=r"grads\.layers: 'q_prj' matches no linear layer"):
        probed(TwoSidedConfig(K, ("q_prj",)))


def test_wider_sides_keep_more_of_the_cosines(whole):
    """The cosines of the full gradients, as nearly as sides of 5 and 20 rows keep them."""
    flat = unit(np.stack([np.concatenate([own[p].ravel() for p in sorted(own)]) for own in whole]))
    exact, errors = flat @ flat.T, []
    for width in (5, 20):
        rows = unit(rows_of(probed(TwoSidedConfig(width, ("all-linear",))), random_examples()))
        errors.append(np.sqrt(np.mean((rows @ rows.T - exact) ** 2)))
    assert errors[1] < errors[0] / 2


def main(folder: Path) -> None:
    """On eight devices, with weights whole on each, and shared out over them."""
    results = {
        str(shard): rows_of(
            probed(scan=True, shard_base=shard), random_examples(), mesh=data_mesh()
        ).tolist()
        for shard in (False, True)
    }
    (folder / "results.json").write_text(json.dumps(results | {"devices": jax.device_count()}))


def test_eight_devices_give_the_features_of_one(tmp_path):
    results = run_on_eight_devices(__file__, tmp_path)
    assert results.pop("devices") == 8
    expected = rows_of(probed(scan=True), random_examples())
    for found in results.values():
        np.testing.assert_allclose(unit(np.array(found)), unit(expected), atol=2e-6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
