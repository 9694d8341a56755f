"""The scores of a whole run: every stage of every method, target and seed, down to its metrics."""

import json

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.evaluation.harness_tasks import read_metrics
from g2is_jax.pipeline import (
    curve_stage,
    evaluate_stage,
    finetune_stage,
    harness_stage,
    selection_stage,
)
from g2is_jax.pipeline.cases import cases, label
from g2is_jax.pipeline.datasets import Target
from g2is_jax.pipeline.job import Job, open_checked_job
from g2is_jax.runs.manifest import read_manifest
from g2is_jax.selection.methods import METHODS


def run(config: ConfigDict, workdir: epath.Path) -> list[dict]:
    """The scores of each method, target and seed: one object each."""
    job = open_checked_job(config, workdir)
    return score_all(job)


def score_all(job: Job) -> list[dict]:
    """Every stage of every method, target and seed, down to its scores and costs."""
    if job.settings.evaluation.harness.tasks:
        from g2is_jax.evaluation.harness import check_tasks  # late: the harness is an extra

        check_tasks(job.settings.evaluation.harness)
    return [score(job, *case) for case in cases(job, job.settings.selection.methods)]


def score(job: Job, method: str, target: Target, seed: int) -> dict:
    """The metrics of a method, with the rows, supervised tokens and seconds that it took."""
    cost = {"rows": 0, "tokens": 0, "seconds": 0.0}
    name = label(method, target, seed)
    tuned = None
    if METHODS[method].choose is not None:
        chosen = selection_stage.stage(job, method, target, seed)
        folder = finetune_stage.stage(job, chosen, name, seed)
        tuned = curve_stage.adapter_to_evaluate(job, folder, target, name)
        seconds = chosen.seconds + read_manifest(folder)["seconds"]
        cost = {"rows": len(chosen.rows), "tokens": chosen.tokens, "seconds": seconds}
    measured = evaluate_stage.stage(job, tuned, target, name)
    metrics = json.loads((measured / "metrics.json").read_text())
    score = {"method": method, "target": target.name, "seed": seed, "metrics": metrics, **cost}
    score["per_row"] = evaluate_stage.per_row(measured)
    if job.settings.evaluation.harness.tasks:
        folder = harness_stage.stage(job, tuned, name)
        more, falling = read_metrics(json.loads((folder / "results.json").read_text()))
        score |= {"metrics": metrics | more, "less_is_better": falling}
    return score
