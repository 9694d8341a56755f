"""Where gradients are taken: at checkpoints of the warm-up, at one's own adapter, or at the base
itself, whose linear layers then have probes."""

import dataclasses
from dataclasses import dataclass

import jax.numpy as jnp
from etils import epath

from g2is_jax.features.gradients import WITH_MOMENTS
from g2is_jax.features.probes import probes
from g2is_jax.model.adapters import CONFIG, WEIGHTS, read_adapter
from g2is_jax.model.lora import Leaves
from g2is_jax.pipeline import warmup_stage
from g2is_jax.pipeline.job import Job
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.hashing import file_hash
from g2is_jax.runs.manifest import MANIFEST, stage_hash
from g2is_jax.training.fit import load_trained
from g2is_jax.training.optimizer import Moments
from g2is_jax.training.trainer_state import FILES, WAY_OUT, read_trainer_moments


@dataclass(frozen=True)
class Point:
    """An adapter, or probes, with Adam's moments there, and the weight of its features' cosines."""

    adapter: Leaves
    moments: Moments
    weight: float = 1.0


def stages(job: Job, seed: int) -> dict[str, epath.Path]:
    """The stages that make the points, by their names as inputs; none where nothing is trained."""
    if job.settings.features.layers or job.settings.warmup.adapter:
        return {}
    return {"warmup": warmup_stage.stage(job, seed)}


def inputs(job: Job, seed: int) -> dict[str, str]:
    """Content hashes of what the points are made of."""
    if job.settings.features.layers:
        return {}
    if job.settings.warmup.adapter:
        folder = epath.Path(job.settings.warmup.adapter)
        if (folder / MANIFEST).exists():
            return {"adapter": stage_hash(folder)}
        files = [name for name in (CONFIG, WEIGHTS, *FILES) if (folder / name).exists()]
        return {f"adapter/{name}": file_hash(folder / name) for name in files}
    return {name: stage_hash(folder) for name, folder in stages(job, seed).items()}


def identity(job: Job) -> dict:
    """How the model whose gradients are taken is computed."""
    layers = job.settings.features.layers
    if layers is None:
        return job.model_identity
    return job.model_identity | {"lora": None, "layers": dataclasses.asdict(layers)}


def points(job: Job, seed: int, kinds: tuple[str, ...]) -> list[Point]:
    """The points, oldest first; kinds: of the features that are taken there."""
    if job.settings.features.layers:
        leaves = probes(job.gradient_model, job.settings.features.seed_of(seed))
        return [Point(leaves, Moments(0, leaves, leaves))]  # which the kind sgd does not look at
    if job.settings.warmup.adapter:
        return [_of_ones_own(job, epath.Path(job.settings.warmup.adapter), kinds)]
    return [Point(w.adapter, w.moments, w.weight) for w in warmup_stage.load(job, seed)]


def _of_ones_own(job: Job, folder: epath.Path, kinds: tuple[str, ...]) -> Point:
    """The point of a stage that trained an adapter, or of PEFT's files with a Trainer's state."""
    if (folder / MANIFEST).exists():
        fit = dataclasses.replace(job.settings.warmup.fit, keep_checkpoints=0)  # removes none
        return Point(*load_trained(job.model, fit, 0, folder)[-1])
    adapter = read_adapter(folder, job.model)
    moments = read_trainer_moments(folder, job.model, job.settings.warmup.fit.optimizer)
    if moments is None:
        needing = [kind for kind in kinds if kind in WITH_MOMENTS]
        if needing:
            raise InputError(
                f"{folder}: has no optimizer.pt, whose moments features of {', '.join(needing)} "
                f"need; give the Trainer's whole checkpoint, or {WAY_OUT}"
            )
        nothing = {path: jnp.zeros_like(leaf) for path, leaf in adapter.items()}
        moments = Moments(0, nothing, nothing)
    return Point(adapter, moments)
