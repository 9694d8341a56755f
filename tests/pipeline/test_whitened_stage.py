"""Whitened features as the stages make them, and what methods choose by them."""

import numpy as np
import pytest
from etils import epath

from g2is_jax.features.rows import unit_length
from g2is_jax.features.store import open_store
from g2is_jax.pipeline import features_stage, method_inputs, selection_stage
from g2is_jax.pipeline.job import Job, open_job
from g2is_jax.runs.manifest import read_manifest
from g2is_jax.selection.rivals.coverage import coverage
from g2is_jax.selection.rivals.less import less_rr
from tests.support.small_job import changed


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> epath.Path:
    return epath.Path(tmp_path_factory.mktemp("whitened"))


@pytest.fixture(params=[128, 16], ids=["by rows", "by values"])
def job(config, workdir, request) -> Job:
    """Two methods, whose pool features are of two kinds; the pool has fewer rows than 128."""
    asked = changed(
        config,
        run__methods="less_rr,coverage",
        projection__width=request.param,
        grads__dtype="float32",
        grads__precondition="pool",
        grads__damping=0.3,
    )
    return open_job(asked, epath.Path(workdir / str(request.param)))


def by_hand(job: Job, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Pool and validation rows, whitened by the pool's features of that kind."""
    target = job.data.targets[0]
    sides = ((job.data.pool, kind), (target.validation, job.settings.features.validation_kind))
    pool_NP, own_MP = (
        open_store(features_stage.stages(job, dataset, of, 0)[0]).read()[:].astype(np.float64)
        for dataset, of in sides
    )
    units_NP = unit_length(pool_NP)
    moment_PP = units_NP.T @ units_NP / len(units_NP)
    damping = 0.3 * np.trace(moment_PP) / min(pool_NP.shape)
    values_P, vectors_PP = np.linalg.eigh(moment_PP + damping * np.eye(len(moment_PP)))
    root_PP = vectors_PP / np.sqrt(values_P) @ vectors_PP.T
    return pool_NP @ root_PP, own_MP @ root_PP


@pytest.mark.parametrize(("method", "choose"), [("less_rr", less_rr), ("coverage", coverage)])
def test_both_sides_are_whitened_by_the_kind_that_a_method_takes_of_the_pool(job, method, choose):
    pool, target = job.data.pool, job.data.targets[0]
    rows_NP, own_MP = by_hand(job, features_stage.kind_of(job, pool, method))
    for dataset, expected in ((pool, rows_NP), (target.validation, own_MP)):
        found = method_inputs.rows_of(job, dataset, method, 0)
        np.testing.assert_allclose(found[:], unit_length(expected), atol=1e-5)
    chosen = selection_stage.stage(job, method, target, 0)
    assert chosen.rows == choose(rows_NP, own_MP, job.limits).rows
    plain = job.variant({"grads.precondition": "none"})
    assert chosen.folder != selection_stage.stage(plain, method, target, 0).folder


def test_former_lengths_are_whitened_too(job):
    rows_NP, _ = by_hand(job, "rms")
    pool = job.data.pool
    source = open_store(features_stage.stages(job, pool, "rms", 0)[0])
    found = method_inputs.rows_of(job, pool, "coverage", 0).at_former_length()
    np.testing.assert_allclose(found, rows_NP * source.norms_N[:, None], rtol=1e-3, atol=1e-6)


def test_seconds_of_a_selection_count_every_stage_behind_it(job):
    target = job.data.targets[0]
    chosen = selection_stage.stage(job, "coverage", target, 0)
    names = {folder.name for folder in method_inputs.sources(job, "coverage", target, 0)}
    assert {name.split("-")[0] for name in names} == {"features", "whitening"}
    read = [*method_inputs.stages(job, "coverage", target, 0).values(), chosen.folder]
    seconds = sum(read_manifest(folder)["seconds"] for folder in read)
    assert chosen.seconds > seconds


def test_by_the_diagonal(job):
    own = job.variant({"grads.precondition": "diagonal"})
    pool, target = own.data.pool, own.data.targets[0]
    pool_NP, own_MP = (
        open_store(features_stage.stages(own, dataset, "sgd", 0)[0]).read()[:].astype(np.float64)
        for dataset in (pool, target.validation)
    )
    squares_P = (unit_length(pool_NP) ** 2).mean(axis=0)
    roots_P = np.sqrt(squares_P + 0.3 * squares_P.mean())
    own = own.variant({"grads.precondition": "diagonal", "grads.kind": "sgd"})
    found = method_inputs.rows_of(own, pool, "coverage", 0)
    np.testing.assert_allclose(found[:], unit_length(pool_NP / roots_P), atol=1e-5)
    found = method_inputs.rows_of(own, target.validation, "coverage", 0)
    np.testing.assert_allclose(found[:], unit_length(own_MP / roots_P), atol=1e-5)
