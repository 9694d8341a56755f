"""Stages: folders named by what went into them, finished in one step, and reused.

    workdir/config.json                     what this work folder is for
    workdir/stages/<name>-<hash12>.part/    a stage at work, or killed at work
    workdir/stages/<name>-<hash12>/         a finished one, with its manifest.json

The hash covers the stage's name, its settings and its inputs' content hashes, so a stage whose
folder exists need not run again. Object stores cannot rename a folder: there a stage is at work
under its own name, and finished once its manifest is there. One run at a time may work in a work
folder (`lock`); the processes of a run come to the same stages in the same order.
"""

import contextlib
import functools
import hashlib
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from g2is_jax.runs.compilations import compilations
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.file_sizes import difference, file_sizes
from g2is_jax.runs.processes import alone, any_says, first_says, is_first, wait_for_all
from g2is_jax.runs.stopping import Stopped, asked_to_stop
from g2is_jax.runs.storage import in_object_store, make_folder, naming_failures, write_atomic

FORMAT = 1  # raise it when what a stage writes changes its meaning
MANIFEST = "manifest.json"
ATTEMPT = "attempt.json"  # of a stage at work alone
OWN = (MANIFEST, ATTEMPT)
PACKAGES = ("g2is_jax", "jax", "flax", "numpy")
WHOLE_BYTES = 256 * 2**20  # larger files are hashed in samples
SAMPLES, SAMPLE_BYTES = 32, 2**20
IDENTITY = ("format", "name", "settings", "inputs")


class Stage(NamedTuple):
    """A folder of finished work, by all that its contents depend on.

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
    """The finished folder of a stage, built now unless it was built before.

    inputs: name -> content hash, from `stage_hash` or `file_hash`. build: fills the folder it is
    given (which holds what a killed attempt left there) and returns counts for the manifest; the
    first process calls it, or all of them where they share the work.
    """
    stage = Stage(name, settings, inputs)
    return run_stages(workdir, {name: stage}, lambda folders: {name: build(folders[name])}, shared)[
        name
    ]


def run_stages(
    workdir: epath.PathLike,
    stages: Mapping[str, Stage],
    build: Callable[[dict[str, epath.Path]], dict[str, dict]],
    shared: bool = False,
) -> dict[str, epath.Path]:
    """The finished folders of stages by any labels; those that are not finished are built together.

    build: fills the folders it is given, by label, and returns the counts of each. Otherwise as
    `run_stage`.
    """
    folders = {label: stage_folder(workdir, *stage) for label, stage in stages.items()}
    if any_says(asked_to_stop()):
        raise Stopped
    parts: dict[str, epath.Path] = {}
    for label, folder in folders.items():
        if first_says(is_finished(folder)):
            _check_same(folder, _identity(*stages[label]))
        else:
            parts[label] = _part(folder)
    if not parts:
        return folders
    with naming_failures(next(iter(parts.values()))):
        if is_first():
            attempts = {label: _begin(part, stages[label]) for label, part in parts.items()}
            counts = _built(parts, build, shared)
            for label, part in parts.items():
                _finish(part, attempts[label], counts[label])
                if part != folders[label]:
                    part.rename(folders[label])
        elif shared:
            wait_for_all("stages started")
            build(parts)
            wait_for_all("stages built")
    wait_for_all("stages finished")
    return folders


def _part(folder: epath.Path) -> epath.Path:
    """The folder in which a stage is built."""
    return folder if in_object_store(folder) else folder.parent / f"{folder.name}.part"


@dataclass(frozen=True)
class _Attempt:
    """A stage at work: what it is, and the clocks from which its manifest tells its costs."""

    identity: dict
    seconds_before: float
    started: float
    programs: int
    compile_seconds: float


def _begin(part: epath.Path, stage: Stage) -> _Attempt:
    make_folder(part)
    return _Attempt(_identity(*stage), *_begin_attempt(part), *compilations())


def _built(
    parts: dict[str, epath.Path], build: Callable[[dict[str, epath.Path]], dict], shared: bool
) -> dict[str, dict]:
    """The counts of stages, once their folders are filled."""
    if shared:
        wait_for_all("stages started")
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
        wait_for_all("stages built")
    return counts


def _finish(part: epath.Path, attempt: _Attempt, counts: dict) -> None:
    """Complete a folder; the manifest comes last."""
    for leftover in part.glob(".*.tmp"):  # of writes that were killed
        leftover.unlink(missing_ok=True)
    programs, compile_seconds = compilations()
    manifest = {
        **attempt.identity,
        "hash": _digest(attempt.identity),
        "counts": counts,
        "versions": _versions(),
        "commit": _commit(),
        "seconds": round(attempt.seconds_before + time.time() - attempt.started, 3),
        "compilations": programs - attempt.programs,
        "compile_seconds": round(compile_seconds - attempt.compile_seconds, 3),
        "peak_memory_bytes": _peak_memory(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {name: size for name, size in file_sizes(part).items() if name not in OWN},
    }
    write_atomic(part / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    (part / ATTEMPT).unlink(missing_ok=True)


def is_finished(folder: epath.PathLike) -> bool:
    """Whether a stage's folder holds all of it."""
    place = epath.Path(folder)
    if not in_object_store(place):
        return place.exists()
    try:
        return bool(_stored_manifest(place / MANIFEST))
    except FileNotFoundError:
        return False


