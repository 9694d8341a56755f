"""Features without a warm-up: at an adapter of one's own, and of the base's own layers."""

import shutil

import numpy as np
import pytest
from etils import epath

from g2is_jax.features.rows import unit_length
from g2is_jax.features.store import open_store
from g2is_jax.pipeline import features_stage, selection_stage, taken_at, warmup_stage, whole_run
from g2is_jax.pipeline.job import open_job
from g2is_jax.runs.errors import InputError
from tests.support.small import stages
from tests.support.small_job import changed, small_config

METHODS = "less,g2is"


@pytest.fixture(scope="module")
def config(base):
    return changed(small_config(base), run__methods=METHODS, grads__dtype="float32")


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory) -> epath.Path:
    """A run with a warm-up."""
    folder = epath.Path(tmp_path_factory.mktemp("work"))
    selection_stage.run(config, folder)
    return folder


def rows(job, kind: str) -> np.ndarray:
    [folder] = features_stage.stages(job, job.data.pool, kind, 0)
    return open_store(folder).read().at_former_length()


def kinds(folder) -> set[str]:
    return {name.partition("-")[0] for name in stages(folder)}


def test_the_stage_of_a_warm_up_is_the_warm_up(config, workdir, tmp_path):
    """Of another work folder: its features, its selections, and no training."""
    job = open_job(config, workdir, measures=False)
    own = changed(config, warmup__adapter=str(warmup_stage.stage(job, 0)))
    found = selection_stage.run(own, epath.Path(tmp_path))
    assert "warmup" not in kinds(tmp_path)
    expected = [selection_stage.stage(job, m, job.data.targets[0], 0) for m in METHODS.split(",")]
    assert [chosen.rows for chosen in found] == [chosen.rows for chosen in expected]
    other = open_job(own, epath.Path(tmp_path), measures=False)
    for kind in ("adam", "rms"):
        np.testing.assert_array_equal(rows(other, kind), rows(job, kind))


def test_an_adapter_without_moments_has_features_that_need_none(config, workdir, tmp_path):
    job = open_job(config, workdir, measures=False)
    folder = tmp_path / "adapter"
    shutil.copytree(warmup_stage.stage(job, 0) / "adapter", folder)
    own = changed(config, warmup__adapter=str(folder), grads__kind="sgd", run__methods="g2is")
    other = open_job(own, epath.Path(tmp_path / "work"), measures=False)
    found, expected = unit_length(rows(other, "sgd")), unit_length(rows(job, "sgd"))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(InputError, match=r"has no optimizer\.pt, whose moments features of adam "):
        selection_stage.run(changed(own, run__methods="less"), epath.Path(tmp_path / "less"))


def test_another_adapter_is_another_stage(config, workdir, tmp_path):
    job = open_job(config, workdir, measures=False)
    first = taken_at.inputs(
        open_job(
            changed(config, warmup__adapter=str(warmup_stage.stage(job, 0)), warmup__seed=1),
            epath.Path(tmp_path),
            measures=False,
        ),
        0,
    )
    adapter = tmp_path / "adapter"
    shutil.copytree(warmup_stage.stage(job, 0) / "adapter", adapter)
    own = open_job(
        changed(config, warmup__adapter=str(adapter)), epath.Path(tmp_path / "b"), measures=False
    )
    second = taken_at.inputs(own, 0)
    config_file = adapter / "adapter_config.json"
    config_file.write_text(config_file.read_text() + "\n")
    assert len({str(first), str(second), str(taken_at.inputs(own, 0))}) == 3


def test_a_whole_run_by_the_gradients_of_layers(config, tmp_path):
    """No warm-up, one kind, K x K values a layer, once for both seeds; then a fine-tune as ever."""
    own = changed(
        config, grads__of="layers", grads__layers="v_proj,layers.*.mlp.*", grads__layer_width=3
    )
    own.projection.kind = "none"
    own.run.seeds = "0,1"
    whole_run.run(own, epath.Path(tmp_path))
    assert "warmup" not in kinds(tmp_path)
    assert kinds(tmp_path) >= {"features", "selection", "finetune", "evaluate"}
    features = [name for name in stages(tmp_path) if name.startswith("features-")]
    assert len(features) == 2  # pool and validation rows
    assert {open_store(epath.Path(tmp_path / "stages" / name)).width for name in features} == {
        2 * 4 * 3 * 3
    }


def test_what_a_run_without_a_warm_up_cannot_have(config, tmp_path):
    for fields in ({"grads__of": "layers"}, {"warmup__adapter": str(tmp_path)}):
        with pytest.raises(InputError, match=r"grads\.checkpoints = 2: there is no warm-up"):
            open_job(changed(config, **fields, grads__checkpoints=2), epath.Path(tmp_path))
    with pytest.raises(InputError, match=r"grads\.of = 'heads' is unknown"):
        open_job(changed(config, grads__of="heads"), epath.Path(tmp_path))
    with pytest.raises(InputError, match=r"grads\.layers: 'q' matches no linear layer"):
        selection_stage.run(
            changed(config, grads__of="layers", grads__layers="q"), epath.Path(tmp_path)
        )
    with pytest.raises(InputError, match=r"adapter_config\.json: no such adapter"):
        selection_stage.run(
            changed(config, warmup__adapter=str(tmp_path / "none")), epath.Path(tmp_path / "w")
        )
