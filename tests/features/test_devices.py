"""Many devices compute what one does. A process with eight of them writes what it found."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.eight_devices import run_on_eight_devices
from tests.support.without_torch import hide_torch

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
RUNS = {  # devices, remat, shard_base, scan
    "one": (1, False, False, False),
    "two": (2, False, False, False),
    "eight": (8, False, False, False),
    "shared": (8, False, True, False),
    "shared remat": (8, True, True, False),
    "scanned": (1, False, False, True),
    "shared scanned": (8, False, True, True),
    "shared scanned remat": (8, True, True, True),
}
KINDS = ("adam", "sgd")
VALIDATION = 8  # rows, of 40


def main(folder: Path) -> None:
    """Features of each run, and what its program looks like."""
    import jax

    from g2is_jax.data.batches import pad_batch
    from g2is_jax.features.gradients import feature_function
    from g2is_jax.features.projection import ProjectionConfig
    from g2is_jax.runs.mesh import DATA, data_mesh
    from tests.support.random_llama import LORA, build, directions, inputs_of, random_examples
    from tests.support.tiny_models import config_of

    jax.config.update("jax_numpy_rank_promotion", "raise")
    sizes = {
        "vocab_size": 53,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_attention_heads": 4,
        "head_dim": 8,
    }
    config = config_of("llama", **sizes)
    encoded = random_examples([5 + 7 * i % 12 for i in range(40)])
    batch = pad_batch(encoded, range(40), 40, 16)
    projection = ProjectionConfig("sketch", 64, 2)
    results, arrays = {}, {}
    for name, (devices, remat, shard_base, scan) in RUNS.items():
        mesh = data_mesh()
        if devices < mesh.size:
            auto = (jax.sharding.AxisType.Auto,)
            some = jax.devices()[:devices]
            mesh = None if devices == 1 else jax.make_mesh((devices,), (DATA,), auto, devices=some)
        world = build(config, LORA, remat=remat, shard_base=shard_base, scan=scan)
        function = feature_function(world[0], directions(*KINDS), projection, mesh)
        inputs = inputs_of(world, projection, mesh=mesh)
        lowered = function.lower(inputs, batch.tokens_BT, batch.supervised_BT)
        compiled = lowered.compile()
        found = compiled(inputs, batch.tokens_BT, batch.supervised_BT)
        arrays[name] = found.features_KBP
        results[name] = {
            "devices": len(found.features_KBP.sharding.device_set),
            "norms": np.asarray(found.gradient_norms_B).tolist(),
            "tokens": np.asarray(found.tokens_B).tolist(),
            "collectives": {
                kind: len(re.findall(rf" {kind}(?:-start)?\(", compiled.as_text()))
                for kind in COLLECTIVES
            },
            "gathers written": lowered.as_text().count("stablehlo.all_gather"),
            "held": {
                path: sorted({shard.data.size / x.size for shard in x.addressable_shards})
                for path, x in inputs.base.items()
            },
        }
    np.savez(folder / "features.npz", **arrays)
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[dict, dict]:
    """The output of `main` for each run, and its features (K, B, P)."""
    folder = tmp_path_factory.mktemp("devices")
    results = run_on_eight_devices(__file__, folder)
    with np.load(folder / "features.npz") as features:
        return results, dict(features)


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", [name for name in RUNS if name != "one"])
def test_features_are_those_of_one_device(runs, name):
    """Their lengths agree as well: a gradient summed over the devices would be longer."""
    results, features = runs
    assert [results[run]["devices"] for run in ("one", name)] == [1, RUNS[name][0]]
    # Adam makes a small gradient's value, and so its rounding, as large as any: up to 1.6e-6 of a
    # row whose values cancel in the sketch, on a CPU without AMX.
    for kind, bound in zip(KINDS, (2e-6, 1e-6), strict=True):
        own, one = (unit(features[run])[KINDS.index(kind)] for run in (name, "one"))
        np.testing.assert_allclose(own, one, rtol=0, atol=bound, err_msg=kind)
    lengths = [np.linalg.norm(features[run], axis=2) for run in ("one", name)]
    np.testing.assert_allclose(lengths[1], lengths[0], rtol=1e-5)
    np.testing.assert_allclose(results[name]["norms"], results["one"]["norms"], rtol=1e-5)
    assert results[name]["tokens"] == results["one"]["tokens"]


@pytest.mark.parametrize("name", [name for name in RUNS if name != "one"])
def test_selections_are_those_of_one_device(runs, name):
    """The walk turns any difference that matters into other rows."""
    from g2is_jax.selection.budget import BudgetConfig, limits
    from g2is_jax.selection.core import KnowledgeConfig, core_knowledge
    from g2is_jax.selection.rivals.less import less
    from g2is_jax.selection.walk.rules import WalkConfig
    from g2is_jax.selection.walk.select import gradient_walk

    def chosen(features_KBP) -> list[list[int]]:
        adam_BP, sgd_BP = (unit(rows).astype(np.float32) for rows in features_KBP)
        pool_NP, validation_MP = adam_BP[VALIDATION:], sgd_BP[:VALIDATION]
        budget = limits(BudgetConfig(16, "rows", 1.0), *np.ones((2, len(pool_NP)), int))
        core = core_knowledge(
            validation_MP, KnowledgeConfig(True, "mean", "count", 3, True, "components")
        )
        walk = WalkConfig(0.5, "current", 0.0, 0.1, 1.0, "relax", "components", 0.0, 0.0, 0.0)
        subtasks_M = np.arange(VALIDATION) // 4
        return [
            gradient_walk(pool_NP, core, budget, walk).rows,
            less(pool_NP, validation_MP, subtasks_M, budget).rows,
        ]

    _, features = runs
    expected = chosen(features["one"])
    assert [len(set(rows)) for rows in expected] == [16, 16]
    assert chosen(features[name]) == expected


@pytest.mark.parametrize("name", ["two", "eight"])
def test_devices_do_not_talk_where_each_holds_the_base(runs, name):
    results, _ = runs
    assert results[name]["collectives"] == dict.fromkeys(COLLECTIVES, 0)
    assert {share for shares in results[name]["held"].values() for share in shares} == {1.0}


@pytest.mark.parametrize("name", [name for name in RUNS if "shared" in name])
def test_each_device_holds_a_share_of_the_base(runs, name):
    """Of every matrix; the norms are whole."""
    results, _ = runs
    norms = {path for path in results[name]["held"] if "norm" in path}
    matrices = set(results[name]["held"]) - norms
    assert len(matrices) == 2 + (7 if "scanned" in name else 14)
    for path, shares in results[name]["held"].items():
        assert shares == [1.0 if path in norms else 1 / 8], path
    collectives = results[name]["collectives"]
    assert collectives.pop("all-gather") >= len(matrices)
    assert set(collectives.values()) == {0}


def test_gathered_weights_are_not_kept_for_the_backward_pass(runs):
    """They are gathered once more: of 14 weights all but q, k and v of the first layer, below
    which there is no adapter. Embedding and head are gathered once. (As written: XLA may join the
    two where it does not mind memory.)"""
    results, _ = runs
    assert results["shared"]["gathers written"] == 14 + 11 + 2
    assert results["shared remat"]["gathers written"] >= 14 + 11 + 2
    assert results["shared scanned"]["gathers written"] == 7 + 7 + 2
    assert results["shared scanned remat"]["gathers written"] >= 7 + 7 + 2


if __name__ == "__main__":
    hide_torch()
    main(Path(sys.argv[1]))
