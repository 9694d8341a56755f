"""Answer loss and exact match of base or adapter on a target's test rows."""

import json

from etils import epath
from ml_collections import ConfigDict

from experiments import curves, finetune, select_subset
from experiments.job import Job, Target
from experiments.launch import launch
from experiments.training import ADAPTER
from g2is_jax.evaluation.evaluate import evaluate
from g2is_jax.model.adapters import read_adapter
from g2is_jax.runs.manifest import read_manifest, stage_hash, write_atomic


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
    label = f"{method} {target.name} seed {seed}"
    tuned, adapter = None, ADAPTER
    if method != "none":
        chosen = select_subset.stage(job, method, target, seed)
        tuned = finetune.stage(job, chosen, f"{method} {target.name}", seed)
        adapter = curves.adapter_to_evaluate(job, tuned, target, label)
        seconds = chosen.seconds + read_manifest(tuned)["seconds"]
        cost = {"rows": len(chosen.rows), "tokens": chosen.tokens, "seconds": seconds}
    folder = stage(job, tuned, adapter, target, label)
    metrics = json.loads((folder / "metrics.json").read_text())
    return {"method": method, "target": target.name, "seed": seed, "metrics": metrics, **cost}


def stage(
    job: Job, tuned: epath.Path | None, adapter: str, target: Target, label: str
) -> epath.Path:
    """Measure the base, or the adapter in this folder of a fine-tune's stage; `metrics.json` holds
    the means, `rows.jsonl` what was read in each row."""

    def build(folder: epath.Path) -> dict:
        model = job.model
        leaves = model.zero_adapter()
        if tuned is not None:
            leaves = read_adapter(tuned / adapter, model)
        metrics, rows = evaluate(
            model,
            leaves,
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
    inputs = {"test": target.test_digest, **job.checkpoint_digest}
    if adapter != ADAPTER:
        identity["adapter"] = adapter
    if tuned is not None:
        inputs["adapter"] = stage_hash(tuned)
    return job.run_stage("evaluate", label, identity, inputs, build)


if __name__ == "__main__":
    launch(run)
