"""Answer loss and the task's metrics of base or adapter on a target's test rows.

Also its scores on the tasks of lm-evaluation-harness that `evaluate.harness_tasks` names.
"""

import dataclasses
import json
from dataclasses import dataclass

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.evaluation.evaluate import evaluate
from g2is_jax.evaluation.harness_tasks import read_metrics
from g2is_jax.evaluation.tasks.reply_metrics import LOSS, SHOTS_DROPPED
from g2is_jax.model.adapters import read_adapter
from g2is_jax.model.lora import Leaves
from g2is_jax.pipeline import curve_stage, finetune_stage, selection_stage
from g2is_jax.pipeline.adapter_training import ADAPTER
from g2is_jax.pipeline.datasets import Target
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.manifest import file_hash, read_manifest, stage_hash
from g2is_jax.runs.processes import is_first
from g2is_jax.runs.storage import write_atomic
from g2is_jax.selection.methods import METHODS


def run(config: ConfigDict, workdir: epath.Path) -> list[dict]:
    """The scores of each method, target and seed: one object each."""
    job = Job(config, workdir)
    job.check()
    return scores(job)


def scores(job: Job) -> list[dict]:
    """Every stage of every method, target and seed, down to its scores and costs."""
    if job.settings.harness.tasks:
        from g2is_jax.evaluation.harness import check_tasks

        check_tasks(job.settings.harness)
    return [
        score(job, method, target, seed)
        for seed in job.seeds
        for method in job.methods
        for target in job.targets
    ]


@dataclass(frozen=True)
class Tuned:
    """A fine-tune's stage, and the folder of one of its adapters there."""

    stage: epath.Path
    adapter: str = ADAPTER


def score(job: Job, method: str, target: Target, seed: int) -> dict:
    """Metrics of one method, with rows, supervised tokens and seconds that it took."""
    cost = {"rows": 0, "tokens": 0, "seconds": 0.0}
    label = f"{method} {target.name} seed {seed}"
    tuned = None
    if METHODS[method].choose is not None:
        chosen = selection_stage.stage(job, method, target, seed)
        folder = finetune_stage.stage(job, chosen, f"{method} {target.name}", seed)
        tuned = Tuned(folder, curve_stage.adapter_to_evaluate(job, folder, target, label))
        seconds = chosen.seconds + read_manifest(folder)["seconds"]
        cost = {"rows": len(chosen.rows), "tokens": chosen.tokens, "seconds": seconds}
    measured = stage(job, tuned, target, label)
    metrics = json.loads((measured / "metrics.json").read_text())
    score = {"method": method, "target": target.name, "seed": seed, "metrics": metrics, **cost}
    score["per_row"] = _per_row(measured)
    if job.settings.harness.tasks:
        folder = harness_stage(job, tuned, label)
        more, falling = read_metrics(json.loads((folder / "results.json").read_text()))
        score |= {"metrics": metrics | more, "less_is_better": falling}
    return score


def stage(job: Job, tuned: Tuned | None, target: Target, label: str) -> epath.Path:
    """Measure an adapter, or the base; `metrics.json` holds the means, `rows.jsonl` what was read
    in each row."""
    exam = job.exams[target.name]
    task = exam.task

    def build(folder: epath.Path) -> dict:
        metrics, rows = evaluate(
            job.model,
            _leaves(job, tuned),
            job.base,
            job.chat,
            exam,
            job.config.model.max_length,
            job.settings.evaluate,
        )
        if is_first():
            write_atomic(folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            write_atomic(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        if metrics.get(SHOTS_DROPPED):
            print(
                f"evaluate {label}: {metrics[SHOTS_DROPPED]} worked rows left away, as prompts "
                "would not fit model.max_length",
                flush=True,
            )
        return {"rows": len(rows)}

    identity = {
        "new_tokens": job.settings.evaluate.new_tokens,
        "task": [task.name, task.shots, task.metrics, task.letters],
        **job.model_identity,
    }
    inputs = {"test": target.test_digest, **job.checkpoint_digest, **_hash(tuned)}
    if task.shots:
        inputs["shots"] = file_hash(job.shots_files[target.name])
    return job.run_stage("evaluate", label, identity, inputs, build, shared=True)


def harness_stage(job: Job, tuned: Tuned | None, label: str) -> epath.Path:
    """Run the harness's tasks; `results.json` holds what it tells of them.

    No target is part of it: an adapter that serves several is measured once.
    """
    from g2is_jax.evaluation.harness import VERSION, HarnessModel, measure

    config = job.settings.harness

    def build(folder: epath.Path) -> dict:
        model = HarnessModel(
            job.model,
            _leaves(job, tuned),
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
    inputs = job.checkpoint_digest | _hash(tuned)
    return job.run_stage("harness", label, identity, inputs, build)


def _per_row(folder: epath.Path) -> dict[str, list[float | None]]:
    """Of each metric, the values of the test rows."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().split("\n") if line]
    names = rows[0].get("scores", {})
    return {LOSS: [row["loss"] for row in rows]} | {
        name: [row["scores"][name] for row in rows] for name in names
    }


def _leaves(job: Job, tuned: Tuned | None) -> Leaves:
    """The adapter's; without one the base stays as it is."""
    if tuned is None:
        return job.model.zero_adapter()
    return read_adapter(tuned.stage / tuned.adapter, job.model)


def _hash(tuned: Tuned | None) -> dict[str, str]:
    """Of the adapter, as an input of a stage."""
    if tuned is None:
        return {}
    which = {} if tuned.adapter == ADAPTER else {"which": tuned.adapter}
    return {"adapter": stage_hash(tuned.stage), **which}
