"""Answer loss and the task's metrics of base or adapter on a target's test rows."""

import json

from etils import epath
from ml_collections import ConfigDict

from experiments import finetune, select_subset
from experiments.job import Job, Target
from experiments.launch import launch
from g2is_jax.evaluation.evaluate import evaluate
from g2is_jax.evaluation.tasks.metrics import SHOTS_DROPPED
from g2is_jax.model.adapters import read_adapter
from g2is_jax.runs.manifest import file_hash, read_manifest, stage_hash, write_atomic


def run(config: ConfigDict, workdir: epath.Path) -> list[dict]:
    """The scores of each method, target and seed: one object each."""
    job = Job(config, workdir)
    job.check()
    return scores(job)


def scores(job: Job) -> list[dict]:
    """Every stage of every method, target and seed, down to its scores and costs."""
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
    return {"method": method, "target": target.name, "seed": seed, "metrics": metrics, **cost}


def stage(job: Job, adapter: epath.Path | None, target: Target, label: str) -> epath.Path:
    """Measure; `metrics.json` holds the means, `rows.jsonl` what was read in each row."""
    exam = job.exams[target.name]
    task = exam.task

    def build(folder: epath.Path) -> dict:
        model = job.model
        leaves = model.zero_adapter()
        if adapter is not None:
            leaves = read_adapter(adapter / "adapter", model)
        metrics, rows = evaluate(
            model,
            leaves,
            job.base,
            job.chat,
            exam,
            job.config.model.max_length,
            job.settings.evaluate,
        )
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
    inputs = {"test": target.test_digest, **job.checkpoint_digest}
    if task.shots:
        inputs["shots"] = file_hash(job.shots_files[target.name])
    if adapter is not None:
        inputs["adapter"] = stage_hash(adapter)
    return job.run_stage("evaluate", label, identity, inputs, build)


if __name__ == "__main__":
    launch(run)
