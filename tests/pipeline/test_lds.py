"""Linear datamodelling scores of a small job, against the same by hand from its stages."""

import json

import numpy as np
import pytest
from etils import epath

from g2is_jax.evaluation.datamodels import spearman
from g2is_jax.pipeline import finetune_stage, lds, losses_stage, method_inputs, selection_stage
from g2is_jax.pipeline.job import open_job
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import read_manifest
from tests.support.small_job import changed, small_config

SUBSETS = 4
SWEEPS = {
    "kinds": [
        {"grads.kind": "sgd", "grads.precondition": "none"},
        {"grads.kind": "sign", "grads.precondition": "pool"},
    ]
}
LABELS = [
    "grads.kind=sgd, grads.precondition=none",
    "grads.kind=sign, grads.precondition=pool",
]


@pytest.fixture(scope="module")
def asked(base):
    fields = {"run__methods": "g2is", "run__seeds": "3", "grads__dtype": "float32"}
    return changed(small_config(base), **fields)


@pytest.fixture(scope="module")
def measured(asked, tmp_path_factory) -> tuple[epath.Path, dict]:
    workdir = epath.Path(tmp_path_factory.mktemp("lds") / "work")
    return workdir, lds.run(asked, workdir, SWEEPS, "kinds", SUBSETS, 0.5)


def test_scores_are_rank_correlations_of_losses_and_sums(measured, asked):
    workdir, scores = measured
    job = open_job(asked, workdir)
    [target] = job.data.targets
    half = job.variant({"selection.unit": "fraction", "selection.budget": 0.5})
    chosen = [selection_stage.stage(half, "random", target, number) for number in range(SUBSETS)]
    losses_SM = np.stack(
        [
            losses_stage.losses(
                losses_stage.under_adapter(
                    half, target.validation, finetune_stage.stage(half, one, "", number), ""
                )
            )
            for number, one in enumerate(chosen)
        ]
    )
    assert len({tuple(one.rows) for one in chosen}) == SUBSETS
    assert losses_SM.std(axis=0).min() > 0
    for label, overrides in zip(LABELS, SWEEPS["kinds"], strict=True):
        variant = job.variant(overrides)
        pool, own = (
            method_inputs.rows_of(variant, dataset, "coverage", 3)[:].astype(np.float64)
            for dataset in (job.data.pool, target.validation)
        )
        cosines_NM = (pool @ own.T) / np.outer(*(np.linalg.norm(x, axis=1) for x in (pool, own)))
        sums_SM = np.stack([cosines_NM[one.rows].sum(axis=0) for one in chosen])
        found = scores[target.name][label]
        assert found.mean == pytest.approx(float(spearman(-losses_SM, sums_SM).mean()), abs=1e-6)


def test_all_that_predicts_is_in_the_table(measured):
    workdir, scores = measured
    names = [*LABELS, "rds_plus", "embed", "bm25", lds.TOKENS]
    [(target, of)] = scores.items()
    assert list(of) == names
    written = json.loads((workdir / "lds" / "lds.json").read_text())
    assert written["subsets"] == SUBSETS
    assert list(written["targets"][target]) == names
    lines = (workdir / "lds" / "lds.md").read_text().splitlines()
    assert {line.split(" | ")[0].removeprefix("| ") for line in lines[4:]} == set(names)
    assert lines[0] == f"Leads are over {LABELS[0]}."


def test_kinds_share_a_pass_and_a_second_run_trains_nothing(measured, asked):
    workdir, scores = measured
    folders = {folder: folder.stat().mtime for folder in (workdir / "stages").iterdir()}
    passes = [
        read_manifest(folder)["counts"]
        for folder in folders
        if folder.name.startswith("features-") and "sign" in str(read_manifest(folder)["settings"])
    ]
    assert len(passes) == 1
    again = lds.run(asked, workdir, SWEEPS, "kinds", SUBSETS, 0.5)
    assert again == scores
    assert {folder: folder.stat().mtime for folder in (workdir / "stages").iterdir()} == folders


def test_too_few_subsets(asked, tmp_path):
    with pytest.raises(InputError, match="--subsets=2: it must be at least 3"):
        lds.run(asked, epath.Path(tmp_path), SWEEPS, "kinds", 2, 0.5)
