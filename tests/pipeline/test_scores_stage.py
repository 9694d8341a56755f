"""Cosines alone: the selections of stored features, from a pass that keeps N x M numbers."""

import numpy as np
import pytest
from etils import epath

from g2is_jax.features.rows import unit_length
from g2is_jax.features.store import open_store
from g2is_jax.pipeline import added_target, extraction, features_stage, selection_stage
from g2is_jax.pipeline.job import open_job
from g2is_jax.runs.errors import InputError
from tests.support.small import stages
from tests.support.small_job import changed, job_of_files

METHODS = "less,less_rr,bids,knn_even,tsds_knn,uot,coverage"


@pytest.fixture(scope="module")
def config(base, files):
    return job_of_files(
        base,
        files,
        run__methods=METHODS,
        grads__dtype="float32",
        warmup__keep_checkpoints=2,
    )


@pytest.mark.parametrize("checkpoints", [1, 2])
def test_the_selections_of_stored_features(config, checkpoints, tmp_path):
    chosen = {}
    for name, scores_only in (("stored", False), ("scored", True)):
        own = changed(config, grads__checkpoints=checkpoints, grads__scores_only=scores_only)
        found = selection_stage.run(own, epath.Path(tmp_path / name))
        chosen[name] = [one.rows for one in found]
    assert chosen["scored"] == chosen["stored"]
    kinds = [name.partition("-")[0] for name in stages(tmp_path / "scored")]
    assert kinds.count("scores") == 2 * checkpoints  # of two kinds of features
    assert kinds.count("features") == checkpoints  # of the validation rows


def test_what_is_kept_are_the_cosines(config, tmp_path):
    """Against features of the same pass; a row a validation row, whatever the width."""
    workdir = epath.Path(tmp_path)
    scored = changed(config, grads__scores_only=True, run__methods="less_rr")
    [folder] = extraction.run(scored, workdir)
    assert folder.name.startswith("scores-")
    job = open_job(
        changed(config, run__methods="less_rr", run__replace=True), workdir, measures=False
    )
    pool, [target] = job.data.pool, job.data.targets
    [of_pool], [of_target] = (
        features_stage.stages(job, dataset, kind, 0)
        for dataset, kind in ((pool, "adam"), (target.validation, "sgd"))
    )
    units_NP, units_MP = (unit_length(open_store(f).read()[:]) for f in (of_pool, of_target))
    store = open_store(folder)
    assert store.width == len(target.validation.records) < open_store(of_pool).width
    found = store.read().at_former_length()
    np.testing.assert_allclose(found, units_NP @ units_MP.T, atol=1e-5)


def test_another_target_is_another_pass_for_it_alone(config, files, tmp_path):
    workdir = epath.Path(tmp_path / "work")
    other = tmp_path / "val_other.jsonl"
    other.write_text("".join((files / "val_plus.jsonl").read_text().splitlines(True)[:2]))
    scored = changed(config, grads__scores_only=True, run__methods="less_rr")
    selection_stage.run(scored, workdir)
    before = set(stages(workdir))
    added_target.run(scored, workdir, str(other), "", "")
    new = sorted(name.partition("-")[0] for name in set(stages(workdir)) - before)
    assert new == ["features", "scores", "selection"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"run__methods": "less,g2is,gist"}, r"scores_only: g2is, gist of run\.methods cannot"),
        ({"grads__folds": 1}, "leaves no features to fold or to whiten"),
        ({"grads__precondition": "pool"}, "leaves no features to fold or to whiten"),
    ],
)
def test_what_cosines_are_not_enough_for(config, fields, told, tmp_path):
    asked = changed(config, grads__scores_only=True, **fields)
    with pytest.raises(InputError, match=told):
        selection_stage.run(asked, epath.Path(tmp_path))
