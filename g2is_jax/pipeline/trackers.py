"""TensorBoard and Weights & Biases: the lines of the metrics logs, sent on as they are written.

What is in a work folder's `metrics.jsonl` files is all that they get, so that nothing depends on
them. Neither is imported unless it is asked for.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.optional import import_optional
from g2is_jax.pipeline.fields import parts
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.metrics import observed
from g2is_jax.runs.processes import is_first
from g2is_jax.runs.storage import in_object_store

FOLDER = "trackers"  # of a work folder


class Tracker(Protocol):
    """Takes the numbers of the steps of stages."""

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Takes those of a step."""

    def close(self) -> None:
        """Leaves everything written."""


class TensorBoard:
    """Event files, a folder for each stage: `tensorboard --logdir=WORKDIR/trackers/tensorboard`."""

    def __init__(self, workdir: epath.Path, config: ConfigDict):
        self._library = import_optional("tensorboardX", "run.trackers: tensorboard", "track")
        self._folder = workdir / FOLDER / "tensorboard"
        self._writers: dict[str, Any] = {}

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each of the stage's curves."""
        if stage not in self._writers:
            place = str(self._folder / stage)
            self._writers[stage] = self._library.SummaryWriter(place, write_to_disk=True)
        for name, value in values.items():
            self._writers[stage].add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()


class WandB:
    """A run of Weights & Biases with the config; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, workdir: epath.Path, config: ConfigDict):
        library = import_optional("wandb", "run.trackers: wandb", "track")
        folder = workdir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        settings = config.to_dict()
        self._run = library.init(
            project="g2is_jax", name=workdir.name, dir=str(folder), config=settings
        )
        self._stages: set[str] = set()

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Logs the values under the stage's name, over its own steps."""
        if stage not in self._stages:
            self._run.define_metric(f"{stage}/step")
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stages.add(stage)
        named = {f"{stage}/{name}": value for name, value in values.items()}
        self._run.log({f"{stage}/step": step, **named})

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


TRACKERS: dict[str, Callable[[epath.Path, ConfigDict], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
}


def tracking(run: Callable[[ConfigDict, epath.Path], Any]) -> Callable:
    """The run, with the trackers of its config."""

    def with_trackers(config: ConfigDict, workdir: epath.Path) -> Any:
        with tracked(config, workdir):
            return run(config, workdir)

    return with_trackers


@contextlib.contextmanager
def tracked(config: ConfigDict, workdir: epath.Path) -> Iterator[None]:
    """Lets the trackers of `run.trackers` see every line that is logged within the block."""
    names = parts(config.run.trackers)
    for name in names:
        if name not in TRACKERS:
            raise InputError(
                f"run.trackers: {name!r} is unknown; choose from {', '.join(TRACKERS)}"
            )
    if names and in_object_store(workdir):
        raise InputError(
            f"run.trackers: {workdir} is not on a disk of this machine, where they write; leave "
            "them out"
        )
    if not names or not is_first():
        yield
        return
    trackers = [TRACKERS[name](workdir, config) for name in names]

    def send(log: epath.Path, step: int, values: Mapping[str, Any]) -> None:
        stage = log.parent.name.removesuffix(".part")
        for tracker in trackers:
            tracker.write(stage, step, values)

    try:
        with observed(send):
            yield
    finally:
        for tracker in trackers:
            tracker.close()
