"""What a fine-tune's stage holds, its learning curves, and which of its adapters is scored."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from g2is_jax.model.adapters import read_adapter
from g2is_jax.model.build import load_model
from g2is_jax.pipeline import curve_stage, evaluate_stage, finetune_stage, scoring, selection_stage
from g2is_jax.pipeline.job import Job, open_job
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import read_manifest
from g2is_jax.training.loss import example_loss
from tests.support.small import stages
from tests.support.small_job import changed, small_config
from tests.support.tiny_models import FLOAT32, NO_LORA


@pytest.fixture(scope="module")
def settings(base):
    """Two targets and a random selection, which they share; the adapters change fast."""
    return changed(
        small_config(base),
        world__targets="sorting_letters,lookup_arithmetic",
        lora__dropout=0.0,
        finetune__learning_rate=0.05,
        finetune__microbatch_tokens=128,
        finetune__merge=True,
        evaluate__new_tokens=0,
        evaluate__curves=True,
        run__methods="random",
    )


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory) -> tuple[Job, list[epath.Path]]:
    """A job, and its curves' stages."""
    workdir = epath.Path(tmp_path_factory.mktemp("finetune") / "work")
    return open_job(settings, workdir), curve_stage.run(settings, workdir)


def tuned(job: Job) -> epath.Path:
    chosen = selection_stage.stage(job, "random", job.data.targets[0], 0)
    return finetune_stage.stage(job, chosen, "random", 0)


def curve_of(folder: epath.Path) -> list[dict]:
    return json.loads((folder / "curve.json").read_text())


def test_adapter_of_each_epoch_and_merged_checkpoint(finished):
    job, _ = finished
    folder = tuned(job)
    assert sorted(place.name for place in (folder / "epochs").iterdir()) == ["1", "2"]
    first, second, last = (
        read_adapter(folder / place, job.model) for place in ("epochs/1", "epochs/2", "adapter")
    )
    for path, leaf in last.items():
        np.testing.assert_array_equal(second[path], leaf)
        assert (first[path] != leaf).any()
    _, merged = load_model(folder / "merged", NO_LORA, FLOAT32)
    for path, leaf in job.weights.items():
        layer = path.removesuffix(".weight")
        if f"{layer}.lora_A" in last:
            leaf = leaf + job.model.lora.scale * last[f"{layer}.lora_B"] @ last[f"{layer}.lora_A"]
        np.testing.assert_allclose(merged[path], leaf, rtol=0, atol=1e-5)


def test_curve_of_each_target(finished):
    """Targets share the fine-tune. Each loss is that of the rows one by one."""
    job, folders = finished
    assert [name.partition("-")[0] for name in stages(Path(job.stages.workdir))].count(
        "finetune"
    ) == 1
    for target, folder in zip(job.data.targets, folders, strict=True):
        curve = curve_of(folder)
        assert [point["epoch"] for point in curve] == [0, 1, 2]
        told = read_manifest(folder)["counts"]
        best = curve_stage.best_epoch(curve)
        assert told == {"devices": 1, "rows": 4, "best_epoch": best}
        adapters = [job.model.zero_adapter()]
        adapters += [read_adapter(tuned(job) / f"epochs/{n}", job.model) for n in (1, 2)]
        run = jax.jit(example_loss, static_argnums=0)
        for point, adapter in zip(curve, adapters, strict=True):
            sums = [
                run(job.model, adapter, job.weights, row.tokens_T, row.supervised_T)
                for row in target.validation.encoded
            ]
            expected = np.mean([float(total) / int(count) for total, count in sums])
            assert point["validation_loss"] == pytest.approx(expected, rel=1e-5)
    first, second = map(curve_of, folders)
    assert first != second


def test_best_epoch_is_a_trained_one_and_the_earliest_of_equals():
    def best(*losses):
        return curve_stage.best_epoch(
            [{"epoch": n, "validation_loss": loss} for n, loss in enumerate(losses)]
        )

    assert best(1.0, 3.0, 2.0, 2.5) == 2
    assert best(1.0, 2.0, 2.0) == 1


@pytest.mark.parametrize("best", [1, 2])
def test_best_adapter_is_evaluated(finished, settings, monkeypatch, best):
    """That of another epoch is another stage; the last one's score is the one of the last."""
    job, _ = finished
    monkeypatch.setattr(curve_stage, "best_epoch", lambda curve: best)
    variant = job.variant({"evaluate.adapter": "best"})
    target = job.data.targets[0]
    label = f"random {target.name} seed 0"
    chosen = curve_stage.adapter_to_evaluate(variant, tuned(job), target, label)
    assert chosen == finetune_stage.Tuned(tuned(job), {1: "epochs/1", 2: "adapter"}[best])
    score = scoring.score(variant, "random", target, 0)
    direct = evaluate_stage.stage(job, chosen, target, label)
    assert score["metrics"] == json.loads((direct / "metrics.json").read_text())
    last = scoring.score(job, "random", target, 0)
    assert (last["metrics"] == score["metrics"]) == (best == 2)


def test_only_what_was_asked_for_changes_a_stage(finished):
    """Its name tells what it holds; with nothing asked for, the name is as it always was."""
    job, _ = finished
    plain = job.variant({"finetune.merge": False})
    settings = read_manifest(tuned(plain))["settings"]
    assert settings.keys() == {"fit", "seed", *job.model_identity}
    assert settings["fit"].keys() == {"epochs", "batch_size", "optimizer"}
    assert not (tuned(plain) / "merged").exists()
    last_only = tuned(
        job.variant(
            {"finetune.merge": False, "finetune.keep_epochs": False, "evaluate.curves": False}
        )
    )
    assert not (last_only / "epochs").exists()
    assert len({tuned(job), tuned(plain), last_only}) == 3
    weights = [(f / "adapter" / "adapter_model.safetensors").read_bytes()
               for f in (tuned(job), tuned(plain), last_only)]  # fmt: skip
    assert len(set(weights)) == 1


def test_packed_fine_tune(finished):
    """A stage of its own, with less padding, and nearly the same adapter."""
    job, _ = finished
    packed = job.variant({"finetune.packing": True, "finetune.merge": False})
    folder = tuned(packed)
    told, before = (read_manifest(one)["counts"] for one in (folder, tuned(job)))
    assert told["padding_unpacked"] == before["padding"] > told["padding"] >= 0
    assert {**told, **before} == {**told, "padding": before["padding"]}
    assert read_manifest(folder)["settings"]["fit"]["packing"] is True
    ours, theirs = (read_adapter(one / "adapter", job.model) for one in (folder, tuned(job)))
    for path, leaf in theirs.items():
        assert np.linalg.norm(ours[path] - leaf) < 0.02 * np.linalg.norm(leaf), path


def test_fine_tune_of_an_earlier_version_has_no_epochs(finished, settings, tmp_path):
    job = open_job(settings, epath.Path(tmp_path))
    folder = tuned(job)
    for place in (folder / "epochs").iterdir():
        place.rmtree()
    (folder / "epochs").rmdir()
    with pytest.raises(InputError, match=r"epochs/1: there is none.*; delete .*finetune-\w+ and"):
        curve_stage.stage(job, folder, job.data.targets[0], "random")


@pytest.mark.parametrize(
    "asked", [{"evaluate__curves": True}, {"evaluate__adapter": "best", "evaluate__curves": False}]
)
def test_curves_need_the_adapters(settings, tmp_path, asked):
    with pytest.raises(InputError, match=r"set finetune\.keep_epochs"):
        open_job(changed(settings, finetune__keep_epochs=False, **asked), epath.Path(tmp_path))
