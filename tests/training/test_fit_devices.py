"""Eight devices train what one does. A process with eight of them writes what it found."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.eight_devices import run_on_eight_devices
from tests.support.without_torch import hide_torch

RUNS = {  # devices, shard_base, packed
    "one": (1, False, False),
    "eight": (8, False, False),
    "shared": (8, True, False),
    "one packed": (1, False, True),
    "eight packed": (8, False, True),
}
SIZES = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
LENGTHS = (13, 6, 16, 9, 2, 14, 8, 11, 16, 5, 3)


def main(folder: Path) -> None:
    """Fit under dropout in each kind of run; write the losses and the devices of the arrays."""
    import dataclasses

    import jax
    from etils import epath

    from g2is_jax.data.batches import training_shapes
    from g2is_jax.model.build import build_model
    from g2is_jax.runs.mesh import data_mesh
    from g2is_jax.training.fit import FitConfig, fit
    from tests.support.tiny_models import FLOAT32, config_of, lora_config, random_leaves
    from tests.support.tiny_training import ADAMW, log_of, random_rows

    jax.config.update("jax_numpy_rank_promotion", "raise")
    rows = random_rows(LENGTHS)
    results = {}
    for name, (devices, shard_base, packed) in RUNS.items():
        settings = dataclasses.replace(FLOAT32, shard_base=shard_base)
        lora = lora_config("q_proj", "v_proj", dropout=0.2)
        model = build_model(config_of("llama", **SIZES), lora, settings)
        shapes = training_shapes(LENGTHS, 6, 64, 1, multiple=devices, packed=packed)
        config = FitConfig(2, 6, 64, 0, packed, ADAMW)
        held: list[int] = []
        adapter, moments = fit(
            model,
            random_leaves(model.base_shapes),
            rows,
            shapes,
            config,
            5,
            epath.Path(folder / name),
            [str(length) for length in LENGTHS],
            data_mesh() if devices > 1 else None,
            lambda epoch, leaves, held=held: held.append(
                len(next(iter(leaves.values())).sharding.device_set)
            ),
        )
        np.savez(folder / f"{name}.npz", **adapter)
        results[name] = {
            "losses": [line["loss"] for line in log_of(folder / name)],
            "steps": moments.step,
            "devices": held,
        }
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[dict, Path]:
    """Return what `main` reports of each run, and the folder of their adapters."""
    folder = tmp_path_factory.mktemp("devices")
    results = run_on_eight_devices(__file__, folder)
    return results, folder


@pytest.mark.parametrize(
    ("name", "devices"), [("eight", 8), ("shared", 8), ("one packed", 1), ("eight packed", 8)]
)
def test_training_is_that_of_one_device(runs, name, devices):
    """Losses agree step by step under dropout, and so do the adapters at the end."""
    results, folder = runs
    assert results[name]["steps"] == results["one"]["steps"] == 4
    assert [results[run]["devices"] for run in ("one", name)] == [[1, 1], [devices, devices]]
    np.testing.assert_allclose(results[name]["losses"], results["one"]["losses"], rtol=1e-5)
    with np.load(folder / f"{name}.npz") as ours, np.load(folder / "one.npz") as theirs:
        for path, leaf in theirs.items():
            error = np.linalg.norm(ours[path] - leaf) / np.linalg.norm(leaf)
            assert error < 1e-4, path


if __name__ == "__main__":
    hide_torch()
    main(Path(sys.argv[1]))
