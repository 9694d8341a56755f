"""Answer loss and the task's metrics of base or adapter on a target's test rows."""

import json

from etils import epath

from g2is_jax.evaluation.evaluate import evaluate
from g2is_jax.evaluation.tasks.reply_metrics import LOSS, SHOTS_DROPPED
from g2is_jax.pipeline.datasets import Target
from g2is_jax.pipeline.finetune_stage import Tuned, adapter_hash, subject
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.hashing import file_hash
from g2is_jax.runs.processes import is_first
from g2is_jax.runs.stages import Stage
from g2is_jax.runs.storage import write_atomic


def stage(job: Job, tuned: Tuned | None, target: Target, name: str) -> epath.Path:
    """The metrics of an adapter, or of the base.

    `metrics.json` holds the means over the rows, `rows.jsonl` each row's loss, reply and scores.
    """
    eval_set = job.eval_sets[target.name]
    task = eval_set.task

    def build(folder: epath.Path) -> dict:
        metrics, rows = evaluate(
            *subject(job, tuned),
            job.data.chat,
            eval_set,
            job.settings.data.max_length,
            job.settings.evaluation.evaluate,
        )
        if is_first():
            write_atomic(folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            write_atomic(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        if metrics.get(SHOTS_DROPPED):
            print(
                f"evaluate {name}: {metrics[SHOTS_DROPPED]} worked rows left out, as prompts "
                "would not fit model.max_length",
                flush=True,
            )
        return {"rows": len(rows)}

    identity = {
        "new_tokens": job.settings.evaluation.evaluate.new_tokens,
        "task": [task.name, task.shots, task.metrics, task.letters],
        **job.tuned_identity,
    }
    inputs = {"test": target.test_digest, **job.checkpoint.digest, **adapter_hash(tuned)}
    if task.shots:
        inputs["shots"] = file_hash(job.shots_files[target.name])
    return job.stages.run(Stage("evaluate", identity, inputs), name, build, shared=True)


def per_row(folder: epath.Path) -> dict[str, list[float | None]]:
    """The values of each metric over the test rows."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().split("\n") if line]
    names = rows[0].get("scores", {})
    return {LOSS: [row["loss"] for row in rows]} | {
        name: [row["scores"][name] for row in rows] for name in names
    }
