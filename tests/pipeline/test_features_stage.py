"""Features as the stages make them: several kinds and checkpoints, odd rows, several devices."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from etils import epath

from g2is_jax.features.rows import Rows
from g2is_jax.features.store import open_store
from g2is_jax.pipeline import (
    extraction,
    features_stage,
    method_inputs,
    selection_stage,
    warmup_stage,
)
from g2is_jax.pipeline.job import Job, open_job
from g2is_jax.runs.manifest import read_manifest
from g2is_jax.selection.methods import METHODS
from tests.support.compilation import AS_USERS_DO, many_devices
from tests.support.small import ROOT
from tests.support.small_job import changed

SCRIPT = """
import json, sys
from etils import epath
from ml_collections import ConfigDict
from g2is_jax.pipeline import selection_stage
config = ConfigDict(json.loads(sys.argv[1]))
print(json.dumps([chosen.rows for chosen in selection_stage.run(config, epath.Path(sys.argv[2]))]))
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> epath.Path:
    return epath.Path(tmp_path_factory.mktemp("features"))


@pytest.fixture
def job(config, workdir) -> Job:
    """Two methods, whose pool features are of two kinds."""
    return open_job(changed(config, run__methods="less,g2is"), workdir)


def folder_of(job: Job, kind: str) -> epath.Path:
    return features_stage.stages(job, job.data.pool, kind, 0)[0]


def test_kinds_of_one_pass_are_those_of_single_passes(job, config, tmp_path, capfd):
    together = {kind: open_store(folder_of(job, kind)) for kind in ("rms", "adam")}
    told = capfd.readouterr().err
    assert "gradients (adam, rms)" in told
    assert not re.search(r"gradients \((rms|adam)\)", told)
    for method, kind in (("g2is", "rms"), ("less", "adam")):
        alone = open_job(changed(config, run__methods=method), epath.Path(tmp_path / method))
        expected = open_store(folder_of(alone, kind))
        rows = together[kind].read()[:]
        np.testing.assert_allclose(rows, expected.read()[:], rtol=0, atol=1e-2)  # of bfloat16
        np.testing.assert_allclose(together[kind].norms_N, expected.norms_N, rtol=1e-5)
    assert not np.allclose(together["rms"].read()[:], together["adam"].read()[:], atol=1e-2)


def test_a_kind_that_is_missing_is_taken_from_the_pass_on_the_device(job, monkeypatch):
    """Its rows are those of the pass of both kinds, and nobody waits where they are chosen."""
    folder, other = folder_of(job, "adam"), folder_of(job, "rms")
    before = {file.name: file.read_bytes() for file in folder.glob("chunk-*")}
    kept = other.stat().mtime
    true_extract, features = features_stage.extract, []

    def extract(compute, *rest):
        def seen(batch):
            found = compute(batch)
            features.append(found.features_KBP)
            return found

        return true_extract(seen, *rest)

    monkeypatch.setattr(features_stage, "extract", extract)
    shutil.rmtree(folder)
    assert folder_of(job, "adam") == folder
    assert {file.name: file.read_bytes() for file in folder.glob("chunk-*")} == before
    assert all(isinstance(x, jax.Array) and len(x) == 1 for x in features)
    assert features
    assert other.stat().mtime == kept


def test_manifest_and_diagnostics(job):
    folder = folder_of(job, "adam")
    counts = read_manifest(folder)["counts"]
    assert counts["rows"] == len(job.data.pool.records)
    assert counts["shapes"] >= 1
    assert 0 <= counts["padding"] < 1
    told = json.loads((folder / "diagnostics.json").read_text())
    assert told["momentum"]["share"]["median"] > 0
    assert set(told["norms_by_source"]) == {record.source for record in job.data.pool.records}
    assert json.loads((folder_of(job, "rms") / "diagnostics.json").read_text())["momentum"] is None


def test_measured_microbatch_changes_nothing(job, config, tmp_path, capsys):
    measured = changed(config, run__methods="less,g2is", grads__batch_tokens=0)
    other = open_job(measured, epath.Path(tmp_path))
    first, second = (open_store(folder_of(one, "rms")) for one in (job, other))
    assert "memory allows" in capsys.readouterr().out
    np.testing.assert_allclose(first.norms_N, second.norms_N, rtol=1e-5)
    np.testing.assert_allclose(first.read()[:], second.read()[:], rtol=0, atol=1e-2)


