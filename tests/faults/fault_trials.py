"""A small job through faults: how a run ended, what it did twice, whether any of it is wrong."""

import json
import re
import shutil
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from etils import epath

from g2is_jax.runs.errors import FAILED
from tests.support.forked import Fork, in_fork, written

STAGES = ("world", "warmup", "features", "selection", "finetune", "evaluate", "report")
WATCH_SECONDS = 2  # in which the shell beside a process has said its line
# Where a read fails, orbax closes the event loop at once, and threads of tensorstore's that come
# too late print so: their tracebacks lie in asyncio alone.
ERRORS = r"^error: |^  File (?!.*/asyncio/base_events\.py)"
COMPILED = {  # once for all runs, whose processes are forked from this one
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@dataclass
class Attempt:
    """A run that has ended, alone or of two processes; `work` is its steps and chunks."""

    endings: list[dict]
    work: set[str]

    @property
    def statuses(self) -> list[int]:
        return [ending["status"] for ending in self.endings]

    @property
    def started(self) -> set[str]:
        """The stages that it printed the start of."""
        return set(re.findall(r"^(\w+ [^:\n]*seed \d+)$", self._out, re.M))

    @property
    def done(self) -> dict[str, str]:
        """The stages that it printed the end of, and their folders."""
        return dict(re.findall(r"^(.*): done in .*\((\S+)\)$", self._out, re.M))

    @property
    def _out(self) -> str:
        return "".join(ending["stdout"] for ending in self.endings)

    @property
    def error(self) -> str:
        """The one line about a mistake, without its beginning; "" where there is none."""
        return self.last_lines[0].removeprefix("error: ") if self.statuses[0] == FAILED else ""

    @property
    def last_lines(self) -> list[str]:
        return [(ending["stderr"].splitlines() or [""])[-1] for ending in self.endings]


@dataclass
class Trial:
    """A work folder, and the attempts made in it.

    finished: stages whose end was printed, and their folders. complaints: what was wrong. redone:
    what more than one attempt did.
    """

    job: "SmallJob"
    folder: Path
    finished: dict[str, str] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    redone: set[str] = field(default_factory=set)

    def run(self, processes: int = 1, fault: dict | None = None, victims: str = "this") -> Attempt:
        """Run the command to its end; a fault's signal goes to this process, the other, or both."""
        kept = finished_work(self.folder)
        attempt = self.job.run(self.folder, processes, fault, victims)
        self.note(attempt, kept)
        return attempt

    def note(self, attempt: Attempt, kept: set[str]) -> None:
        """Take down an attempt; complain where it did again what was kept on disk or finished."""
        lost = attempt.work & kept | attempt.started & self.finished.keys()
        if lost:
            self.complaints.append(f"finished work was done again: {', '.join(sorted(lost))}")
        for before in self.attempts:
            self.redone |= before.work & attempt.work | before.started & attempt.started
        self.finished |= attempt.done
        self.attempts.append(attempt)

    def follow(self, error: str) -> None:
        """Do what a one-line error asks for; complain of one that names no place or no way out."""
        named = re.search(r"; delete (\S+) and run the same command", error)
        if named:
            place = Path(named.group(1))
            if self.folder not in place.parents or not place.exists():
                self.complaints.append(f"asks to delete {place}")
                return
            shutil.rmtree(place)
            self.finished = {k: v for k, v in self.finished.items() if v != place.name}
        elif not re.search(r"free space and run the same command|wait for it to end", error):
            self.complaints.append(f"names no way out: {error}")
        if str(self.folder) not in error:
            self.complaints.append(f"names no file: {error}")

    def expect(self, attempt: Attempt, *allowed: list[int]) -> None:
        """Complain of another ending, or of an error that is not one line."""
        if attempt.statuses not in allowed:
            self.complaints.append(f"ended with {attempt.statuses}: {attempt.last_lines}")
        for ending in attempt.endings:
            errors = re.findall(ERRORS, ending["stderr"], re.M)
            if ending["status"] == FAILED and errors != ["error: "]:
                self.complaints.append("says more than one line")

    def compare(self, expected: dict[str, bytes]) -> None:
        """Complain of stages and selections that are not those of an uninterrupted run."""
        self.complaints += differences(written(self.folder), expected)


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """A complaint where the files differ."""
    names = sorted(found.keys() | expected.keys())
    wrong = [name for name in names if found.get(name) != expected.get(name)]
    return [f"other bytes: {', '.join(wrong)}"] if wrong else []


def finished_work(folder: Path) -> set[str]:
    """The steps and chunks, as `Fork` writes them down, that need not be done again: up to the
    newest checkpoint, and where all features of the same rows have their done-mark."""
    work: set[str] = set()
    alike: dict[str, list[tuple[str, set[int]]]] = {}
    for stage in (folder / "stages").glob("*"):
        name = stage.name.removesuffix(".part")
        steps = [*stage.glob("checkpoints/*"), *stage.glob("stopped/*")]
        newest = max((int(step.name) for step in steps if step.name.isdigit()), default=0)
        work |= {f"step {name} {step}" for step in range(newest)}
        marks = {int(mark.stem.partition("-")[2]) for mark in stage.glob("chunk-*.done")}
        if stage.suffix != ".part":
            work |= {f"chunk {name} {index}" for index in marks}
        elif (stage / "store.json").exists():
            chunks = json.dumps(json.loads((stage / "store.json").read_text())["chunks"])
            alike.setdefault(chunks, []).append((name, marks))
    for stores in alike.values():
        everywhere = set.intersection(*(marks for _, marks in stores))
        work |= {f"chunk {name} {index}" for name, _ in stores for index in everywhere}
    return work


class SmallJob:
    """A job of a few seconds in a scratch folder, and how it is run there."""

    def __init__(self, scratch: Path):
        import jax

        from tests.support.small_job import changed, small_config, write_base, write_config

        self.scratch, self._count = scratch, 0
        for name, value in (COMPILED | {"jax_compilation_cache_dir": scratch / "compiled"}).items():
            jax.config.update(name, str(value) if isinstance(value, Path) else value)
        base = epath.Path(scratch / "base")
        in_fork(lambda: write_base(base))
        settings = {"run__methods": "less,g2is", "grads__chunk_rows": 8, "grads__dtype": "float32"}
        config = write_config(scratch / "config.py", changed(small_config(base), **settings))
        self.argv = [f"--config={config}"]
        self.labels: dict[str, str] = {}
        self._whole(1)  # compiles, so that the next one shows how long the stages take
        self.whole = {processes: self._whole(processes) for processes in (1, 2)}
        self.files = {processes: written(folder) for processes, folder in self.whole.items()}
        self.seconds = self._seconds()

    def new_folder(self) -> Path:
        self._count += 1
        return self.scratch / f"work-{self._count}"

    def trial(self, stage: str | None = None, processes: int = 1) -> Trial:
        """Makes a folder where all that comes before that stage is finished; all, without one."""
        folder = self.new_folder()
        shutil.copytree(self.whole[processes], folder, ignore=shutil.ignore_patterns(".lock"))
        for later in STAGES[STAGES.index(stage) :] if stage else ():
            for place in [*folder.glob(f"stages/{later}-*"), *folder.glob(later)]:
                shutil.rmtree(place)
            if later == "selection":
                shutil.rmtree(folder / "selections")
        there = {label: name for label, name in self.labels.items() if _is_there(folder, name)}
        return Trial(self, folder, there)

    def fork(self, folder: Path, fault: dict | None, *flags: str) -> Fork:
        argv = [*self.argv, f"--workdir={folder}", *flags]
        return Fork(argv, fault, folder.with_suffix(".work"))

    def attempt(self, folder: Path, forks: list[Fork]) -> Attempt:
        """Wait for the processes, and take what they did from the work file."""
        endings = [fork.wait() for fork in forks]
        file = folder.with_suffix(".work")
        work = set(file.read_text().splitlines()) if file.exists() else set()
        file.unlink(missing_ok=True)
        return Attempt(endings, work)

    def run(self, folder: Path, processes: int, fault: dict | None, victims: str) -> Attempt:
        if processes == 1:
            return self.attempt(folder, [self.fork(folder, fault)])
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        flags = ["--distributed", f"--coordinator=localhost:{port}", "--processes=2"]
        second = self.fork(folder, None, *flags, "--process=1")
        to = {"this": [0], "other": [second.process], "both": [second.process, 0]}[victims]
        armed = fault | {"to": to} if fault else None
        forks = [self.fork(folder, armed, *flags, "--process=0"), second]
        for fork in forks:
            fork.join()
        if fault:
            time.sleep(WATCH_SECONDS)
        return self.attempt(folder, forks)

    def _seconds(self) -> dict[str, float]:
        """Returns the seconds of each stage, by its path in the work folder, and of the report."""
        manifests = sorted(self.whole[1].glob("stages/*/manifest.json"))
        seconds = {
            f"stages/{file.parent.name}": json.loads(file.read_text())["seconds"]
            for file in manifests
        }
        times = [file.stat().st_mtime for file in self.whole[1].glob("report/*")]
        return seconds | {"report": max(times) - min(times)}

    def _whole(self, processes: int) -> Path:
        folder = self.scratch / f"whole-{processes}"
        shutil.rmtree(folder, ignore_errors=True)
        attempt = self.run(folder, processes, None, "this")
        if attempt.statuses != [0] * processes:
            raise RuntimeError(f"the uninterrupted run failed: {attempt.endings}")
        self.labels |= attempt.done
        return folder


def _is_there(folder: Path, stage: str) -> bool:
    return (folder / "stages" / stage).exists()
