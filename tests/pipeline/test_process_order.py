"""Processes come to the same barriers and questions in the same order: else they wait for ever."""

from types import SimpleNamespace

import pytest
from etils import epath

from g2is_jax.pipeline import features_stage, warmup_stage
from g2is_jax.pipeline.job import open_job
from g2is_jax.runs.processes import any_says, is_first, wait_for_all
from g2is_jax.runs.stages import Stage, run_stage, run_stages
from tests.support.small_job import changed
from tests.support.two_processes import QUESTION, meetings

STAGES = {label: Stage("features", {"kind": label}, {}) for label in ("rms", "adam", "sgd")}


def build(folders: dict[str, epath.Path]) -> dict[str, dict]:
    """Meets the other process, unless it works alone."""
    wait_for_all("half")
    any_says(False)
    return {label: {} for label in folders} if is_first() else {}


@pytest.mark.parametrize("shared", [True, False])
def test_stages_of_which_one_is_finished(tmp_path, shared):
    run_stage(tmp_path, *STAGES["adam"], build=lambda folder: {})
    first, other = meetings(lambda: run_stages(tmp_path, STAGES, build, shared))
    assert first == other
    assert first[:4] == [QUESTION] * 4  # asked to stop, and three folders
    assert ("half" in first) == shared
    assert len(first) == 5 + 4 * shared
    assert first[-1].endswith(" finished")


def test_finished_stages_are_asked_for_alone(tmp_path):
    run_stages(tmp_path, STAGES, build)
    first, other = meetings(lambda: run_stages(tmp_path, STAGES, build, shared=True))
    assert first == other == [QUESTION] * 4


MOMENTS = SimpleNamespace(step=1)


@pytest.fixture
def _no_model(monkeypatch):
    """Warm-up and pass leave no files, but meet the other process as the true ones do."""

    def train(job, model, dataset, rows, fit, seed, folder):
        wait_for_all("trained")
        return None, {"devices": 1}

    def one_pass(*_):
        wait_for_all("passed")
        return {"devices": 1}

    monkeypatch.setattr(warmup_stage, "train", train)
    monkeypatch.setattr(warmup_stage, "load_trained", lambda *_: [(None, MOMENTS)])
    monkeypatch.setattr(warmup_stage, "mean_rates", lambda *_: [1.0])
    monkeypatch.setattr(features_stage, "run_pass", one_pass)
    monkeypatch.setattr(features_stage, "write_diagnostics", lambda *_: None)
    monkeypatch.setattr(features_stage, "_momentum", lambda *_: None)


@pytest.mark.usefixtures("_no_model")
def test_passes_of_features(config, tmp_path):
    def work() -> None:
        job = open_job(changed(config, run__methods="less,g2is"), epath.Path(tmp_path))
        for dataset in (job.data.pool, job.data.targets[0].validation):
            features_stage.pass_stages(job, dataset, features_stage.kinds_of(job, dataset)[0], 0)

    first, other = meetings(work)
    assert first == other
    assert first.count("passed") == 2
    assert first.count("trained") == 1
