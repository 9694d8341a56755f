"""A target more for a finished work folder: what belongs to the pool is not made again."""

from collections.abc import Sequence

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.pipeline import selection_stage, whole_run
from g2is_jax.pipeline.datasets import target_files
from g2is_jax.pipeline.fields import file_names, parts, target_name, written
from g2is_jax.pipeline.inputs import world_stage
from g2is_jax.pipeline.job import open_job
from g2is_jax.runs.errors import InputError


def run(config: ConfigDict, workdir: epath.Path, validation: str, test: str, task: str) -> None:
    """Add a target to the config of a work folder, and run that with all its targets.

    test: needed where the other targets have test rows; without it rows are selected, and nothing
    is trained on. task: of `evaluate.tasks`; empty: that of the other targets, if they share one.
    """
    job = open_job(config, workdir, measures=bool(test))
    data = job.settings.data
    files = target_files(data, lambda: world_stage(job.stages, data.world))
    shown, measured = data.validation or _names(files[1]), data.test or _names(files[2])
    larger = with_target(config, shown, measured, validation, test, task)
    larger.run.replace = True  # it differs from the folder's config by this target
    if test:
        whole_run.run(larger, workdir)
    else:
        selection_stage.run(larger, workdir)


def _names(files: Sequence) -> tuple[str, ...]:
    return tuple(map(str, files))


def with_target(
    config: ConfigDict,
    shown: Sequence[str],
    measured: Sequence[str],
    validation: str,
    test: str,
    task: str,
) -> ConfigDict:
    """The config with one more target; shown and measured are the files of those that it has."""
    names = {target_name(file): file for file in shown}
    if target_name(validation) in names:
        raise InputError(
            f"--validation: the work folder has a target {target_name(validation)} already, of "
            f"{names[target_name(validation)]}; rename the file"
        )
    if bool(test) != bool(measured):
        way = "give --test too" if measured else "leave out --test"
        what = "have" if measured else "have no"
        raise InputError(f"--test: the other targets {what} test rows; {way}")
    found = config.copy_and_resolve_references()
    with found.unlocked():
        found.data.validation = written([*shown, validation])
        found.data.test = written([*measured, test]) if test else ""
        found.evaluate.tasks = _tasks(parts(config.evaluate.tasks), len(shown), task)
        shots = file_names(config.evaluate.shots_files)
        if len(shots) > 1:  # one of each target; the new one's is its validation file
            found.evaluate.shots_files = written([*shots, ""])
    return found


def _tasks(tasks: Sequence[str], targets: int, task: str) -> str:
    if not task and len(set(tasks)) > 1:
        raise InputError(
            f"--task: the targets have tasks of their own, {', '.join(tasks)}; name the new one's"
        )
    if task in ("", *tasks) and len(set(tasks)) == 1:
        return tasks[0]
    return ",".join([*(tasks if len(tasks) == targets else [*tasks] * targets), task])
