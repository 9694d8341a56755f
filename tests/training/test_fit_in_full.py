"""Training of all weights: torch's AdamW on the same model, resumed and shared out."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from g2is_jax.data.batches import row_lengths, training_batches, training_shapes
from g2is_jax.data.chat import Encoded
from g2is_jax.model.build import build_model
from g2is_jax.model.lora import checkpoint_path
from g2is_jax.runs.mesh import training_mesh
from g2is_jax.training.fit import FitConfig, fit
from g2is_jax.training.optimizer import OptimizerConfig, learning_rates
from tests.support.eight_devices import run_on_eight_devices
from tests.support.tiny_models import FLOAT32, NO_LORA, both, config_of, random_leaves

EPOCHS, BATCH, SEED = 5, 3, 4
ADAM = OptimizerConfig(3e-3, "linear", 0.2, 0.01, b1=0.9, b2=0.98, eps=1e-6)
CONFIG = FitConfig(EPOCHS, BATCH, 40, keep_checkpoints=1, packing=False, optimizer=ADAM)


def examples(count: int = 6) -> list[Encoded]:
    found = []
    for index in range(count):
        rng = np.random.default_rng([7, index])
        tokens_T = rng.integers(3, 130, size=int(rng.integers(5, 14))).astype(np.int32)
        supervised_T = np.arange(len(tokens_T)) >= len(tokens_T) // 2
        found.append(Encoded(tokens_T, supervised_T, False))
    return found


def trained(model, base, folder: Path, mesh=None, config: FitConfig = CONFIG):
    rows, devices = examples(), mesh.size if mesh else 1
    tokens = config.microbatch_tokens * devices
    shapes = training_shapes(row_lengths(rows), BATCH, tokens, multiple=devices)
    ids = [str(number) for number in range(len(rows))]
    return fit(model, base, rows, shapes, config, SEED, epath.Path(folder), ids, mesh)


def torch_steps(torch, theirs) -> None:
    """Ten steps of torch's AdamW on the same batches, at the same rates."""
    rows = examples()
    optimizer = torch.optim.AdamW(
        theirs.parameters(), lr=1.0, betas=(ADAM.b1, ADAM.b2), eps=ADAM.eps,
        weight_decay=ADAM.weight_decay,
    )  # fmt: skip
    rate_of = learning_rates(ADAM, 2 * EPOCHS)
    shapes = training_shapes(row_lengths(rows), BATCH, 40)
    for step, microbatches in training_batches(rows, BATCH, SEED, EPOCHS, 0, shapes):
        total, count = 0.0, 0
        for batch in microbatches:
            for row in batch.rows_B[batch.rows_B >= 0].tolist():
                tokens = torch.tensor(rows[row].tokens_T, dtype=torch.long)
                logits = theirs(input_ids=tokens[None]).logits[0, :-1]
                kept = torch.tensor(rows[row].supervised_T[1:])
                loss = torch.nn.functional.cross_entropy(
                    logits[kept], tokens[1:][kept], reduction="sum"
                )
                total, count = total + loss, count + int(kept.sum())
        optimizer.zero_grad()
        (total / count).backward()
        for group in optimizer.param_groups:
            group["lr"] = float(rate_of(step))
        optimizer.step()


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_ten_steps_of_torchs_adamw(torch, tmp_path, family):
    """Head apart or tied, norms and embeddings among the weights."""
    theirs, model, base = both(torch, tmp_path / "base", family)
    found, moments = trained(model, base, tmp_path / "fit")
    assert moments.step == 10
    torch_steps(torch, theirs)
    parameters = dict(theirs.named_parameters())
    moved = 0.0
    for path, leaf in model.base_layout.by_layer(found).items():
        name = "lm_head.weight" if path == "lm_head" else f"model.{checkpoint_path(path)}"
        name = f"{name}.weight" if path == "embed_tokens" else name
        expected = parameters[name].detach().numpy()
        np.testing.assert_allclose(leaf, expected, atol=1e-4, err_msg=path)
        moved = max(moved, float(np.abs(expected - np.asarray(base[path])).max()))
    assert moved > 1e-2


def small(**settings):
    model = build_model(config_of("llama"), NO_LORA, replace(FLOAT32, **settings))
    return model, model.base_layout.stacked(random_leaves(model.base_shapes))


def test_it_goes_on_from_a_checkpoint(tmp_path):
    model, base = small()
    expected, _ = trained(model, base, tmp_path / "whole")
    folder = tmp_path / "killed"

    class Killed(Exception):
        pass

    def kill(epoch: int, leaves) -> None:
        if epoch == 3:
            raise Killed

    rows = examples()
    shapes = training_shapes(row_lengths(rows), BATCH, 40)
    ids = [str(number) for number in range(len(rows))]
    with pytest.raises(Killed):
        fit(model, base, rows, shapes, CONFIG, SEED, epath.Path(folder), ids, None, kill)
    found, _ = trained(model, base, folder)
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, expected[path])


def main(folder: Path) -> None:
    """On eight devices, with weights whole on each, and shared out over them."""
    results = {}
    for shard in (False, True):
        model, base = small(shard_base=shard, scan=True)
        found, _ = trained(model, base, folder / str(shard), training_mesh())
        results[str(shard)] = {path: np.asarray(x).ravel().tolist() for path, x in found.items()}
    results["devices"] = jax.device_count()
    (folder / "results.json").write_text(json.dumps(results))


def test_eight_devices_do_what_one_does(tmp_path):
    results = run_on_eight_devices(__file__, tmp_path)
    assert results.pop("devices") == 8
    model, base = small(scan=True)
    expected, _ = trained(model, base, tmp_path / "one")
    for found in results.values():
        assert found.keys() == expected.keys()
        for path, leaf in expected.items():
            np.testing.assert_allclose(np.array(found[path]), np.ravel(leaf), atol=2e-5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
