"""Learning curves: answer loss on a target's validation rows after each epoch of a fine-tune."""

import json

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.evaluation.evaluate import answer_losses
from g2is_jax.model.adapters import read_adapter
from g2is_jax.model.lora import Leaves
from g2is_jax.pipeline import finetune_stage, selection_stage
from g2is_jax.pipeline.cases import cases, label
from g2is_jax.pipeline.datasets import Target
from g2is_jax.pipeline.finetune_stage import Tuned
from g2is_jax.pipeline.job import Job, open_checked_job
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import stage_hash
from g2is_jax.runs.processes import is_first
from g2is_jax.runs.stages import Stage
from g2is_jax.runs.storage import write_atomic
from g2is_jax.selection.methods import choosers


def run(config: ConfigDict, workdir: epath.Path) -> list[epath.Path]:
    """The curve of each method, target and seed; returns the stages' folders."""
    job = open_checked_job(config, workdir, measures=False)
    folders = []
    for method, target, seed in cases(job, choosers(job.settings.selection.methods)):
        name = label(method, target, seed)
        chosen = selection_stage.stage(job, method, target, seed)
        tuned = finetune_stage.stage(job, chosen, name, seed)
        folders.append(stage(job, tuned, target, name))
    return folders


def stage(job: Job, tuned: epath.Path, target: Target, name: str) -> epath.Path:
    """The curve of a fine-tune.

    `curve.json` lists epoch and validation loss, from the untrained base (0) on: the mean over rows
    of each row's own mean, in nats.
    """

    def build(folder: epath.Path) -> dict:
        rows, tokens = target.validation.encoded, job.settings.evaluation.evaluate.batch_tokens
        curve = []
        for epoch in range(job.settings.finetune.fit.epochs + 1):
            adapter = _adapter(job, tuned, epoch)
            losses_M = answer_losses(job.model, adapter, job.weights, rows, tokens)
            curve.append({"epoch": epoch, "validation_loss": float(losses_M.mean())})
        if is_first():
            write_atomic(folder / "curve.json", json.dumps(curve, indent=2) + "\n")
        return {"rows": len(rows), "best_epoch": best_epoch(curve)}

    inputs = {"validation": target.validation.digest, "adapter": stage_hash(tuned)}
    inputs |= job.checkpoint.digest
    return job.stages.run(Stage("curve", job.model_identity, inputs), name, build, shared=True)


def _adapter(job: Job, tuned: epath.Path, epoch: int) -> Leaves:
    if epoch == 0:
        return job.model.zero_adapter()
    folder = tuned / finetune_stage.of_epoch(epoch)
    if not folder.exists():
        raise InputError(
            f"{folder}: there is none, the fine-tune is of an earlier version; delete {tuned} and "
            "run the same command again"
        )
    return read_adapter(folder, job.model)


def best_epoch(curve: list[dict]) -> int:
    """The trained epoch of the least validation loss; the earliest of equals."""
    return min(curve[1:], key=lambda point: point["validation_loss"])["epoch"]


def adapter_to_evaluate(job: Job, tuned: epath.Path, target: Target, name: str) -> Tuned:
    """The fine-tune's last adapter, or its best; makes the curve where that is asked for."""
    best = job.settings.evaluation.adapter == "best"
    if not best and not job.settings.evaluation.curves:
        return Tuned(tuned)
    folder = stage(job, tuned, target, name)
    epoch = best_epoch(json.loads((folder / "curve.json").read_text()))
    of_last = epoch == job.settings.finetune.fit.epochs
    return Tuned(tuned, finetune_stage.of_epoch(epoch)) if best and not of_last else Tuned(tuned)
