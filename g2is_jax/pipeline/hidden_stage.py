"""Hidden states of the base: the representation that RDS+ compares."""

import dataclasses
import json

from etils import epath

from g2is_jax.features.diagnostics import diagnose, lines
from g2is_jax.features.hidden_states import extract_hidden
from g2is_jax.features.store import StoreWriter, open_store
from g2is_jax.pipeline.datasets import Dataset
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.processes import is_first, wait_for_all
from g2is_jax.runs.stages import Stage
from g2is_jax.runs.storage import write_atomic


def stage(job: Job, dataset: Dataset) -> epath.Path:
    """The representation of RDS+ for each usable row of a file; needs no warm-up."""
    rows = [record.row for record in dataset.records]

    def build(folder: epath.Path) -> dict:
        tokens = job.settings.evaluation.evaluate.batch_tokens  # of forward passes alone
        with StoreWriter(folder, rows, job.settings.features.store) as writer:
            work = extract_hidden(job.model, job.weights, dataset.encoded, tokens, writer)
        wait_for_all(f"hidden states of {dataset.name}")
        return feature_counts(dataset, folder, None, 0.0) | work if is_first() else {}

    model = {key: value for key, value in job.model_identity.items() if key != "lora"}
    identity = {"rows_dtype": job.settings.features.store.dtype, **model}
    inputs = {"rows": dataset.digest, **job.checkpoint.digest}
    return job.stages.run(Stage("hidden", identity, inputs), dataset.name, build, shared=True)


def feature_counts(dataset: Dataset, folder: epath.Path, momentum: float | None, b1: float) -> dict:
    """Counts for the manifest of a store; its diagnostics are written beside it.

    momentum: |m|, where the kind has a momentum term.
    """
    ids = [record.id for record in dataset.records]
    sources = [record.source for record in dataset.records]
    found = diagnose(open_store(folder), ids, sources, momentum, b1)
    written = json.dumps(dataclasses.asdict(found), indent=2) + "\n"
    write_atomic(folder / "diagnostics.json", written)
    print(lines(found), flush=True)
    return {"rows": len(ids), "dropped": dataset.dropped, "truncated": dataset.truncated}