@functools.cache
def _stored_manifest(file: epath.Path) -> str:
    """Asked for at every use of a stage; it is written once, and so is read once from a store."""
    return file.read_text()


def stage_folder(
    workdir: epath.PathLike, name: str, settings: dict, inputs: dict[str, str]
) -> epath.Path:
    """Where a stage is once it is finished."""
    digest = _digest(_identity(name, settings, inputs))
    return epath.Path(workdir) / "stages" / f"{name}-{digest[:12]}"


def _identity(name: str, settings: dict, inputs: dict[str, str]) -> dict:
    return _as_json({"format": FORMAT, "name": name, "settings": settings, "inputs": inputs})


def read_manifest(folder: epath.PathLike) -> dict:
    """The manifest of a finished stage; refuses a folder without one, one that was altered, and one
    whose files are not of the sizes that they were finished with (`file_sizes`)."""
    place = epath.Path(folder)
    way_out = f"delete {place} and run the same command again"
    try:
        file = place / MANIFEST
        manifest = json.loads(_stored_manifest(file) if in_object_store(file) else file.read_text())
        identity = {key: manifest[key] for key in IDENTITY}
        digest = manifest["hash"]
        sizes = {str(name): int(size) for name, size in manifest.get("files", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise InputError(
            f"{place}: {MANIFEST} is absent or unreadable ({reason}); {way_out}"
        ) from error
    if _digest(identity) != digest:
        raise InputError(
            f"{place}: {MANIFEST} was altered: its hash is not that of its contents; {way_out}"
        )
    if wrong := difference(place, sizes):
        raise InputError(f"{wrong}; {way_out}")
    return manifest


def stage_hash(folder: epath.PathLike) -> str:
    """The content hash of a finished stage, for the inputs of a later one."""
    return read_manifest(folder)["hash"]


def file_hash(path: epath.PathLike) -> str:
    """sha256 of a file's bytes.

    Above 256 MB: of its size and of 32 evenly spaced blocks of 1 MB, first and last included. That
    tells checkpoints apart without reading them, but can miss a change between the blocks.
    """
    file = epath.Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file; check the path")
    size = file.stat().length
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        if size <= WHOLE_BYTES:
            while block := stream.read(SAMPLE_BYTES):
                digest.update(block)
            return digest.hexdigest()
        digest.update(f"sampled {size} ".encode())
        for sample in range(SAMPLES):
            stream.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
            digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()


def claim_workdir(
    workdir: epath.PathLike, config: dict, free_fields: tuple[str, ...], replace: bool
) -> None:
    """Writes the config into a new work folder; refuses one that was begun with another config.

    free_fields: dotted names (a name covers what lies below it) that may differ between runs.
    replace: overwrite the stored config instead of refusing.
    """
    folder = epath.Path(workdir)
    file = folder / "config.json"
    try:
        with naming_failures(file):
            make_folder(folder)
            if replace or not file.exists():
                write_atomic(file, json.dumps(_as_json(config), indent=2) + "\n")
                return
            text = file.read_text()
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be used as a work folder ({error.strerror or error}); "
            "choose another --workdir"
        ) from error
    try:
        old = _flat(json.loads(text))
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"{file}: not a readable config ({error}); "
            "choose another --workdir, or set run.replace to overwrite it"
        ) from error
    new = _flat(_as_json(config))
    differing = [
        f"{field} is {_shown(new, field)}, was {_shown(old, field)}"
        for field in sorted(old.keys() | new.keys())
        if _shown(new, field) != _shown(old, field)
        and not any(f"{field}.".startswith(f"{free}.") for free in free_fields)
    ]
    if differing:
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        raise InputError(
            f"{folder}: begun with another config: {'; '.join(differing[:3])}{more}; "
            "choose another --workdir, or set run.replace to overwrite it"
        )


def _check_same(folder: epath.Path, identity: dict) -> None:
    manifest = read_manifest(folder)
    differing = [key for key in IDENTITY if manifest[key] != identity[key]]
    if differing:
        raise InputError(
            f"{folder}: its {MANIFEST} is of another stage ({', '.join(differing)} differ); "
            f"delete {folder}, or choose another --workdir, and run the same command again"
        )


def _begin_attempt(part: epath.Path) -> tuple[float, float]:
    """(seconds of earlier attempts, start of this one), both kept in the folder.

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


def _as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file: tuples as lists, keys as strings."""
    return json.loads(json.dumps(value))


def _digest(identity: dict) -> str:
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _flat(config: dict, above: str = "") -> dict[str, Any]:
    """{"walk": {"delta": 1}} -> {"walk.delta": 1}"""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value
    return flat


def _shown(flat: dict[str, Any], field: str) -> str:
    return json.dumps(flat[field]) if field in flat else "absent"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _commit() -> str | None:
    """The git commit that the code was run from, where there is one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _peak_memory() -> int:
    """The most memory this process has held so far, in bytes (earlier stages in it included)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
