"""The five functions of the library: the page that shows them, and what they refuse."""

import re

import numpy as np
import pytest

from g2is_jax import api
from g2is_jax.features.store import open_store
from g2is_jax.pipeline import features_stage, selection_stage
from g2is_jax.pipeline.job import open_job
from g2is_jax.runs.errors import InputError
from g2is_jax.skills.world import WorldConfig, write_world
from tests.support.small import ROOT
from tests.support.small_job import changed, small_config

SMALL = {"model.max_length": 64, "evaluate.new_tokens": 0}
ROWS = [{"prompt": "Sort the letters: b a", "reply": "a b"}] * 2


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Files of the built-in world, by the names of the page."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, WorldConfig(0, ("sorting_letters",), 0.05, 0.08, 0.08, 8, 20))
    for name, own in (("val_sorting_letters", "examples"), ("test_sorting_letters", "test")):
        (folder / f"{name}.jsonl").rename(folder / f"{own}.jsonl")
    return folder


def test_the_page_runs(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    page = (ROOT / "docs/api.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 6
    before, after = map(float, re.findall(r"(\S+) -> (\S+)", capsys.readouterr().out)[0])
    assert after != before
    picks = names["picks"]
    assert len({pick.row for pick in picks}) == len(picks) == len(names["pool"]) // 20
    assert len(names["others"]) == 20
    assert (world / "tuned/adapter/adapter_model.safetensors").exists()


@pytest.fixture(scope="module")
def model(base):
    return api.load(str(base), SMALL | {"grads.layer_width": 4})


def test_features_are_those_of_a_run(base, tmp_path):
    """Of layers, and the selection by them."""
    config = changed(
        small_config(base), run__methods="g2is", grads__of="layers", grads__dtype="float32"
    )
    job = open_job(config, tmp_path, measures=False)
    fields = {
        "model.dtype": "float32",
        "projection.width": 64,
        "projection.kind": config.projection.kind,
    }
    loaded = api.load(str(base), SMALL | fields)
    target = job.data.targets[0]
    rows = [job.data.pool.path, target.validation.path]
    found = [api.features(loaded, path) for path in rows]
    for own, dataset in zip(found, (job.data.pool, target.validation), strict=True):
        [folder] = features_stage.stages(job, dataset, "sgd", 0)
        np.testing.assert_allclose(own[:], open_store(folder).read()[:], atol=2e-6)
    chosen = selection_stage.stage(job, "g2is", target, 0)
    picks = api.select(*found, budget=config.selection.budget)
    assert [pick.row for pick in picks] == chosen.rows


def test_every_method_by_features_takes_arrays():
    rng = np.random.default_rng(0)
    pool, target = rng.normal(size=(60, 12)), rng.normal(size=(5, 12))
    for method in ("less", "gist", "tsds_kde", "pursuit", "gip", "g2is_paper", "g2is"):
        picks = api.select(pool, target, method, budget=6, unit="rows", subtasks="aabbb")
        assert len({pick.row for pick in picks}) <= 6, method
        assert picks[0].reason


def test_settings_have_the_names_of_the_config(model):
    pool, target = np.eye(6), np.eye(6)[:2]
    with pytest.raises(InputError, match=r"walk\.fairnes = 1: .*see configs/default\.py"):
        api.select(pool, target, fields={"walk.fairnes": 1})
    with pytest.raises(InputError, match=r"method = 'bm25' does not choose by features"):
        api.select(pool, target, "bm25")
    with pytest.raises(InputError, match=r"kind = 'adam': of layers it is sgd; give an adapter"):
        api.features(model, ROWS, kind="adam")
    with pytest.raises(InputError, match="no_such_folder"):
        api.load("no_such_folder/here")


def test_a_bad_row_is_named(model):
    with pytest.raises(InputError, match=r"rows\.jsonl"):
        api.features(model, [*ROWS, {"foo": 1}])
    long = {"prompt": "a " * 200, "reply": "b"}
    with pytest.raises(InputError, match=r"row 2 .* has no supervised token within 64 tokens"):
        api.features(model, [*ROWS, long])


def test_rows_may_be_written_in_any_shape(model):
    turns = [
        {"role": "user", "content": "Sort the letters: b a"},
        {"role": "assistant", "content": "a b"},
    ]
    one, other = (api.features(model, [row]) for row in (ROWS[0], {"messages": turns}))
    np.testing.assert_array_equal(one[:], other[:])
