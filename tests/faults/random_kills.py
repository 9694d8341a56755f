"""Kills at random moments: nothing that was finished is lost, and the bytes are the same."""

import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable

from g2is_jax.runs.stopping import STOPPED
from tests.faults.fault_trials import STAGES, SmallJob, Trial, finished_work

LET_THROUGH = 0.15  # chance that a try is not killed
AT_START = 0.1  # that it is killed at any moment of its first second
NEXT_STAGE = 0.6  # that a kill is aimed at the next stage, and not at any that is not finished
TERM_SHARE = 0.2
POLL_SECONDS = 0.001
BY_KILL = (-signal.SIGKILL, -signal.SIGTERM, STOPPED)


def random_kills(job: SmallJob, count: int, seed: int) -> dict:
    """Start the command, kill it, start it again until it ends; then in a new folder, until so many
    kills were made. Returns what they hit, what was done twice, and the complaints."""
    draws = random.Random(seed)
    found: dict = {"seed": seed, "kills": 0, "folders": 0, "tries": 0, "wrong": []}
    hit: Counter[str] = Counter()
    twice: Counter[str] = Counter()
    signals: Counter[str] = Counter()
    while found["kills"] < count:
        trial = Trial(job, job.new_folder())
        ended = False
        while not ended:
            sent, place = one_try(trial, draws)
            status = trial.attempts[-1].statuses[0]
            found["tries"] += 1
            if sent is None or status == 0:
                trial.expect(trial.attempts[-1], [0])
                ended = True
            else:
                trial.expect(trial.attempts[-1], *([status] for status in BY_KILL))
                found["kills"] += 1
                hit[place] += 1
                signals[signal.Signals(sent).name] += 1
            ended = ended or bool(trial.complaints)
        trial.compare(job.files[1])
        found["folders"] += 1
        found["wrong"] += [f"{trial.folder.name}: {complaint}" for complaint in trial.complaints]
        print(f"{found['kills']} kills in {found['folders']} folders: {dict(hit)}", flush=True)
        twice += Counter(unit.split()[0] for unit in trial.redone)
        shutil.rmtree(trial.folder)
    work = Counter(unit.split()[0] for unit in finished_work(job.whole[1]))
    return found | {
        "hit": dict(hit),
        "signals": dict(signals),
        "twice": {unit: twice[unit] for unit in ("step", "chunk")},
        "done": {unit: work[unit] * found["folders"] for unit in ("step", "chunk")},
    }


def one_try(trial: Trial, draws: random.Random) -> tuple[int | None, str]:
    """Run the command, perhaps with a kill; returns its signal, and the stage at work."""
    job, folder = trial.job, trial.folder
    kept = finished_work(folder)
    moment, by = _moment(trial, draws), _signal(draws)
    fork = job.fork(folder, None)
    place, sent = "between stages", None
    while not fork.ended():
        if moment and moment[0]():
            time.sleep(moment[1])
            place = at_work(trial)
            if not fork.ended():
                fork.send(by)
                sent = by
            break
        time.sleep(POLL_SECONDS)
    trial.note(job.attempt(folder, [fork]), kept)
    return sent, place


def _signal(draws: random.Random) -> int:
    return signal.SIGTERM if draws.random() < TERM_SHARE else signal.SIGKILL


def _moment(trial: Trial, draws: random.Random) -> tuple[Callable[[], bool], float] | None:
    """Draws when to kill: a condition, and seconds after it; None for never."""
    chance = draws.random()
    if chance < LET_THROUGH:
        return None
    if chance < LET_THROUGH + AT_START:
        return (lambda: True), draws.random()
    stages, folder = trial.job.seconds, trial.folder
    open_stages = [name for name in stages if not (folder / name).exists()]
    kinds = sorted({_kind(name) for name in open_stages}, key=STAGES.index)
    if not kinds:  # the report was started before: once is enough
        return None
    kind = kinds[0] if draws.random() < NEXT_STAGE else draws.choice(kinds)
    name = draws.choice([name for name in open_stages if _kind(name) == kind])
    place = folder / (name if name == "report" else f"{name}.part")
    return (lambda: place.exists()), draws.random() * stages[name]


def at_work(trial: Trial) -> str:
    """Returns the kind of the newest stage that is not finished."""
    parts = list(trial.folder.glob("stages/*.part"))
    if parts:
        return _kind(f"stages/{max(parts, key=lambda part: part.stat().st_ctime).name}")
    everything = [name for name in trial.job.seconds if name != "report"]
    if all((trial.folder / name).exists() for name in everything):
        return "report"
    return "between stages"


def _kind(name: str) -> str:
    """Returns `world` for stages/world-0123."""
    return re.sub(r"^stages/|-.*$", "", name)
