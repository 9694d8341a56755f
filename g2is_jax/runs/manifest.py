"""The manifest of a stage: what went into it, what it cost, and the sizes of its files."""

import contextlib
import functools
import hashlib
import json
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from etils import epath

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.file_sizes import difference
from g2is_jax.runs.storage import in_object_store, write_atomic

FORMAT = 1  # raise it when what a stage writes changes its meaning
MANIFEST = "manifest.json"
IDENTITY = ("format", "name", "settings", "inputs")
PACKAGES = ("g2is_jax", "jax", "flax", "numpy")


def stage_identity(name: str, settings: dict, inputs: dict[str, str]) -> dict:
    """Returns what tells a stage from all others, as it comes back from JSON: tuples as lists,
    keys as strings."""
    identity = {"format": FORMAT, "name": name, "settings": settings, "inputs": inputs}
    return json.loads(json.dumps(identity))


def identity_hash(identity: dict) -> str:
    """Returns the sha256 of an identity, whatever the order of its keys."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def write_manifest(
    folder: epath.Path,
    identity: dict,
    counts: dict,
    seconds: float,
    compilations: int,
    compile_seconds: float,
    files: dict[str, int],
) -> None:
    """Writes the manifest of a stage whose files are all there.

    counts: numbers that the stage reports. seconds: of all attempts. compilations,
    compile_seconds: XLA programs of the last attempt. files: path within the folder -> bytes.
    """
    manifest = {
        **identity,
        "hash": identity_hash(identity),
        "counts": counts,
        "versions": _versions(),
        "commit": _commit(),
        "seconds": round(seconds, 3),
        "compilations": compilations,
        "compile_seconds": round(compile_seconds, 3),
        "peak_memory_bytes": _peak_memory(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
    }
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def read_manifest(folder: epath.PathLike) -> dict:
    """Returns the manifest of a finished stage; refuses a folder without one, one that was altered,
    and one whose files are not of the sizes that they were finished with (`file_sizes`)."""
    place = epath.Path(folder)
    way_out = f"delete {place} and run the same command again"
    try:
        file = place / MANIFEST
        manifest = json.loads(stored_manifest(file) if in_object_store(file) else file.read_text())
        identity = {key: manifest[key] for key in IDENTITY}
        digest = manifest["hash"]
        sizes = {str(name): int(size) for name, size in manifest.get("files", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise InputError(
            f"{place}: {MANIFEST} is absent or unreadable ({reason}); {way_out}"
        ) from error
    if identity_hash(identity) != digest:
        raise InputError(
            f"{place}: {MANIFEST} was altered: its hash is not that of its contents; {way_out}"
        )
    if wrong := difference(place, sizes):
        raise InputError(f"{wrong}; {way_out}")
    return manifest


@functools.cache
def stored_manifest(file: epath.Path) -> str:
    """Returns the text of a manifest in an object store, read once: every use of a stage asks for
    it, and it is written once."""
    return file.read_text()


def stage_hash(folder: epath.PathLike) -> str:
    """Returns the content hash of a finished stage, for the inputs of a later one."""
    return read_manifest(folder)["hash"]


def check_identity(folder: epath.Path, identity: dict) -> None:
    """Refuses a finished folder whose manifest is that of another stage."""
    manifest = read_manifest(folder)
    differing = [key for key in IDENTITY if manifest[key] != identity[key]]
    if differing:
        raise InputError(
            f"{folder}: its {MANIFEST} is of another stage ({', '.join(differing)} differ); "
            f"delete {folder}, or choose another --workdir, and run the same command again"
        )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _commit() -> str | None:
    """Returns the git commit that the code was run from, where there is one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _peak_memory() -> int:
    """Returns the most bytes this process has held so far (earlier stages in it included)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
