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
from collections.abc import Callable

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
    identity = stage_identity(name, settings, inputs)
    folder = stage_folder(workdir, name, settings, inputs)
    if any_says(asked_to_stop()):
        raise Stopped
    if first_says(is_finished(folder)):
        check_identity(folder, identity)
        return folder
    part = folder if in_object_store(folder) else folder.parent / f"{folder.name}.part"
    with naming_failures(part):
        if is_first():
            _build(part, identity, build, shared)
            if part != folder:
                part.rename(folder)
        elif shared:
            wait_for_all(f"{name} started")
            build(part)
            wait_for_all(f"{name} built")
    wait_for_all(f"{folder.name} finished")
    return folder


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


def _build(
    part: epath.Path, identity: dict, build: Callable[[epath.Path], dict], shared: bool
) -> None:
    """Fills the folder; the manifest comes last."""
    make_folder(part)
    seconds_before, started = _start_attempt(part)
    programs, compiling = compilations()
    if shared:
        wait_for_all(f"{identity['name']} started")
    try:
        with contextlib.nullcontext() if shared else alone():
            counts = build(part)
    except BaseException:
        if not in_object_store(part):
            with contextlib.suppress(OSError):
                (part / ATTEMPT).touch()  # its time is the end of this attempt
        raise
    if shared:
        wait_for_all(f"{identity['name']} built")
    for leftover in part.glob(".*.tmp"):  # of writes that were killed
        leftover.unlink(missing_ok=True)
    write_manifest(
        part,
        identity,
        counts,
        seconds=seconds_before + time.time() - started,
        compilations=compilations()[0] - programs,
        compile_seconds=compilations()[1] - compiling,
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
