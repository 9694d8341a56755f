"""After `kill -9` or SIGTERM in any stage the same command goes on, and leaves the same bytes."""

import json
import re
import signal
from pathlib import Path

import pytest

from g2is_jax.runs.stopping import STOPPED
from tests.support.forked import fork_each, written
from tests.support.small import stages
from tests.support.small_job import changed, small_config, write_config

KILL, TERM = signal.SIGKILL, signal.SIGTERM
# (stage, audit event, path it touches, how often before the kill, signal). Each is in the middle of
# its stage: some of its files are there, some are not.
KILLS = [
    ("world", "open", r"world-.*\.part/\.val_", 1, KILL),
    ("world", "os.rename", r"world-.*\.part$", 1, KILL),
    ("losses", "open", r"losses-.*\.chunk-00002\.safetensors", 1, KILL),  # of the base
    ("aligned", "open", r"aligned-.*/metrics\.jsonl$", 2, KILL),
    ("losses", "open", r"losses-.*\.chunk-00001\.done", 1, KILL),
    ("losses", "open", r"losses-.*\.chunk-00003\.safetensors", 1, TERM),
    ("warmup", "open", r"warmup-.*/metrics\.jsonl$", 8, KILL),  # in the second epoch
    ("warmup", "open", r"warmup-.*/metrics\.jsonl$", 2, TERM),  # within that epoch
    ("warmup", "open", r"warmup-.*adapter_model\.safetensors", 1, KILL),
    ("features", "open", r"features-.*\.chunk-00001\.safetensors", 1, KILL),
    ("features", "open", r"features-.*\.chunk-00002\.done", 2, KILL),  # of both kinds of one pass
    ("features", "open", r"features-.*\.chunk-00003\.safetensors", 1, TERM),
    ("features", "os.rename", r"features-.*\.part$", 2, KILL),  # one of two kinds is finished
    ("ordered", "open", r"ordered-.*/rows\.bin", 1, KILL),
    ("ordered", "open", r"ordered-.*/\.rows\.json", 1, KILL),  # its rows are there
    ("selection", "open", r"selection-.*\.selected\.jsonl", 1, KILL),
    ("finetune", "open", r"finetune-.*/metrics\.jsonl$", 9, KILL),
    ("finetune", "open", r"finetune-.*/metrics\.jsonl$", 1, TERM),
    ("finetune", "open", r"finetune-.*/epochs/2/\.adapter_model\.safetensors", 1, KILL),
    ("curve", "open", r"curve-.*\.curve\.json", 1, KILL),
    ("evaluate", "open", r"evaluate-.*\.rows\.jsonl", 1, TERM),
    ("evaluate", "open", r"evaluate-.*\.metrics\.json", 1, KILL),
]


@pytest.fixture(scope="module")
def runs(base, compiled_once, tmp_path_factory) -> tuple[Path, Path, list[dict]]:
    """Folder of an uninterrupted run; of one killed again and again; how its tries ended."""
    folder = tmp_path_factory.mktemp("resume")
    settings = changed(
        small_config(base),
        run__methods="loss_drop,less,g2is_paper,g2is",
        grads__chunk_rows=8,
        selection__memory="disk",
        evaluate__curves=True,
        warmup__batch_size=4,  # six steps an epoch, so that some are read within it,
        finetune__batch_size=2,  # and seven
    )
    config = write_config(folder / "config.py", settings)
    whole = {"argv": [f"--config={config}", f"--workdir={folder / 'whole'}"]}
    again = {"argv": [f"--config={config}", f"--workdir={folder / 'killed'}"]}
    kills = [
        {**again, "fault": {"event": event, "path": path, "times": times, "by": by}}
        for _, event, path, times, by in KILLS
    ]
    outcomes = fork_each([whole, *kills, again], folder)
    assert outcomes[0]["status"] == 0, outcomes[0]["stderr"]
    return folder / "whole", folder / "killed", outcomes[1:]


def test_every_try_was_killed_within_its_stage(runs):
    *tries, _ = runs[2]
    for (stage, _, path, _, by), outcome in zip(KILLS, tries, strict=True):
        assert path.startswith(stage)
        assert outcome["status"] == (STOPPED if by == TERM else -KILL), (stage, outcome)


def test_last_try_ends_well_and_leaves_nothing_half_done(runs):
    _, killed, tries = runs
    assert tries[-1]["status"] == 0, tries[-1]["stderr"]
    assert not [name for name in stages(killed) if name.endswith(".part")]
    assert not list(killed.glob("stages/*/attempt.json"))


def test_killed_run_leaves_the_same_bytes(runs):
    whole, killed, _ = runs
    expected, found = written(whole), written(killed)
    assert sorted(found) == sorted(expected)
    kinds = (
        "selection.jsonl",
        "selected.jsonl",
        "adapter_model.safetensors",
        "curve.json",
        "rows.jsonl",
    )
    for kind in kinds:
        assert [name for name in expected if name.endswith(kind)]
    assert [name for name in found if found[name] != expected[name]] == []


def test_work_that_was_done_is_not_done_again(runs):
    """A stage that was finished before a kill is reused by every later try."""
    done = [re.findall(r"^(.*): done in", t["stdout"], re.MULTILINE) for t in runs[2]]
    labels = [label for of_try in done for label in of_try]
    assert len(labels) == len(set(labels)) > 5


def test_seconds_of_killed_tries_are_counted(runs):
    _, killed, _ = runs
    seconds = [json.loads(f.read_text())["seconds"] for f in killed.glob("stages/*/manifest.json")]
    assert all(value > 0 for value in seconds)
