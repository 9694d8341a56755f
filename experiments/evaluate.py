"""Answer loss and exact match of base or adapter on a target's test rows.

Also its scores on the tasks of lm-evaluation-harness that `evaluate.harness_tasks` names.
"""

import dataclasses
import json

from etils import epath
from ml_collections import ConfigDict

from experiments import finetune, select_subset
from experiments.job import Job, Target
from experiments.launch import launch
from g2is_jax.evaluation.evaluate import evaluate
from g2is_jax.evaluation.harness_tasks import check_tasks, read_metrics
from g2is_jax.model.adapters import read_adapter
from g2is_jax.model.lora import Leaves
from g2is_jax.runs.manifest import read_manifest, stage_hash, write_atomic


def run(config: ConfigDict, workdir: epath.Path) -> list[dict]:
    """The scores of each method, target and seed: one object each."""
    job = Job(config, workdir)
    job.check()
    return scores(job)


def scores(job: Job) -> list[dict]:
    """Every stage of every method, target and seed, down to its scores and costs."""
    if job.settings.harness.tasks:
        check_tasks(job.settings.harness)
    return [
        score(job, method, target, seed)
        for seed in job.seeds
        for method in job.methods
        for target in job.targets
    ]


def score(job: Job, method: str, target: Target, seed: int) -> dict:
    """Metrics of one method, with rows, supervised tokens and seconds that it took."""
    cost = {"rows": 0, "tokens": 0, "seconds": 0.0}
    adapter = None
    if method != "none":
        chosen = select_subset.stage(job, method, target, seed)
        adapter = finetune.stage(job, chosen, f"{method} {target.name}", seed)
        seconds = chosen.seconds + read_manifest(adapter)["seconds"]
        cost = {"rows": len(chosen.rows), "tokens": chosen.tokens, "seconds": seconds}
    folder = stage(job, adapter, target, f"{method} {target.name} seed {seed}")
    metrics = json.loads((folder / "metrics.json").read_text())
    score = {"method": method, "target": target.name, "seed": seed, "metrics": metrics, **cost}
    if job.settings.harness.tasks:
        folder = harness_stage(job, adapter, f"{method} {target.name} seed {seed}")
        more, falling = read_metrics(json.loads((folder / "results.json").read_text()))
        score |= {"metrics": metrics | more, "less_is_better": falling}
    return score


def stage(job: Job, adapter: epath.Path | None, target: Target, label: str) -> epath.Path:
    """Measure; `metrics.json` holds the means, `rows.jsonl` what was read in each row."""

    def build(folder: epath.Path) -> dict:
        metrics, rows = evaluate(
            job.model,
            _leaves(job, adapter),
            job.base,
            job.chat,
            target.test_records,
            job.config.model.max_length,
            job.settings.evaluate,
        )
        write_atomic(folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        write_atomic(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        return {"rows": len(rows)}

    identity = {"new_tokens": job.settings.evaluate.new_tokens, **job.model_identity}
    inputs = {"test": target.test_digest, **job.checkpoint_digest, **_hash(adapter)}
    return job.run_stage("evaluate", label, identity, inputs, build)


def harness_stage(job: Job, adapter: epath.Path | None, label: str) -> epath.Path:
    """Run the harness's tasks; `results.json` holds what it tells of them.

    No target is part of it: an adapter that serves several is measured once.
    """
    from g2is_jax.evaluation.harness import VERSION, HarnessModel, measure

    config = job.settings.harness

    def build(folder: epath.Path) -> dict:
        model = HarnessModel(
            job.model,
            _leaves(job, adapter),
            job.base,
            job.chat,
            job.config.model.max_length,
            job.settings.evaluate.batch_tokens,
            config.chat,
        )
        results = measure(model, config)
        write_atomic(folder / "results.json", json.dumps(results, indent=2) + "\n")
        return {"rows": sum(rows["effective"] for rows in results["n-samples"].values())}

    asked = dataclasses.asdict(config) | {"tasks": sorted(config.tasks)}
    identity = {**asked, "include": config.digest(), "lm_eval": VERSION, **job.model_identity}
    inputs = job.checkpoint_digest | _hash(adapter)
    return job.run_stage("harness", label, identity, inputs, build)


def _leaves(job: Job, adapter: epath.Path | None) -> Leaves:
    """Of a fine-tune's adapter; without one the base stays as it is."""
    if adapter is None:
        return job.model.zero_adapter()
    return read_adapter(adapter / "adapter", job.model)


def _hash(adapter: epath.Path | None) -> dict[str, str]:
    return {} if adapter is None else {"adapter": stage_hash(adapter)}


if __name__ == "__main__":
    launch(run)
