"""`selection.targets`: one selection for several targets, joint or merged."""

import json

import numpy as np
import pytest
from etils import epath

from g2is_jax.pipeline import method_inputs, selection_stage, whole_run
from g2is_jax.pipeline.job import open_job
from g2is_jax.pipeline.selection_files import read_why
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.methods import core_of
from tests.support.small import stages
from tests.support.small_job import changed, small_config

METHODS = "random,bm25,less,less_rr,gist,g2is_paper,g2is"
TARGETS = ["sorting_letters", "lookup_arithmetic"]


@pytest.fixture(scope="module")
def config(base):
    return changed(
        small_config(base),
        run__methods=METHODS,
        world__targets=",".join(TARGETS),
        grads__dtype="int8",  # rows that have scales
        selection__budget=0.2,
    )


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory) -> epath.Path:
    """One selection for each target."""
    folder = epath.Path(tmp_path_factory.mktemp("work"))
    selection_stage.run(config, folder)
    return folder


def job_of(config, workdir, **fields):
    return open_job(changed(config, run__replace=True, **fields), workdir, measures=False)


def test_a_joint_selection_is_one_for_all(config, workdir):
    features = [name for name in stages(workdir) if name.startswith("features")]
    job = job_of(config, workdir, selection__targets="joint")
    for method in METHODS.split(","):
        first, second = (selection_stage.stage(job, method, t, 0) for t in job.data.targets)
        assert first == second
        assert len(first.rows) == job.limits.budget
        settings = json.loads((first.folder / "manifest.json").read_text())["settings"]
        assert settings.get("targets") == (None if method == "random" else TARGETS)
    assert [name for name in stages(workdir) if name.startswith("features")] == features


def test_joint_inputs_are_those_of_each_target(config, workdir):
    job = job_of(config, workdir, selection__targets="joint")
    found = method_inputs.gather(job, "g2is", job.data.targets[0], 0)
    each = job_of(config, workdir)
    singles = [method_inputs.gather(each, "g2is", target, 0) for target in each.data.targets]
    rows = [single.validation[:] for single in singles]
    for number, own in enumerate(rows):
        np.testing.assert_array_equal(found.validation[:][found.targets_M == number], own)
    assert found.targets_M.tolist() == [0, 1] * len(rows[0])
    first, second = (found.subtasks_M[found.targets_M == number] for number in (0, 1))
    assert not {*first} & {*second}
    assert method_inputs.in_turn([3, 1, 2]).tolist() == [0, 3, 4, 1, 5, 2]
    knowledge = job.settings.selection.walks["g2is"].knowledge
    cores = [core_of(knowledge, single).core_CP for single in singles]
    np.testing.assert_array_equal(core_of(knowledge, found).core_CP, np.concatenate(cores))


def test_a_merged_selection_names_the_target_of_each_row(config, workdir):
    job = job_of(config, workdir, selection__targets="merged")
    each = job_of(config, workdir)
    own = {t.name: selection_stage.stage(each, "less_rr", t, 0).rows for t in each.data.targets}
    job = job_of(config, workdir, selection__targets="merged")
    chosen = selection_stage.stage(job, "less_rr", job.data.targets[1], 0)
    lines = read_why(chosen.folder)
    assert len(chosen.rows) == len({*chosen.rows}) == job.limits.budget
    assert [line["target"] for line in lines[:2]] == TARGETS
    assert all(line["position"] in own[line["target"]] for line in lines)
    assert {folder.name.partition("-")[0] for folder in chosen.behind} >= {"selection", "features"}


def test_cosines_alone_give_the_same_joint_selection(config, tmp_path):
    chosen = []
    for scores_only in (False, True):
        own = changed(
            config,
            run__methods="less,less_rr",
            selection__targets="joint",
            grads__scores_only=scores_only,
            grads__dtype="float32",
        )
        found = selection_stage.run(own, epath.Path(tmp_path / str(scores_only)))
        chosen.append([one.rows for one in found])
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("how", ["joint", "merged"])
def test_a_run_trains_once_and_measures_each_target(config, workdir, how):
    asked = changed(config, run__methods="g2is", selection__targets=how, run__replace=True)
    before = stages(workdir)
    whole_run.run(asked, workdir)
    new = [name.partition("-")[0] for name in stages(workdir) if name not in before]
    assert new.count("finetune") == 1
    assert new.count("evaluate") == 2
    page = (workdir / "report/report.html").read_text()
    walks = {"joint": " and ".join(TARGETS), "merged": TARGETS[1]}
    assert f"g2is on {walks[how]}, seed 0" in page


def test_what_trains_on_a_target_is_refused(config, tmp_path):
    asked = changed(config, run__methods="loss_drop", selection__targets="joint")
    with pytest.raises(InputError, match=r"selection\.targets = joint: loss_drop .* merged"):
        selection_stage.run(asked, epath.Path(tmp_path))
