"""A stage is built once, reused for ever, and resumed where it was killed."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from g2is_jax.runs import stages
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import read_manifest, stage_hash
from g2is_jax.runs.stages import run_stage
from tests.support.rows_stage import INPUTS, SETTINGS, build_rows, must_not_build
from tests.support.small import ROOT


def test_stage_is_built_once_and_reused(tmp_path):
    folder = run_stage(tmp_path, "features", SETTINGS, INPUTS, build_rows)
    assert folder.parent.name == "stages"
    assert folder.name == f"features-{stage_hash(folder)[:12]}"
    assert sorted(file.name for file in folder.iterdir()) == ["manifest.json", "rows.txt"]
    listed = {
        **SETTINGS,
        "walk": {"widths": [1, 2], "delta": 0.7},
    }  # order and tuples do not matter
    assert run_stage(tmp_path, "features", listed, INPUTS, must_not_build) == folder
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("name", "settings", "inputs"),
    [
        ("walk", SETTINGS, INPUTS),
        ("features", {**SETTINGS, "seed": 1}, INPUTS),
        ("features", SETTINGS, {"pool": "abd"}),
    ],
)
def test_another_name_setting_or_input_is_another_stage(tmp_path, name, settings, inputs):
    first = run_stage(tmp_path, "features", SETTINGS, INPUTS, build_rows)
    assert run_stage(tmp_path, name, settings, inputs, build_rows) != first


def test_failed_build_is_resumed_in_the_same_part_folder(tmp_path):
    def fails(part):
        (part / "chunk0").write_text("done")
        raise RuntimeError("killed")

    def resumes(part):
        assert part.name.endswith(".part")
        assert (part / "chunk0").read_text() == "done"
        return build_rows(part)

    with pytest.raises(RuntimeError, match="killed"):
        run_stage(tmp_path, "features", SETTINGS, INPUTS, fails)
    (part,) = (tmp_path / "stages").iterdir()
    assert not (part / "manifest.json").exists()
    folder = run_stage(tmp_path, "features", SETTINGS, INPUTS, resumes)
    assert sorted(file.name for file in folder.iterdir()) == ["chunk0", "manifest.json", "rows.txt"]
    assert [entry.name for entry in (tmp_path / "stages").iterdir()] == [folder.name]


def test_seconds_add_up_over_attempts(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(stages.time, "time", lambda: clock[0])

    def killed(part):
        clock[0] += 60
        (part / "chunk0").write_text("done")
        os.utime(part / "chunk0", (1060, 1060))
        os.utime(part / "attempt.json", (1000, 1000))
        clock[0] += 500  # time asleep after the kill is not counted
        raise SystemExit

    def finishes(part):
        clock[0] += 7
        return {}

    # What a kill leaves behind: nothing touched after the last chunk.
    monkeypatch.setattr(type(stages.epath.Path(tmp_path)), "touch", lambda path: None)
    with pytest.raises(SystemExit):
        run_stage(tmp_path, "features", SETTINGS, INPUTS, killed)
    folder = run_stage(tmp_path, "features", SETTINGS, INPUTS, finishes)
    assert read_manifest(folder)["seconds"] == 67


def test_kill_9_then_the_same_command_again(tmp_path):
    script = """
import os, signal, sys
from g2is_jax.runs.stages import run_stage
def build(part):
    if (part / "chunk0").exists():
        return {"resumed": True}
    (part / "chunk0").write_text("done")
    os.kill(os.getpid(), signal.SIGKILL)
print(run_stage(sys.argv[1], "features", {}, {}, build))
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    again = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert read_manifest(again.stdout.strip())["counts"] == {"resumed": True}


@pytest.mark.parametrize("within", [".", "adapter", "epochs/2"])
def test_leftovers_of_killed_writes_are_not_kept(tmp_path, within):
    def build(part):
        (part / within).mkdir(parents=True, exist_ok=True)
        (part / within / ".rows.txt.123.tmp").write_text("half a fi")
        return build_rows(part)

    folder = run_stage(tmp_path, "features", SETTINGS, INPUTS, build)
    found = {str(file.relative_to(folder)) for file in Path(folder).rglob("*") if file.is_file()}
    assert found == {"manifest.json", "rows.txt"}
    assert list(read_manifest(folder)["files"]) == ["rows.txt"]


def test_full_disk_while_building(tmp_path):
    def no_space(part):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError) as refused:
        run_stage(tmp_path, "features", SETTINGS, INPUTS, no_space)
    (part,) = (tmp_path / "stages").iterdir()
    assert str(refused.value) == (
        f"disk full while writing {part}: free space and run the same command again; "
        "finished parts are kept"
    )
    run_stage(tmp_path, "features", SETTINGS, INPUTS, build_rows)
