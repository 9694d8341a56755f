"""Losses before and after alignment with a target: of which adapter, shared by whom, resumed."""

import numpy as np
import pytest
from etils import epath

from g2is_jax.evaluation.evaluate import answer_losses
from g2is_jax.features.store import StoreWriter
from g2is_jax.model.adapters import read_adapter
from g2is_jax.pipeline import losses_stage, method_inputs, selection_stage
from g2is_jax.pipeline.job import Job, open_job
from g2is_jax.runs.manifest import read_manifest
from tests.support.small import stages
from tests.support.small_job import changed


@pytest.fixture(scope="module")
def job(file_config, tmp_path_factory) -> Job:
    """Two targets, two seeds, and no features of any kind."""
    small = {"evaluate__batch_tokens": 128, "grads__chunk_rows": 8}  # several chunks
    config = changed(file_config, run__methods="loss_drop", run__seeds="0,1", **small)
    return open_job(config, epath.Path(tmp_path_factory.mktemp("losses")))


def by_hand(job: Job, adapter, rows) -> np.ndarray:
    return answer_losses(job.model, adapter, job.weights, rows, 256)


def test_rows_are_ranked_by_the_losses_under_the_folders_own_adapter(job):
    pool, target = job.data.pool, job.data.targets[0]
    adapter = read_adapter(losses_stage.aligned(job, target, 0) / "adapter", job.model)
    before_N = by_hand(job, job.model.zero_adapter(), pool.encoded)
    after_N = by_hand(job, adapter, pool.encoded)
    chosen = selection_stage.stage(job, "loss_drop", target, 0)
    drops_N = (before_N - after_N) / before_N
    ranked = sorted(range(len(drops_N)), key=lambda row: -drops_N[row])
    gap = drops_N[ranked[7]] - drops_N[ranked[8]]
    assert gap > 1e-5  # so that rounding decides nothing
    assert set(chosen.rows) == set(ranked[:8])
    before, after = (
        losses_stage.losses(folder)
        for folder in (losses_stage.before(job), losses_stage.after(job, target, 0))
    )
    np.testing.assert_allclose(before, before_N, rtol=1e-5)
    np.testing.assert_allclose(after, after_N, rtol=1e-5)
    assert not np.allclose(before, after, rtol=1e-2)


def test_the_adapter_is_trained_on_all_validation_rows_as_the_warm_up_is(job):
    target = job.data.targets[1]
    folder = losses_stage.aligned(job, target, 1)
    manifest, rows = read_manifest(folder), target.validation.encoded
    assert manifest["counts"]["rows"] == len(rows) == 4
    assert manifest["counts"]["steps"] == job.settings.warmup.fit.epochs
    adapter = read_adapter(folder / "adapter", job.model)
    losses = [by_hand(job, a, rows).mean() for a in (job.model.zero_adapter(), adapter)]
    assert losses[1] < losses[0]


def test_losses_of_the_base_are_shared_and_nothing_is_read_that_is_not_needed(job):
    chosen = selection_stage.run(job.config, job.stages.workdir)
    assert len({one.folder for one in chosen}) == 4
    kinds = [name.partition("-")[0] for name in stages(job.stages.workdir)]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "aligned": 4,
        "losses": 1 + 4,
        "selection": 4,
    }
    for fields in ({"warmup.fraction": 0.9}, {"grads.checkpoints": 2}, {"grads.kind": "adam"}):
        again = job.variant(fields)
        target = job.data.targets[0]
        assert losses_stage.after(again, target, 0) == losses_stage.after(job, target, 0)
    target = job.data.targets[0]
    found = method_inputs.stages(job, "loss_drop", target, 0)
    seconds = sum(
        read_manifest(folder)["seconds"] for folder in (*found.values(), chosen[0].folder)
    )
    assert list(found) == ["before", "aligned", "after"]
    assert chosen[0].seconds == pytest.approx(seconds)


def test_rows_whose_loss_is_not_finite_are_counted_and_never_chosen(job, tmp_path, monkeypatch):
    target = job.data.targets[0]
    first = selection_stage.stage(job, "loss_drop", target, 0).rows[0]
    write = StoreWriter.write

    def with_an_odd_row(self, index, features_BP, *others):
        features_BP[self._chunks[index] == job.data.pool.records.numbers_N[first]] = np.inf
        write(self, index, features_BP, *others)

    monkeypatch.setattr(StoreWriter, "write", with_an_odd_row)
    other = open_job(job.config, epath.Path(tmp_path))
    chosen = selection_stage.stage(other, "loss_drop", target, 0)
    assert first not in chosen.rows
    assert len(chosen.rows) == 8
    assert read_manifest(losses_stage.before(other))["counts"]["not_finite"] == 1


def test_a_killed_pass_goes_on_and_leaves_the_same_bytes(job, tmp_path, monkeypatch):
    whole = losses_stage.before(job)
    write, written = StoreWriter.write, []

    def dying(self, index, *parts):
        if index == 2:
            raise KeyboardInterrupt
        write(self, index, *parts)

    other = open_job(job.config, epath.Path(tmp_path))
    monkeypatch.setattr(StoreWriter, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        losses_stage.before(other)

    def counting(self, index, *parts):
        written.append(index)
        write(self, index, *parts)

    monkeypatch.setattr(StoreWriter, "write", counting)
    again = losses_stage.before(other)
    chunks = len(list(whole.glob("chunk-*.done")))
    assert chunks >= 4
    assert written == list(range(2, chunks))
    assert again.name == whole.name
    files = {file.name: file.read_bytes() for file in whole.glob("[!m]*")}
    assert {file.name: file.read_bytes() for file in again.glob("[!m]*")} == files
    assert len([name for name in files if name.startswith("chunk-")]) == 2 * chunks
