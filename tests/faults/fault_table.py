"""Runs a small job through each fault in each stage, and through kills at random.

    python -m tests.faults.fault_table --output=faults.json

The job takes a few seconds, alone and as two processes. After each fault the same command is run
again, once what its error asks for is done; then stages and selections have to hold the bytes of an
uninterrupted run, and nothing that was finished may have been done again.
"""

import dataclasses
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint

from experiments.bench.timing import check_settings, heading, launch, machine, versions
from g2is_jax.runs.errors import FAILED
from g2is_jax.runs.processes import GOES_ON
from g2is_jax.runs.stopping import STOPPED
from tests.faults.fault_trials import STAGES, SmallJob, Trial, finished_work
from tests.faults.random_kills import random_kills
from tests.support.forked import DISK_FULL, import_all

# An instruction in the middle of each stage: audit event, path it touches, and how many times.
MIDDLE = {
    "world": ("open", r"world-.*\.part/\.val_", 1),
    "warmup": ("open", r"warmup-.*/metrics\.jsonl$", 5),  # within the second epoch
    "features": ("open", r"features-.*\.chunk-00002\.safetensors", 1),
    "selection": ("open", r"selection-.*\.selected\.jsonl", 1),
    "finetune": ("open", r"finetune-.*/metrics\.jsonl$", 4),
    "evaluate": ("open", r"evaluate-.*\.metrics\.json", 1),
    "report": ("open", r"report/\.report\.html", 1),
}
CUT = {
    "world": "pool.jsonl",
    "warmup": "adapter/adapter_model.safetensors",
    "features": "chunk-00001.safetensors",
    "selection": "selection.jsonl",
    "finetune": "adapter/adapter_model.safetensors",
    "evaluate": "rows.jsonl",
}
SHARED = ("warmup", "features", "finetune")  # by the processes of a run


@dataclass(frozen=True)
class BenchConfig:
    """The settings.

    parts: of table and kills, by commas
    kills: how many at random
    seed: of their moments
    threads: cores to use
    """

    parts: str = "table,kills"
    kills: int = 100
    seed: int = 0
    threads: int = 1

    def __post_init__(self):
        check_settings(self, list(PARTS), ("kills", "threads"))


def middle(stage: str, by: int | str) -> dict:
    event, path, times = MIDDLE[stage]
    return {"event": event, "path": path, "times": times, "by": by}


def sigterm(job: SmallJob, stage: str) -> Trial:
    trial = job.trial(stage)
    trial.expect(trial.run(fault=middle(stage, signal.SIGTERM)), [STOPPED])
    return again(trial)


def one_killed(job: SmallJob, stage: str) -> Trial:
    """Kills the first process where it works alone, else the second."""
    trial = job.trial(stage, 2)
    first = stage not in SHARED
    fault = middle(stage, signal.SIGKILL)
    attempt = trial.run(2, fault, "this" if first else "other")
    statuses = attempt.statuses if first else attempt.statuses[::-1]
    if statuses[0] != -signal.SIGKILL or statuses[1] in (0, FAILED):
        trial.complaints.append(f"ended with {attempt.statuses}: {attempt.last_lines}")
    if attempt.last_lines != [GOES_ON, GOES_ON]:
        trial.complaints.append(f"its last lines do not say how it goes on: {attempt.last_lines}")
    return again(trial, 2)


def all_killed(job: SmallJob, stage: str) -> Trial:
    trial = job.trial(stage, 2)
    attempt = trial.run(2, middle(stage, signal.SIGKILL), "both")
    trial.expect(attempt, [-signal.SIGKILL, -signal.SIGKILL])
    return again(trial, 2)


def disk_full(job: SmallJob, stage: str) -> Trial:
    trial = job.trial(stage)
    return refused_then_again(trial, middle(stage, DISK_FULL))


def file_cut(job: SmallJob, stage: str) -> Trial:
    """Cuts a file of a finished stage; the report's own page is written anew by each run."""
    trial = job.trial()
    if stage == "report":
        cut(trial.folder / "report" / "report.html")
        return again(trial)
    cut(one_stage(trial, stage) / CUT[stage])
    return refused_then_again(trial)