def test_several_checkpoints_weigh_the_cosines_by_their_rates(config, tmp_path):
    both = changed(config, run__methods="g2is", grads__checkpoints=0, warmup__epochs=2)
    job = open_job(both, epath.Path(tmp_path))
    weights = [checkpoint.weight for checkpoint in warmup_stage.load(job, 0)]
    lines = (warmup_stage.stage(job, 0) / "metrics.jsonl").read_text().splitlines()
    rates = np.array([json.loads(line)["learning_rate"] for line in lines]).reshape(2, -1)
    np.testing.assert_allclose(weights, rates.mean(axis=1) / rates.mean(axis=1).sum())
    assert weights[0] > weights[1] > 0  # the rate falls
    rows = method_inputs.load_features(job, job.data.pool, "g2is", 0)
    stores = [open_store(folder) for folder in features_stage.stages(job, job.data.pool, "rms", 0)]
    first, second = (store.read()[:] for store in stores)
    expected = weights[0] * first @ first.T + weights[1] * second @ second.T
    np.testing.assert_allclose(rows[:] @ rows[:].T, expected, atol=1e-5)
    assert not np.allclose(first, second, atol=1e-2)
    lengths = np.linalg.norm(rows.at_former_length(), axis=1)
    squares = sum(
        w * store.norms_N.astype(np.float64) ** 2 for w, store in zip(weights, stores, strict=True)
    )
    np.testing.assert_allclose(lengths, np.sqrt(squares), rtol=1e-2)


def test_seeds_of_warm_up_and_projection_move_apart(config, tmp_path):
    """Moved by one, both are those of the next seed; each alone leaves the other as it was."""
    here, elsewhere = (
        open_job(changed(config, run__methods="g2is"), epath.Path(tmp_path / name))
        for name in ("here", "elsewhere")
    )

    def made(job, seed, **fields) -> tuple[str, str, np.ndarray]:
        variant = job.variant({name.replace("__", "."): value for name, value in fields.items()})
        features = features_stage.stages(variant, variant.data.pool, "rms", seed)[0]
        warm_up, rows_NP = warmup_stage.stage(variant, seed), open_store(features).read()[:]
        return warm_up.name, features.name, rows_NP

    warm, _, rows = made(here, 0)
    both_warm, both, both_rows = made(here, 0, warmup__seed=1, projection__seed=1)
    next_warm, after, next_rows = made(elsewhere, 1)
    assert (both_warm, both) == (next_warm, after)
    np.testing.assert_array_equal(both_rows, next_rows)
    same_warm, _, projected_rows = made(here, 0, projection__seed=1)
    other_warm, _, trained_rows = made(here, 0, warmup__seed=1)
    assert (same_warm, other_warm) == (warm, next_warm)
    for one, other in itertools.combinations((rows, both_rows, projected_rows, trained_rows), 2):
        assert not np.allclose(one, other, atol=1e-2)


@pytest.mark.parametrize("method", ["less", "g2is"])
def test_rows_that_are_not_finite_are_never_chosen(job, monkeypatch, method):
    target = job.data.targets[0]
    chosen = METHODS[method].choose(method_inputs.gather(job, method, target, 0)).rows
    load = method_inputs.load_features

    def with_odd_rows(job, dataset, method, seed):
        rows = load(job, dataset, method, seed)
        odd = chosen[:3] if dataset is job.data.pool else [0]
        values_NP, finite_N = rows.values_NP.copy(), rows.finite_N.copy()
        values_NP[odd], finite_N[odd] = 0, False
        return Rows(values_NP, rows.scales_N, rows.norms_NK, finite_N)

    monkeypatch.setattr(method_inputs, "load_features", with_odd_rows)
    gathered = method_inputs.gather(job, method, target, 0)
    assert len(gathered.validation) == len(target.validation.records) - 1
    rows = METHODS[method].choose(gathered).rows
    assert len(rows) == len(chosen)
    assert not set(rows) & set(chosen[:3])


def test_hidden_states_on_request(config, tmp_path):
    asked = changed(config, run__methods="none", grads__hidden_states=True)
    folders = extraction.run(asked, epath.Path(tmp_path))
    hidden = [folder for folder in folders if folder.name.startswith("hidden-")]
    job = open_job(asked, epath.Path(tmp_path))
    stores = [open_store(folder) for folder in hidden]
    assert [len(store.rows_N) for store in stores] == [len(job.data.pool.records), 4]
    assert stores[0].width == job.model.config.hidden_size


def test_eight_devices_that_share_the_base_choose_the_same_rows(config, tmp_path):
    """One process with 8 virtual devices, each holding an eighth of the base's linear layers, and
    with programs that are compiled as a user's are."""
    settings = changed(config, run__methods="g2is")
    expected = [chosen.rows for chosen in selection_stage.run(settings, epath.Path(tmp_path))]
    for name in ("features", "selection"):  # only the warm-up is reused
        for folder in tmp_path.glob(f"stages/{name}-*"):
            shutil.rmtree(folder)
    shared = changed(settings, model__shard_base=True)
    environment = AS_USERS_DO | many_devices(8, "") | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, shared.to_json(), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_a_kind_that_is_made_again_by_itself_has_the_same_bytes(config, tmp_path):
    """As after its folder was deleted, where that of the other kind stays."""
    asked = changed(config, run__methods="less,g2is")
    folders = extraction.run(asked, epath.Path(tmp_path))
    before = {file: file.read_bytes() for folder in folders for file in folder.glob("chunk-*")}
    folders[0].rmtree()
    assert extraction.run(asked, epath.Path(tmp_path)) == folders
    assert {file: file.read_bytes() for file in before} == before
