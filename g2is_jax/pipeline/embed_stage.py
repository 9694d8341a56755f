"""Embeddings of prompts: by an encoder, or else the base's own mean hidden states."""

from collections.abc import Iterator

from etils import epath

from g2is_jax.data.records import prompt
from g2is_jax.features.sentence_encoder import extract_embeddings
from g2is_jax.features.store import StoreWriter
from g2is_jax.pipeline import hidden_stage
from g2is_jax.pipeline.datasets import Dataset
from g2is_jax.pipeline.job import Job
from g2is_jax.pipeline.store_diagnostics import write_diagnostics
from g2is_jax.runs.processes import is_first, wait_for_all
from g2is_jax.runs.stages import Stage


def stage(job: Job, dataset: Dataset) -> epath.Path:
    """One row for each usable row of a file; needs no warm-up."""
    name = job.settings.selection.encoder
    if not name:
        return hidden_stage.stage_of_prompts(job, dataset)
    encoder = job.readers.encoder(name)
    rows = dataset.records.numbers_N.tolist()

    def prompts() -> Iterator[str]:
        return map(prompt, dataset.records)

    def build(folder: epath.Path) -> dict:
        tokens = job.settings.evaluation.evaluate.batch_tokens  # of forward passes alone
        with StoreWriter(folder, rows, job.settings.features.store) as writer:
            work = extract_embeddings(encoder.folder, prompts(), dataset.tokens_N, tokens, writer)
        wait_for_all(f"embeddings of {dataset.name}")
        if not is_first():
            return {}
        write_diagnostics(folder, dataset, momentum=None, b1=0.0)
        return dataset.counts | work

    identity = {"rows_dtype": job.settings.features.store.dtype}
    of_encoder = {f"encoder/{file}": digest for file, digest in encoder.digest.items()}
    inputs = {"rows": dataset.digest, **job.text_inputs, **of_encoder}
    return job.stages.run(Stage("embeddings", identity, inputs), dataset.name, build, shared=True)
