"""Features as the stages make them: several kinds and checkpoints, odd rows, several devices."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from g2is_jax.features.rows import Rows
from g2is_jax.features.store import read_store
from g2is_jax.pipeline import features_stage, material, selection_stage, warmup_stage
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.manifest import read_manifest
from g2is_jax.selection.methods import METHODS
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
    return Job(changed(config, run__methods="less,g2is"), workdir)


def folder_of(job: Job, kind: str) -> epath.Path:
    return features_stage.stages(job, job.pool, kind, 0)[0]


def test_kinds_of_one_pass_are_those_of_single_passes(job, config, tmp_path, capfd):
    together = {kind: read_store(folder_of(job, kind)) for kind in ("rms", "adam")}
    told = capfd.readouterr().err
    assert "gradients (adam, rms)" in told
    assert not re.search(r"gradients \((rms|adam)\)", told)
    for method, kind in (("g2is", "rms"), ("less", "adam")):
        alone = Job(changed(config, run__methods=method), epath.Path(tmp_path / method))
        expected = read_store(folder_of(alone, kind))
        rows = together[kind].features_NP
        np.testing.assert_allclose(rows, expected.features_NP, rtol=0, atol=1e-2)  # of bfloat16
        np.testing.assert_allclose(together[kind].norms_N, expected.norms_N, rtol=1e-5)
    assert not np.allclose(together["rms"].features_NP, together["adam"].features_NP, atol=1e-2)


def test_manifest_and_diagnostics(job):
    folder = folder_of(job, "adam")
    counts = read_manifest(folder)["counts"]
    assert counts["rows"] == len(job.pool.records)
    assert counts["shapes"] >= 1
    assert 0 <= counts["padding"] < 1
    told = json.loads((folder / "diagnostics.json").read_text())
    assert told["momentum"]["share"]["median"] > 0
    assert set(told["norms_by_source"]) == {record.source for record in job.pool.records}
    assert json.loads((folder_of(job, "rms") / "diagnostics.json").read_text())["momentum"] is None


def test_measured_microbatch_changes_nothing(job, config, tmp_path, capsys):
    measured = changed(config, run__methods="less,g2is", grads__batch_tokens=0)
    other = Job(measured, epath.Path(tmp_path))
    first, second = (read_store(folder_of(one, "rms")) for one in (job, other))
    assert "memory allows" in capsys.readouterr().out
    np.testing.assert_allclose(first.norms_N, second.norms_N, rtol=1e-5)
    np.testing.assert_allclose(first.features_NP, second.features_NP, rtol=0, atol=1e-2)


def test_several_checkpoints_weigh_the_cosines_by_their_rates(config, tmp_path):
    both = changed(config, run__methods="g2is", grads__checkpoints=0, warmup__epochs=2)
    job = Job(both, epath.Path(tmp_path))
    weights = [checkpoint.weight for checkpoint in warmup_stage.load(job, 0)]
    lines = (warmup_stage.stage(job, 0) / "metrics.jsonl").read_text().splitlines()
    rates = np.array([json.loads(line)["learning_rate"] for line in lines]).reshape(2, -1)
    np.testing.assert_allclose(weights, rates.mean(axis=1) / rates.mean(axis=1).sum())
    assert weights[0] > weights[1] > 0  # the rate falls
    weighted = features_stage.load(job, job.pool, "rms", 0)
    units = features_stage.units(weighted)
    expected = sum(w * f.features_NP @ f.features_NP.T for w, f in weighted)
    np.testing.assert_allclose(units @ units.T, expected, atol=1e-5)
    first, second = (features.features_NP for _, features in weighted)
    assert not np.allclose(first, second, atol=1e-2)
    lengths = np.linalg.norm(features_stage.unnormalised(weighted), axis=1)
    squares = sum(w * f.norms_N.astype(np.float64) ** 2 for w, f in weighted)
    np.testing.assert_allclose(lengths, np.sqrt(squares), rtol=1e-2)


def test_seeds_of_warm_up_and_projection_move_apart(config, tmp_path):
    """Moved by one, both are those of the next seed; each alone leaves the other as it was."""
    here, elsewhere = (
        Job(changed(config, run__methods="g2is"), epath.Path(tmp_path / name))
        for name in ("here", "elsewhere")
    )

    def made(job, seed, **fields) -> tuple[str, str, np.ndarray]:
        one = job.variant({name.replace("__", "."): value for name, value in fields.items()})
        features = features_stage.stages(one, one.pool, "rms", seed)[0]
        return warmup_stage.stage(one, seed).name, features.name, read_store(features).features_NP

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
    target = job.targets[0]
    chosen = METHODS[method].choose(material.gather(job, method, target, 0)).rows
    load, pool_rows = features_stage.load, material.pool_rows

    def with_odd_pool(job, method, seed):
        rows, finite_N = pool_rows(job, method, seed)
        values_NP, finite_N = rows.values_NP.copy(), finite_N.copy()
        values_NP[chosen[:3]], finite_N[chosen[:3]] = 0, False
        return Rows(values_NP, rows.scales_N), finite_N

    def with_odd_validation(job, dataset, kind, seed):
        [(weight, features)] = load(job, dataset, kind, seed)
        finite_N, features_NP = features.finite_N.copy(), features.features_NP.copy()
        features_NP[0], finite_N[0] = 0, False
        return [(weight, dataclasses.replace(features, features_NP=features_NP, finite_N=finite_N))]

    monkeypatch.setattr(material, "pool_rows", with_odd_pool)
    monkeypatch.setattr(features_stage, "load", with_odd_validation)
    gathered = material.gather(job, method, target, 0)
    assert len(gathered.validation_MP) == len(target.validation.records) - 1
    rows = METHODS[method].choose(gathered).rows
    assert len(rows) == len(chosen)
    assert not set(rows) & set(chosen[:3])


def test_hidden_states_on_request(config, tmp_path):
    asked = changed(config, run__methods="none", grads__hidden_states=True)
    folders = features_stage.run(asked, epath.Path(tmp_path))
    hidden = [folder for folder in folders if folder.name.startswith("hidden-")]
    job = Job(asked, epath.Path(tmp_path))
    stores = [read_store(folder) for folder in hidden]
    assert [len(store.rows_N) for store in stores] == [len(job.pool.records), 4]
    assert stores[0].features_NP.shape[1] == job.model.config.hidden_size


def test_eight_devices_that_share_the_base_choose_the_same_rows(config, tmp_path):
    """One process with 8 virtual devices, each holding an eighth of the base's linear layers."""
    settings = changed(config, run__methods="g2is")
    expected = [chosen.rows for chosen in selection_stage.run(settings, epath.Path(tmp_path))]
    for name in ("features", "selection"):  # only the warm-up is reused
        for folder in tmp_path.glob(f"stages/{name}-*"):
            shutil.rmtree(folder)
    shared = changed(settings, model__shard_base=True)
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(ROOT)}
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
    folders = features_stage.run(asked, epath.Path(tmp_path))
    before = {file: file.read_bytes() for folder in folders for file in folder.glob("chunk-*")}
    folders[0].rmtree()
    assert features_stage.run(asked, epath.Path(tmp_path)) == folders
    assert {file: file.read_bytes() for file in before} == before
