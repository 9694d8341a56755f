"""Which score of a pool row foretells training: linear datamodelling scores of features and rivals.

An adapter is trained on each of many random subsets of the pool, and the losses on the targets'
validation rows are measured under it; all that is compared shares these stages.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.records import prompt
from g2is_jax.evaluation.datamodels import datamodelling_scores
from g2is_jax.pipeline import (
    features_stage,
    finetune_stage,
    losses_stage,
    method_inputs,
    selection_stage,
)
from g2is_jax.pipeline.datasets import Dataset, Target
from g2is_jax.pipeline.job import Job, open_checked_job
from g2is_jax.pipeline.sweeps import Sweeps, check_fields, expand, setting_label, variant_of
from g2is_jax.report.lds_table import write_lds
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.processes import is_first, wait_for_all
from g2is_jax.selection.rivals.lexical import bm25_scores
from g2is_jax.selection.rivals.similarity import similarities, unit_validation

FEWEST_SUBSETS = 3  # a rank correlation of two is 1 or -1
BY_FEATURES = "coverage"  # a method that takes features of `grads.kind`
BY_COSINES = ("rds_plus", "embed")  # methods that take cosines of other rows
TOKENS = "supervised tokens"  # of a pool row, whatever the target


def run(
    config: ConfigDict,
    workdir: epath.Path,
    sweeps: Sweeps,
    sweep: str,
    subsets: int,
    share: float,
) -> dict:
    """Measure what predicts the losses, write `lds/` and print its table.

    sweep: the settings of the features to compare, the first of which the others' leads are over.
    subsets: how many, each of this share of the pool. Returns target -> what predicts -> score;
    nothing in a process that is not the first.
    """
    started = time.monotonic()
    if subsets < FEWEST_SUBSETS:
        raise InputError(f"--subsets={subsets}: it must be at least {FEWEST_SUBSETS}")
    settings = expand(sweeps, sweep)
    check_fields(sweep, settings, config)
    job = open_checked_job(config, workdir, measures=False)
    variants = {
        label: variant_of(job, overrides | {"run.methods": BY_FEATURES}, f"sweep {sweep}, {label}")
        for overrides in settings
        for label in (setting_label(overrides, settings),)
    }
    reference = next(iter(variants))
    drawn = {"selection.unit": "fraction", "selection.budget": share, "selection.source_cap": 1.0}
    _make_passes(job, list(variants.values()))
    members_SN, losses = _train_on_subsets(job.variant(drawn), subsets)
    scores = {}
    for target in job.data.targets:
        losses_SM = losses[target.name]
        finite_M = np.isfinite(losses_SM).all(axis=0)
        if not finite_M.any():
            raise InputError(f"{target.name}: no row has a finite loss after every training")
        predictions = {
            name: members_SN @ score_MN[finite_M].T.astype(np.float64)
            for name, score_MN in _predictors(job, variants, target)
        }
        found = datamodelling_scores(losses_SM[:, finite_M], predictions, reference)
        scores[target.name] = found
    if is_first():
        summary = {
            "subsets": subsets,
            "rows": int(members_SN[0].sum()),
            "seconds": round(time.monotonic() - started, 3),
        }
        print("\n" + write_lds(summary, scores, reference, workdir / "lds"))
    wait_for_all("datamodelling scores written")
    return scores


def _make_passes(job: Job, variants: Sequence[Job]) -> None:
    """Make the features of all kinds in one pass over a file's rows."""
    kinds = {variant.settings.selection.kinds.own for variant in variants}
    features_stage.make_together(job, job.data.pool, sorted(kinds), job.settings.seeds[0])


def _train_on_subsets(job: Job, subsets: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Train on random subsets; returns which rows each holds [S, N], and target -> losses [S, M].

    A subset's number is the seed of its draw, of its adapter and of the order of its rows.
    """
    members_SN = np.zeros((subsets, len(job.data.pool.encoded)))
    losses: dict[str, list[np.ndarray]] = {target.name: [] for target in job.data.targets}
    for number in range(subsets):
        name = f"subset {number + 1} of {subsets}"
        chosen = selection_stage.stage(job, "random", job.data.targets[0], number)
        members_SN[number, chosen.rows] = 1
        tuned = finetune_stage.stage(job, chosen, name, number)
        for target in job.data.targets:
            measured = losses_stage.under_adapter(
                job, target.validation, tuned, f"of {target.name}, {name}"
            )
            losses[target.name].append(losses_stage.losses(measured))
    return members_SN, {name: np.stack(found) for name, found in losses.items()}


def _predictors(
    job: Job, variants: dict[str, Job], target: Target
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields all that is compared, and its scores of pool rows for each validation row, [M, N]."""
    for label, variant in variants.items():
        yield label, _cosines(variant, BY_FEATURES, target)
    for method in BY_COSINES:
        yield method, _cosines(job, method, target)
    pool, own = (_prompts(dataset) for dataset in (job.data.pool, target.validation))
    yield "bm25", np.stack(list(bm25_scores(pool, own)))
    tokens_N = job.data.pool.tokens_N
    yield TOKENS, np.tile(tokens_N, (len(target.validation.encoded), 1))


def _cosines(job: Job, method: str, target: Target) -> np.ndarray:
    seed = job.settings.seeds[0]
    pool = method_inputs.rows_of(job, job.data.pool, method, seed)
    own = method_inputs.rows_of(job, target.validation, method, seed)
    return similarities(pool, unit_validation(pool, own, job.limits))


def _prompts(dataset: Dataset) -> list[str]:
    return [prompt(record) for record in dataset.records]
