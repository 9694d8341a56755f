import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from g2is_jax.runs import manifest
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import claim_workdir, file_hash, read_manifest, run_stage, stage_hash

SETTINGS = {"walk": {"delta": 0.7, "widths": (1, 2)}, "seed": 0}
INPUTS = {"pool": "abc"}


def build_rows(part):
    (part / "rows.txt").write_text("rows")
    return {"rows": 4}


def must_not_build(part):
    raise AssertionError("built again")


def failure(action) -> str:
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_manifest_says_what_was_done(tmp_path):
    found = read_manifest(run_stage(tmp_path, "features", SETTINGS, INPUTS, build_rows))
    assert found["settings"] == {"walk": {"delta": 0.7, "widths": [1, 2]}, "seed": 0}
    assert (found["name"], found["inputs"], found["counts"]) == ("features", INPUTS, {"rows": 4})
    assert set(found["versions"]) == {"python", "g2is_jax", "jax", "flax", "numpy"}
    assert 0 <= found["seconds"] < 60
    assert 1e6 < found["peak_memory_bytes"] < 1e12
    assert found["finished"].endswith("+00:00")
    assert found["commit"] is None or len(found["commit"]) == 40


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
    monkeypatch.setattr(manifest.time, "time", lambda: clock[0])

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
    monkeypatch.setattr(type(manifest.epath.Path(tmp_path)), "touch", lambda path: None)
    with pytest.raises(SystemExit):
        run_stage(tmp_path, "features", SETTINGS, INPUTS, killed)
    folder = run_stage(tmp_path, "features", SETTINGS, INPUTS, finishes)
    assert read_manifest(folder)["seconds"] == 67