def manifest_cut(job: SmallJob, stage: str) -> Trial | None:
    if stage == "report":
        return None
    trial = job.trial()
    cut(one_stage(trial, stage) / "manifest.json")
    return refused_then_again(trial)


def checkpoint_altered(job: SmallJob, stage: str) -> Trial | None:
    """Alters the checkpoint of an epoch, in a stage that was killed in the next one."""
    if stage not in ("warmup", "finetune"):
        return None
    trial = job.trial(stage)
    trial.run(fault=middle(stage, signal.SIGKILL))
    alter_largest(next(trial.folder.glob(f"stages/{stage}-*.part/checkpoints")))
    return refused_then_again(trial)


def finished_checkpoint_altered(job: SmallJob, stage: str) -> Trial | None:
    """Alters the checkpoint that the features are made with."""
    if stage != "warmup":
        return None
    trial = job.trial("features")
    alter_largest(one_stage(trial, stage) / "checkpoints")
    return refused_then_again(trial)


def two_at_once(job: SmallJob, stage: str) -> Trial:
    """Starts a second run while the first is held in the middle of the stage."""
    trial = job.trial(stage)
    kept = finished_work(trial.folder)
    held = job.fork(trial.folder, middle(stage, signal.SIGSTOP))
    if not held.stopped():
        trial.complaints.append("the first run did not come to the middle of the stage")
    second = job.attempt(trial.folder, [job.fork(trial.folder, None)])
    trial.note(second, set())
    trial.expect(second, [FAILED])
    trial.follow(second.error)
    held.send(signal.SIGCONT)
    first = job.attempt(trial.folder, [held])
    trial.note(first, kept)
    trial.expect(first, [0])
    return again(trial)


FAULTS: dict[str, Callable[[SmallJob, str], Trial | None]] = {
    "SIGTERM": sigterm,
    "`kill -9` of one of two": one_killed,
    "`kill -9` of both": all_killed,
    "disk full": disk_full,
    "file cut short": file_cut,
    "manifest cut short": manifest_cut,
    "checkpoint altered, stage at work": checkpoint_altered,
    "checkpoint altered, stage finished": finished_checkpoint_altered,
    "two runs at once": two_at_once,
}


def one_stage(trial: Trial, stage: str) -> Path:
    return sorted(trial.folder.glob(f"stages/{stage}-*"))[0]


def cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def alter_largest(checkpoints: Path) -> None:
    """Alters a byte in the middle of the largest file of the newest checkpoint's values."""
    step = max((place for place in checkpoints.iterdir()), key=lambda place: int(place.name))
    file = max(step.glob("state/d/*"), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def again(trial: Trial, processes: int = 1) -> Trial:
    """Runs the same command, which has to come to the end."""
    trial.expect(trial.run(processes), [0] * processes)
    trial.compare(trial.job.files[processes])
    return trial


def refused_then_again(trial: Trial, fault: dict | None = None) -> Trial:
    """Expects one line that says what to do, does that, and runs the same command again."""
    attempt = trial.run(fault=fault)
    trial.expect(attempt, [FAILED])
    trial.follow(attempt.error)
    return again(trial)


def row(trial: Trial, stage: str, fault: str) -> dict:
    """Returns a trial's row of the table."""
    errors = [attempt.error for attempt in trial.attempts if attempt.error]
    faulty = [attempt.statuses for attempt in trial.attempts[:-1]] or [trial.attempts[0].statuses]
    return {
        "stage": stage,
        "fault": fault,
        "statuses": faulty[0],
        "error": shown(errors[0], trial.folder) if errors else "",
        "redone": redone(trial),
        "verdict": verdict(trial, bool(errors)),
    }


def verdict(trial: Trial, refused: bool) -> str:
    if trial.complaints:
        return "WRONG: " + shown("; ".join(trial.complaints), trial.folder)
    return "one-line error, then same result" if refused else "same result"


def redone(trial: Trial) -> str:
    """Says in words what more than one attempt did."""
    units = Counter(unit.split()[0] for unit in trial.redone)
    names = {"step": "step", "chunk": "chunk"} | {
        stage: f"{stage} started anew" for stage in STAGES if stage not in SHARED
    }
    counts = [
        f"{units[unit]} {name}{'s' * (units[unit] > 1 and unit in ('step', 'chunk'))}"
        for unit, name in names.items()
        if units[unit]
    ]
    return ", ".join(counts) or "nothing"


def shown(text: str, folder: Path) -> str:
    """Shortens a text by the scratch folder, stages' hashes and process numbers."""
    text = text.replace(f"{folder}/", "").replace(str(folder), "WORKDIR")
    text = re.sub(r"-[0-9a-f]{12}", "-*", text)
    return re.sub(r"\{.*\}", "{...}", " ".join(text.split()))


def table_part(job: SmallJob, config: BenchConfig) -> list[dict]:
    rows = []
    for stage in STAGES:
        for fault, make in FAULTS.items():
            trial = make(job, stage)
            if trial is not None:
                rows.append(row(trial, stage, fault))
                print(f"{stage}, {fault}: {rows[-1]['verdict']}", flush=True)
                shutil.rmtree(trial.folder)
    return rows


def kills_part(job: SmallJob, config: BenchConfig) -> dict:
    return random_kills(job, config.kills, config.seed)


PARTS: dict[str, Callable[[SmallJob, BenchConfig], Any]] = {
    "table": table_part,
    "kills": kills_part,
}


def run(config: BenchConfig) -> dict:
    """Returns the outcome of each fault and of the random kills; `wrong` lists what is."""
    import_all()
    with tempfile.TemporaryDirectory() as scratch:
        job = SmallJob(Path(scratch))
        result = {part: PARTS[part](job, config) for part in config.parts.split(",")}
    result |= {
        "settings": dataclasses.asdict(config),
        "machine": machine(),  # starts JAX, so that nothing can be forked any more
        "versions": versions(jax, orbax.checkpoint),
    }
    faults = [
        f"{row['stage']}, {row['fault']}: {row['verdict']}"
        for row in result.get("table", [])
        if row["verdict"].startswith("WRONG")
    ]
    return result | {"wrong": faults + result.get("kills", {}).get("wrong", [])}


def table(result: dict) -> str:
    """Returns Markdown: the faults in short, each in full, and the kills in sum."""
    lines = [heading(result), ""]
    if "table" in result:
        lines += [*in_short(result["table"]), "", *in_full(result["table"]), ""]
    if "kills" in result:
        lines += kill_lines(result["kills"])
    return "\n".join(lines)


def in_short(rows: list[dict]) -> list[str]:
    """Returns a line a stage, a column a fault: `same`, `named` (an error, then same), WRONG."""
    words = {"same result": "same", "one-line error, then same result": "named, same"}
    found = {(row["stage"], row["fault"]): words.get(row["verdict"], "WRONG") for row in rows}
    lines = [_line(["stage", *FAULTS]), _line(["---"] * (len(FAULTS) + 1))]
    return lines + [
        _line([stage, *(found.get((stage, fault), "") for fault in FAULTS)]) for stage in STAGES
    ]


def in_full(rows: list[dict]) -> list[str]:
    head = ["stage", "fault", "status", "error", "done twice", "after the same command"]
    lines = [_line(head), _line(["---"] * len(head))]
    return lines + [
        _line(
            [
                *(row["stage"], row["fault"], ", ".join(map(str, row["statuses"]))),
                *(row["error"], row["redone"], row["verdict"]),
            ]
        )
        for row in rows
    ]


def kill_lines(kills: dict) -> list[str]:
    hit = ", ".join(f"{stage} {count}" for stage, count in sorted(kills["hit"].items()))
    sent = ", ".join(f"{count} {name}" for name, count in sorted(kills["signals"].items()))
    twice, done = kills["twice"], kills["done"]
    lines = [
        f"{kills['kills']} kills at random ({sent}; seed {kills['seed']}) in {kills['folders']} "
        f"folders: {hit}",
        f"done twice: {twice['step']} of {done['step']} steps, {twice['chunk']} of "
        f"{done['chunk']} chunks",
    ]
    return lines + [f"WRONG: {complaint}" for complaint in kills["wrong"] or ()]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    launch(run, BenchConfig(), table)


if __name__ == "__main__":
    main()
