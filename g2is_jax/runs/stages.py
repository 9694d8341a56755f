"""Stages: folders of finished work, named by what went into them and reused where they exist.

    workdir/config.json                     the config of the runs here (`workdir`)
    workdir/stages/<name>-<hash12>.part/    a stage at work, or killed at work
    workdir/stages/<name>-<hash12>/         a finished one, with its manifest.json (`manifest`)

The hash covers the stage's name, its settings and its inputs' content hashes, so a stage whose
folder exists need not run again. Object stores cannot rename a folder: there a stage is at work
under its own name, and finished once its manifest is there. One run at a time may work in a work
folder (`lock`); the processes of a run come to the same stages in the same order.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from etils import epath

from g2is_jax.runs.compilations import compilations
from g2is_jax.runs.file_sizes import file_sizes
from g2is_jax.runs.manifest import (
    MANIFEST,
    check_identity,
    identity_hash,
    stage_identity,
    stored_manifest,
    write_manifest,
)
from g2is_jax.runs.processes import alone, any_says, first_says, is_first, wait_for_all
from g2is_jax.runs.stopping import Stopped, asked_to_stop
from g2is_jax.runs.storage import in_object_store, make_folder, naming_failures, write_atomic

ATTEMPT = "attempt.json"  # in the folder of a stage at work alone


class Stage(NamedTuple):
    """The identity of a stage: everything that its contents depend on.

    inputs: name -> content hash, from `stage_hash` or `file_hash`.
    """

    name: str
    settings: dict
    inputs: dict[str, str]


def run_stage(
    workdir: epath.PathLike,
    name: str,
    settings: dict,
    inputs: dict[str, str],
    build: Callable[[epath.Path], dict],
    shared: bool = False,
) -> epath.Path:
    """Returns the finished folder of a stage, built now unless it was built before.

    inputs: name -> content hash, from `stage_hash` or `file_hash`. build: fills the folder that it
    gets (which holds what a killed attempt left there) and returns counts for the manifest; the
    first process calls it, or all of them where they share the work.
    """
    return run_stages(
        workdir,
        {name: Stage(name, settings, inputs)},
        lambda folders: {name: build(folders[name])},
        shared,
    )[name]


def run_stages(
    workdir: epath.PathLike,
    stages: Mapping[str, Stage],
    build: Callable[[dict[str, epath.Path]], dict[str, dict]],
    shared: bool = False,
) -> dict[str, epath.Path]:
    """Returns the finished folders of stages; those that are not finished are built together.

    stages: by labels of the caller's. build: fills the folders that it gets, by label, and returns
    the counts of each. Otherwise as `run_stage`.
    """
    folders = {label: stage_folder(workdir, *stage) for label, stage in stages.items()}
    if any_says(asked_to_stop()):
        raise Stopped
    parts: dict[str, epath.Path] = {}
    for label, folder in folders.items():
        if first_says(is_finished(folder)):
            check_identity(folder, stage_identity(*stages[label]))
        else:
            parts[label] = _part(folder)
    if not parts:
        return folders
    together = " and ".join(folders[label].name for label in parts)
    with naming_failures(next(iter(parts.values()))):
        if is_first():
            attempts = {label: _start(part, stages[label]) for label, part in parts.items()}
            counts = _built(parts, build, together if shared else None)
            for label, part in parts.items():
                _finish(part, attempts[label], counts[label])
                if part != folders[label]:
                    part.rename(folders[label])
        elif shared:
            wait_for_all(f"{together} started")
            build(parts)
            wait_for_all(f"{together} built")
    wait_for_all(f"{together} finished")
    return folders


def _part(folder: epath.Path) -> epath.Path:
    """Returns the folder in which a stage is built."""
    return folder if in_object_store(folder) else folder.parent / f"{folder.name}.part"


def is_finished(folder: epath.PathLike) -> bool:
    """Tells whether a stage's folder holds all of it, and is to be reused."""
    place = epath.Path(folder)
    if not in_object_store(place):
        return place.exists()
    try:
        return bool(stored_manifest(place / MANIFEST))
    except FileNotFoundError:
        return False


def stage_folder(
    workdir: epath.PathLike, name: str, settings: dict, inputs: dict[str, str]
) -> epath.Path:
    """Returns the folder that a stage has once it is finished."""
    digest = identity_hash(stage_identity(name, settings, inputs))
    return epath.Path(workdir) / "stages" / f"{name}-{digest[:12]}"


@dataclass(frozen=True)
class _Attempt:
    """A stage at work: its identity, and the clocks from which its manifest gets its costs."""

    identity: dict
    seconds_before: float
    started: float
    programs: int
    compile_seconds: float


def _start(part: epath.Path, stage: Stage) -> _Attempt:
    make_folder(part)
    return _Attempt(stage_identity(*stage), *_start_attempt(part), *compilations())


def _built(
    parts: dict[str, epath.Path], build: Callable[[dict[str, epath.Path]], dict], shared: str | None
) -> dict[str, dict]:
    """Returns the counts of stages, once their folders are filled.

    shared: the name by which all processes wait for each other; None where the first works alone.
    """
    if shared:
        wait_for_all(f"{shared} started")
    try:
        with contextlib.nullcontext() if shared else alone():
            counts = build(parts)
    except BaseException:
        for part in parts.values():
            if not in_object_store(part):
                with contextlib.suppress(OSError):
                    (part / ATTEMPT).touch()  # its time is the end of this attempt
        raise
    if shared:
        wait_for_all(f"{shared} built")
    return counts


def _finish(part: epath.Path, attempt: _Attempt, counts: dict) -> None:
    """Completes a folder; the manifest comes last."""
    # Writes that were killed leave files. An object store has none: it takes a file whole.
    for leftover in [] if in_object_store(part) else Path(part).rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    programs, compile_seconds = compilations()
    write_manifest(
        part,
        attempt.identity,
        counts,
        seconds=attempt.seconds_before + time.time() - attempt.started,
        compilations=programs - attempt.programs,
        compile_seconds=compile_seconds - attempt.compile_seconds,
        files={name: n for name, n in file_sizes(part).items() if name not in (MANIFEST, ATTEMPT)},
    )
    (part / ATTEMPT).unlink(missing_ok=True)


def _start_attempt(part: epath.Path) -> tuple[float, float]:
    """Returns (seconds of earlier attempts, start of this one), both kept in the folder.

    A killed attempt cannot say when it ended: it is taken to have lasted to its last written file.
    """
    file, seconds = part / ATTEMPT, 0.0
    if file.exists():
        try:
            earlier = json.loads(file.read_text())
            files = [*part.glob("*"), *part.glob("*/*")]  # a deeper look is slow on object stores
            newest = max(entry.stat().mtime for entry in files)
            seconds = earlier["seconds_before"] + max(newest - earlier["started"], 0.0)
        except (OSError, ValueError, KeyError, TypeError):
            seconds = 0.0  # bookkeeping alone: never a reason to refuse the work
    started = time.time()
    write_atomic(file, json.dumps({"seconds_before": seconds, "started": started}))
    return seconds, started