def test_kill_9_then_the_same_command_again(tmp_path):
    script = """
import os, signal, sys
from g2is_jax.runs.manifest import run_stage
def build(part):
    if (part / "chunk0").exists():
        return {"resumed": True}
    (part / "chunk0").write_text("done")
    os.kill(os.getpid(), signal.SIGKILL)
print(run_stage(sys.argv[1], "features", {}, {}, build))
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    root = Path(__file__).parents[2]
    assert subprocess.run(command, cwd=root, check=False).returncode == -9
    again = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    assert read_manifest(again.stdout.strip())["counts"] == {"resumed": True}


def alter(folder, **changes) -> None:
    file = Path(folder) / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_finished_folder_that_does_not_match_is_refused(tmp_path):
    def again():
        return run_stage(tmp_path, "features", SETTINGS, INPUTS, must_not_build)

    folder = run_stage(tmp_path, "features", SETTINGS, INPUTS, build_rows)
    alter(folder, settings={"seed": 9})
    message = failure(again)
    assert message.startswith(f"{folder}: manifest.json was altered")
    assert message.endswith(f"delete {folder} and run the same command again")

    other = run_stage(tmp_path, "features", {"seed": 9}, INPUTS, build_rows)
    (Path(folder) / "manifest.json").write_bytes((Path(other) / "manifest.json").read_bytes())
    message = failure(again)
    assert message.startswith(f"{folder}: its manifest.json is of another stage (settings differ)")
    assert f"delete {folder}, or" in message


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '"x"'])
def test_unreadable_manifest_is_refused(tmp_path, content):
    folder = run_stage(tmp_path, "features", SETTINGS, INPUTS, build_rows)
    file = Path(folder) / "manifest.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    for action in (
        lambda: run_stage(tmp_path, "features", SETTINGS, INPUTS, must_not_build),
        lambda: stage_hash(folder),
    ):
        message = failure(action)
        assert message.startswith(f"{folder}: manifest.json is absent or unreadable (")
        assert message.endswith(f"delete {folder} and run the same command again")


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_while_building(tmp_path):
    message = failure(lambda: run_stage(tmp_path, "features", SETTINGS, INPUTS, no_space))
    (part,) = (tmp_path / "stages").iterdir()
    assert message == (
        f"disk full while writing {part}: free space and run the same command again; "
        "finished parts are kept"
    )
    run_stage(tmp_path, "features", SETTINGS, INPUTS, build_rows)


def test_full_disk_while_writing_the_manifest(tmp_path, monkeypatch):
    def build(part):
        monkeypatch.setattr(os, "fsync", no_space)
        return build_rows(part)

    message = failure(lambda: run_stage(tmp_path, "features", SETTINGS, INPUTS, build))
    assert message.startswith("disk full while writing ")
    assert "manifest.json: free space" in message
    monkeypatch.undo()
    (part,) = (tmp_path / "stages").iterdir()
    assert sorted(file.name for file in part.iterdir()) == ["attempt.json", "rows.txt"]


def test_file_hash(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    data = bytes(range(256)) * 20_000
    file.write_bytes(data)
    assert file_hash(file) == hashlib.sha256(data).hexdigest()
    assert failure(lambda: file_hash(tmp_path / "none")).startswith(
        f"{tmp_path}/none: no such file"
    )

    monkeypatch.setattr(manifest, "WHOLE_BYTES", 1_000_000)
    monkeypatch.setattr(manifest, "SAMPLE_BYTES", 1000)
    sampled = file_hash(file)
    for changed in (b"x" + data[1:], data[:-1] + b"x", data + b"x"):
        file.write_bytes(changed)
        assert file_hash(file) != sampled
    file.write_bytes(data)
    assert file_hash(file) == sampled


def test_large_file_is_not_read_whole(tmp_path):
    file = tmp_path / "huge"
    with file.open("wb") as stream:
        stream.truncate(40 * 2**30)  # sparse
    started = time.monotonic()
    file_hash(file)
    assert time.monotonic() - started < 5


CONFIG = {"walk": {"delta": 0.7, "caps": (1, 2)}, "run": {"log_every": 5}, "seed": 0}
FREE = ("run.log_every",)


def test_workdir_is_claimed_once(tmp_path):
    folder = tmp_path / "new" / "work"
    claim_workdir(folder, CONFIG, FREE, replace=False)
    written = (folder / "config.json").read_text()
    claim_workdir(folder, CONFIG, FREE, replace=False)
    claim_workdir(folder, {**CONFIG, "run": {"log_every": 9}}, FREE, replace=False)
    claim_workdir(folder, {**CONFIG, "run": {"log_every": 9}}, ("run",), replace=False)
    assert (folder / "config.json").read_text() == written


def test_workdir_of_another_config_is_refused(tmp_path):
    claim_workdir(tmp_path, CONFIG, FREE, replace=False)
    other = {"walk": {"delta": 0.5}, "run": {"log_every": 9}, "seed": 0, "pool": "a.jsonl"}
    message = failure(lambda: claim_workdir(tmp_path, other, FREE, replace=False))
    assert message == (
        f'{tmp_path}: begun with another config: pool is "a.jsonl", was absent; '
        "walk.caps is absent, was [1, 2]; walk.delta is 0.5, was 0.7; "
        "choose another --workdir, or set run.replace to overwrite it"
    )
    claim_workdir(tmp_path, other, FREE, replace=True)
    claim_workdir(tmp_path, other, FREE, replace=False)
    failure(lambda: claim_workdir(tmp_path, CONFIG, FREE, replace=False))


def test_free_field_covers_no_namesake(tmp_path):
    claim_workdir(tmp_path, {"run": {"log": 1, "log_every": 1}}, (), replace=False)
    changed = {"run": {"log": 1, "log_every": 2}}
    message = failure(lambda: claim_workdir(tmp_path, changed, ("run.log",), replace=False))
    assert "run.log_every is 2, was 1" in message


def test_many_differences_are_counted(tmp_path):
    claim_workdir(tmp_path, {f"f{i}": 0 for i in range(5)}, (), replace=False)
    changed = {f"f{i}": 1 for i in range(5)}
    message = failure(lambda: claim_workdir(tmp_path, changed, (), replace=False))
    assert "f2 is 1, was 0 (and 2 more); choose" in message


def test_unusable_workdir(tmp_path):
    (tmp_path / "config.json").write_text("{")
    message = failure(lambda: claim_workdir(tmp_path, CONFIG, FREE, replace=False))
    assert message.startswith(f"{tmp_path}/config.json: not a readable config")
    message = failure(lambda: claim_workdir(tmp_path / "config.json", CONFIG, FREE, replace=False))
    assert "cannot be used as a work folder (" in message


def test_leftovers_of_killed_writes_are_not_kept(tmp_path):
    def build(part):
        (part / ".rows.txt.123.tmp").write_text("half a fi")
        return build_rows(part)

    folder = run_stage(tmp_path, "features", SETTINGS, INPUTS, build)
    assert sorted(file.name for file in folder.iterdir()) == ["manifest.json", "rows.txt"]
