"""Sweeps in small: what is made once, what the table says, and what a killed sweep leaves."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from configs import default
from configs.sweeps import SWEEPS
from g2is_jax.features.projection import fold
from g2is_jax.features.store import open_store
from g2is_jax.pipeline import features_stage, scoring, selection_stage, sweeps
from g2is_jax.pipeline.fields import config_fields
from g2is_jax.pipeline.job import open_job
from g2is_jax.pipeline.settings import read_settings
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import read_manifest
from tests.support.small import stages
from tests.support.small_job import changed, small_config

OWN = {
    "grid": {"grads.folds": (0, 1, 2), "walk.pull": (0.0, 1.0)},
    "large": {"selection.unit": ("rows",), "selection.budget": (1.0, 99999.0)},
    "odd": {"grads.folds": (7,)},
    "wild": {"walk.delta": (0.5, 3.0)},
    "slip": {"walk.dleta": (0.5, 0.6)},
    "twice": {"walk.delta": (0.5, 0.5)},
    "text": {"walk.delta": ("half",)},
    "empty": {"walk.delta": ()},
    "warm": {"warmup.epochs": (1,), "grads.checkpoints": (1, 2)},
}


@pytest.fixture(autouse=True)
def _own_sweeps(monkeypatch):
    for name, of in OWN.items():
        monkeypatch.setitem(SWEEPS, name, of)


@pytest.fixture(scope="module")
def ablated(base, files):
    return changed(
        small_config(base),
        data__pool=str(files / "pool.jsonl"),
        data__validation=str(files / "val_plus.jsonl"),
        data__test=str(files / "test_plus.jsonl"),
        run__methods="none,random,less_rr,g2is",
        walk__pull=0.75,
    )


@pytest.fixture(scope="module")
def swept(ablated, tmp_path_factory) -> tuple[Path, dict]:
    """Folder and table of a grid of 3 widths and 2 pulls, in a work folder with selections."""
    workdir = tmp_path_factory.mktemp("ablate") / "work"
    selection_stage.run(changed(ablated, run__methods="random,g2is"), epath.Path(workdir))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SWEEPS, "grid", OWN["grid"])
        return workdir, sweeps.run(ablated, epath.Path(workdir), SWEEPS, "grid")


def test_one_gradient_pass_serves_all_widths(swept):
    workdir, told = swept
    names = [name.partition("-")[0] for name in stages(workdir)]
    # The kinds of less_rr and g2is, and the target's; of each two narrower widths.
    assert (names.count("warmup"), names.count("features"), names.count("folded")) == (1, 3, 6)
    assert names.count("selection") == 2 + 6 + 3  # random and g2is before; pull is not less_rr's
    used = [setting["stages"] for setting in told["settings"]]
    assert [of["run"].get("folded", 0) for of in used] == [0, 0, 3, 0, 3, 0]
    assert [of["run"].get("features", 0) for of in used] == [1, 0, 0, 0, 0, 0]
    assert [of["run"].get("selection", 0) for of in used] == [2, 1, 2, 1, 2, 1]
    assert used[0]["reused"] == {"warmup": 1, "features": 2}
    assert used[3]["reused"] == {"warmup": 1, "features": 3, "folded": 3, "selection": 1}


def test_the_table_is_that_of_the_selections(swept, ablated):
    workdir, told = swept
    folder = workdir / "sweeps" / "grid"
    assert json.loads((folder / "table.json").read_text()) == told
    assert (folder / "plot.png").stat().st_size > 1000
    job = open_job(ablated, epath.Path(workdir))
    for method in ("less_rr", "g2is"):
        [found] = told["methods"][method].values()
        rows = []
        for setting in found["settings"]:
            [name] = setting["folders"]
            lines = (workdir / "stages" / name / "selection.jsonl").read_text().splitlines()
            rows.append([json.loads(line)["position"] for line in lines])
            assert setting["rows"] == len(lines) == 8
            assert setting["tokens"] == job.data.pool.tokens_N[rows[-1]].sum()
            for source, share in setting["shares"].items():
                of_source = [job.data.pool.records[row].source == source for row in rows[-1]]
                assert share == pytest.approx(np.mean(of_source))
        shared = [[len(set(a) & set(b)) / len(set(a) | set(b)) for b in rows] for a in rows]
        np.testing.assert_allclose(found["overlap"], shared)
        assert [s["overlap_with_first"] for s in found["settings"]] == pytest.approx(shared[0])
        assert len({tuple(one) for one in rows}) >= 3
    table = (folder / "table.md").read_text()
    for setting in told["settings"]:
        assert table.count(f"| {setting['setting']} |") == 3  # of each method, and of the stages
    assert set(told["methods"]) == {"less_rr", "g2is"}  # random reads no field of the sweep


def test_each_setting_is_a_selection_of_its_own_config(swept, ablated, tmp_path):
    """The same rows as a run with the setting written into the config; its seconds count the pass
    that the folded features come from."""
    workdir, told = swept
    shutil.copytree(workdir / "stages", tmp_path / "stages")
    for name in ("folded", "selection"):
        for folder in tmp_path.glob(f"stages/{name}-*"):
            shutil.rmtree(folder)
    [found] = told["methods"]["g2is"].values()
    assert found["settings"][5]["setting"] == "grads.folds=2, walk.pull=1.0"
    config = changed(ablated, run__methods="g2is", grads__folds=2, walk__pull=1.0)
    config.run.replace = True
    [chosen] = selection_stage.run(config, epath.Path(tmp_path))
    assert [chosen.folder.name] == found["settings"][5]["folders"]
    picks = (chosen.folder / "selection.jsonl").read_bytes()
    assert (workdir / "stages" / chosen.folder.name / "selection.jsonl").read_bytes() == picks
    behind = [folder for folder in tmp_path.glob("stages/*") if kind_of(folder) != "adam"]
    seconds = [read_manifest(folder)["seconds"] for folder in behind]
    assert len(behind) == 1 + 2 + 2 + 1
    assert chosen.seconds == pytest.approx(sum(seconds))


def kind_of(folder: Path) -> str | None:
    """Of the features of a pass."""
    return read_manifest(folder)["settings"].get("direction", {}).get("kind")


def test_a_fold_is_that_of_the_pass(swept, ablated):
    workdir, _ = swept
    narrow = open_job(ablated, epath.Path(workdir)).variant({"grads.folds": 2})
    [source] = features_stage.pass_stages(narrow, narrow.data.pool, "rms", 0)
    [folder] = features_stage.stages(narrow, narrow.data.pool, "rms", 0)
    assert folder.name.startswith("folded-")
    wide, found = open_store(source), open_store(folder)
    expected = fold(fold(wide.read()[:] * wide.norms_N[:, None], 0), 0)
    norms = np.linalg.norm(expected, axis=1)
    np.testing.assert_allclose(found.norms_N, norms, rtol=1e-5)
    np.testing.assert_allclose(found.read()[:], expected / norms[:, None], atol=2e-3)
    for name in ("rows_N", "tokens_N", "gradient_norms_N", "finite_N"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wide, name))


def test_the_config_and_shown_selections_are_left_alone(swept, ablated):
    workdir, _ = swept
    assert json.loads((workdir / "config.json").read_text())["grads"]["folds"] == 0
    shown = sorted(place.name for place in (workdir / "selections").iterdir())
    assert shown == ["g2is-0", "random-0"]
    again = selection_stage.run(changed(ablated, run__methods="g2is"), epath.Path(workdir))
    bytes_shown = (workdir / "selections" / "g2is-0" / "selection.jsonl").read_bytes()
    assert (again[0].folder / "selection.jsonl").read_bytes() == bytes_shown


def test_a_killed_sweep_goes_on(swept, ablated, monkeypatch):
    """Killed at the fourth selection of a work folder that has the features only."""
    workdir, told = swept
    finer = {"walk.pull": (0.1, 0.2, 0.3, 0.4, 0.5)}
    monkeypatch.setitem(SWEEPS, "finer", finer)
    stage, seen = selection_stage.stage, []

    def killed(*which):
        seen.append(which)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return stage(*which)

    monkeypatch.setattr(selection_stage, "stage", killed)
    with pytest.raises(KeyboardInterrupt):
        sweeps.run(ablated, epath.Path(workdir), SWEEPS, "finer")
    assert not (workdir / "sweeps" / "finer").exists()
    monkeypatch.setattr(selection_stage, "stage", stage)
    resumed = sweeps.run(ablated, epath.Path(workdir), SWEEPS, "finer")
    runs = [of["stages"]["run"] for of in resumed["settings"]]
    assert runs == [{}, {}, {}, {"selection": 1}, {"selection": 1}]
    again = sweeps.run(ablated, epath.Path(workdir), SWEEPS, "finer")
    assert [of["stages"]["run"] for of in again["settings"]] == [{}] * 5
    assert again["methods"] == resumed["methods"]
    assert set(told) == set(again)


def test_selections_are_scored_on_request(swept, ablated, monkeypatch):
    workdir, _ = swept

    def score(job, method, target, seed):
        loss = 3.0 if method == "random" else job.config.walk.pull + seed
        case = {"method": method, "target": target.name, "seed": seed}
        return case | {"metrics": {"answer_loss": loss}}

    monkeypatch.setattr(scoring, "score", score)
    monkeypatch.setitem(SWEEPS, "scored", {"walk.pull": (0.0, 1.0)})
    told = sweeps.run(ablated, epath.Path(workdir), SWEEPS, "scored", finetune=True)
    [found] = told["methods"]["g2is"].values()
    assert [of["metrics"] for of in found["settings"]] == [{"answer_loss": 0}, {"answer_loss": 1}]
    assert "| answer_loss |" in (workdir / "sweeps" / "scored" / "table.md").read_text()
    against = {(d["subject"], d["rival"]): d["mean"] for d in told["against"]}
    assert against["g2is, walk.pull=1.0", "random"] == 2  # random reads no field of the sweep
    assert against["g2is, walk.pull=0.0", "less_rr"] == 0.75
    assert told["ways"]["g2is, walk.pull=1.0"] == pytest.approx((2 / 3, 2 / 3))


def test_a_variant_reads_again_what_it_changes_and_no_more(ablated, tmp_path):
    job = open_job(ablated, epath.Path(tmp_path))
    job.check()
    walk, rank, length, remat, dtype = (
        job.variant({field: value})
        for field, value in (
            *(("walk.delta", 0.45), ("lora.rank", 2)),
            *(("model.max_length", 60), ("model.remat", True), ("model.dtype", "bfloat16")),
        )
    )
    for variant in (walk, rank, length, remat, dtype):
        variant.check_inputs()
    assert walk.config.walk.delta == 0.45 != job.config.walk.delta
    assert walk.data is rank.data is dtype.data is job.data is not length.data
    assert walk.weights is rank.weights is length.weights is job.weights is remat.weights
    assert dtype.weights is not job.weights
    assert walk.model is job.model is not rank.model
    assert rank.model.adapter_shapes != job.model.adapter_shapes
    assert json.loads((tmp_path / "config.json").read_text())["walk"]["delta"] != 0.45
    fewer = job.variant({"selection.budget": 0.1})
    assert (job.limits.budget, fewer.limits.budget) == (8, 4)


def test_what_changes_the_pool_or_only_the_tuning(ablated, tmp_path, monkeypatch):
    """Rows of another pool have other numbers; no selection depends on how it is trained on."""
    run = functools.partial(sweeps.run, ablated, epath.Path(tmp_path), SWEEPS)
    pools = ablated.data.pool, str(tmp_path / "fewer.jsonl")
    lines = Path(pools[0]).read_text().splitlines(keepends=True)
    Path(pools[1]).write_text("".join(lines[1:]))
    monkeypatch.setitem(SWEEPS, "fewer", {"data.pool": pools})
    with pytest.raises(InputError, match=r"fewer\.jsonl: its pool has other usable rows"):
        run("fewer")
    monkeypatch.setitem(SWEEPS, "longer", {"model.max_length": (64, 10**6)})
    with pytest.raises(InputError, match=r"model\.max_length=1000000: its pool has other"):
        run("longer")
    monkeypatch.setitem(SWEEPS, "epochs", {"finetune.epochs": (1, 2)})
    with pytest.raises(InputError, match=r"finetune\.epochs changes no selection; .*--finetune"):
        run("epochs")
    settings = sweeps.expand(SWEEPS, "epochs")
    assert sweeps._methods(["none", "random", "g2is"], settings, True) == ["random", "g2is"]
    ranks = sweeps.expand(SWEEPS, "rank")
    assert sweeps._methods(["random", "g2is"], ranks, True) == ["random", "g2is"]
    assert sweeps._methods(["random", "g2is"], ranks, False) == ["g2is"]


@pytest.mark.parametrize(
    ("sweep", "fields", "told"),
    [
        ("gone", {}, r"--sweep=gone: there is no such sweep; choose one of width, rows, delta"),
        ("slip", {}, r"sweep slip .*no config field walk\.dleta; did you mean walk\.delta\?"),
        ("twice", {}, "sweep twice .*has a setting twice"),
        ("empty", {}, "sweep empty .*has no setting"),
        ("wild", {}, r"sweep wild, walk\.delta=3\.0: walk\.delta: 3\.0 must be from 0 to 1"),
        ("text", {}, r"sweep text, walk\.delta=half: "),
        ("large", {}, r"selection\.budget=99999\.0: selection\.budget: 99999 rows asked"),
        ("odd", {}, r"sweep odd, grads\.folds=7: grads\.folds = 7: rows of 64 values cannot"),
        ("warm", {}, r"grads\.checkpoints=2: grads\.checkpoints = 2, but the warm-up writes"),
        ("delta", {"run__methods": "random,less"}, r"none of random, less reads walk\.delta; "),
        ("delta", {"run__methods": "oracle"}, r"run\.methods: 'oracle' is unknown"),
    ],
)
def test_sweeps_that_cannot_be_run(ablated, tmp_path, sweep, fields, told):
    with pytest.raises(InputError, match=told) as caught:
        sweeps.run(changed(ablated, **fields), epath.Path(tmp_path), SWEEPS, sweep)
    assert "\n" not in str(caught.value)
    assert not [name for name in stages(tmp_path) if not name.startswith("world-")]


@pytest.mark.parametrize("name", sorted(SWEEPS))
def test_every_sweep_of_the_configs_is_valid(name, ablated):
    settings = sweeps.expand(SWEEPS, name)
    assert len(settings) > 1
    fields = config_fields(default.get_config())
    for overrides in settings:
        config = default.get_config()
        config.model.checkpoint = config.data.pool = "skills"
        config.update_from_flattened_dict(overrides)
        read_settings(config, "cpu")
        assert overrides.keys() <= fields.keys()
    labels = {sweeps.setting_label(overrides, settings) for overrides in settings}
    assert len(labels) == len(settings)


def test_the_grid_of_the_paper():
    assert len(sweeps.expand(SWEEPS, "paper_grid")) == 48


def test_the_first_process_alone_writes_the_table(swept, ablated, monkeypatch):
    workdir, table = swept
    file = workdir / "sweeps" / "grid" / "table.json"
    before = file.stat().st_mtime_ns
    monkeypatch.setattr(sweeps, "is_first", lambda: False)
    found = sweeps.run(ablated, epath.Path(workdir), SWEEPS, "grid")
    assert [of["setting"] for of in found["settings"]] == [
        of["setting"] for of in table["settings"]
    ]
    assert file.stat().st_mtime_ns == before
