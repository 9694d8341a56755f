"""The cases of a job: a method for a target with a seed, what each is called, where it is shown."""

from collections.abc import Sequence

from etils import epath

from g2is_jax.pipeline.datasets import Target
from g2is_jax.pipeline.job import Job


def cases(job: Job, methods: Sequence[str]) -> list[tuple[str, Target, int]]:
    """Each of the methods for each target and seed of a job, in the order of a run."""
    return [
        (method, target, seed)
        for seed in job.settings.seeds
        for method in methods
        for target in job.data.targets
    ]


def label(method: str, target: Target, seed: int) -> str:
    """The name of a case in what is printed."""
    return f"{method} {target.name} seed {seed}"


def shown_at(job: Job, kind: str, method: str, target: Target, seed: int) -> epath.Path:
    """The folder where people look for a case: `KIND/METHOD-SEED`, and within it one for each
    target where a job has several."""
    folder = job.stages.workdir / kind / f"{method}-{seed}"
    return folder / target.name if len(job.data.targets) > 1 else folder
