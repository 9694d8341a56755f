"""Hidden states of the base: the representations that `rds_plus` and `embed` compare."""

from etils import epath

from g2is_jax.features.hidden_states import EVEN, RISING, extract_hidden
from g2is_jax.features.store import StoreWriter
from g2is_jax.pipeline.datasets import Dataset
from g2is_jax.pipeline.job import Job
from g2is_jax.pipeline.store_diagnostics import write_diagnostics
from g2is_jax.runs.processes import is_first, wait_for_all
from g2is_jax.runs.stages import Stage


def stage(job: Job, dataset: Dataset) -> epath.Path:
    """The representation of RDS+ for each usable row of a file; needs no warm-up."""
    return _stage(job, dataset, RISING, dataset.name)


def stage_of_prompts(job: Job, dataset: Dataset) -> epath.Path:
    """The mean hidden state of each usable row's prompt, which is all that stands before its last
    reply that is learned."""
    return _stage(job, dataset, EVEN, f"{dataset.name} prompts")


def _stage(job: Job, dataset: Dataset, weights: str, name: str) -> epath.Path:
    rows = dataset.records.numbers_N.tolist()

    def build(folder: epath.Path) -> dict:
        tokens = job.settings.evaluation.evaluate.batch_tokens  # of forward passes alone
        with StoreWriter(folder, rows, job.settings.features.store) as writer:
            encoded = dataset.encoded.prompts() if weights == EVEN else dataset.encoded
            work = extract_hidden(
                job.model, job.weights, encoded, tokens, writer, weights, dataset.tokens_N
            )
        wait_for_all(f"hidden states of {name}")
        if not is_first():
            return {}
        write_diagnostics(folder, dataset, momentum=None, b1=0.0)
        return dataset.counts | work

    model = {key: value for key, value in job.model_identity.items() if key != "lora"}
    identity = {"rows_dtype": job.settings.features.store.dtype, **model}
    if weights == EVEN:
        identity["of"] = "prompts"
    inputs = {"rows": dataset.digest, **job.checkpoint.digest}
    return job.stages.run(Stage("hidden", identity, inputs), name, build, shared=True)
