"""Scores of base or adapter on the tasks of lm-evaluation-harness that a config names."""

import dataclasses
import json

from etils import epath

from g2is_jax.pipeline.finetune_stage import Tuned, adapter_hash, subject
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.stages import Stage
from g2is_jax.runs.storage import write_atomic


def stage(job: Job, tuned: Tuned | None, name: str) -> epath.Path:
    """Run the harness's tasks; `results.json` holds its report.

    No target is part of it: an adapter that serves several is measured once.
    """
    # Late: the harness is an extra.
    from g2is_jax.evaluation.harness import VERSION, HarnessModel, measure

    config = job.settings.evaluation.harness

    def build(folder: epath.Path) -> dict:
        model = HarnessModel(
            *subject(job, tuned),
            job.data.chat,
            job.settings.data.max_length,
            job.settings.evaluation.evaluate.batch_tokens,
            config.chat,
        )
        results = measure(model, config)
        write_atomic(folder / "results.json", json.dumps(results, indent=2) + "\n")
        return {"rows": sum(rows["effective"] for rows in results["n-samples"].values())}

    asked = dataclasses.asdict(config) | {"tasks": sorted(config.tasks)}
    identity = {**asked, "include": config.digest(), "lm_eval": VERSION, **job.tuned_identity}
    inputs = job.checkpoint.digest | adapter_hash(tuned)
    return job.stages.run(Stage("harness", identity, inputs), name, build)
