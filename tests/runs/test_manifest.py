"""A manifest says what was done, and is refused where it is not that of its folder."""

import errno
import json
import os
from pathlib import Path

import pytest

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import read_manifest, stage_hash
from g2is_jax.runs.stages import run_stage
from tests.support.rows_stage import INPUTS, SETTINGS, build_rows, must_not_build


def failure(action) -> str:
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_manifest_says_what_was_done(tmp_path):
    found = read_manifest(run_stage(tmp_path, "features", SETTINGS, INPUTS, build_rows))
    assert found["settings"] == {"walk": {"delta": 0.7, "widths": [1, 2]}, "seed": 0}
    assert (found["name"], found["inputs"], found["counts"]) == ("features", INPUTS, {"rows": 4})
    assert set(found["versions"]) == {"python", "g2is_jax", "jax", "flax", "numpy"}
    assert 0 <= found["seconds"] < 60
    assert 1e6 < found["peak_memory_bytes"] < 1e12
    assert found["finished"].endswith("+00:00")
    assert found["commit"] is None or len(found["commit"]) == 40


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


def test_full_disk_while_writing_the_manifest(tmp_path, monkeypatch):
    def no_space(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def build(part):
        monkeypatch.setattr(os, "fsync", no_space)
        return build_rows(part)

    message = failure(lambda: run_stage(tmp_path, "features", SETTINGS, INPUTS, build))
    assert message.startswith("disk full while writing ")
    assert "manifest.json: free space" in message
    monkeypatch.undo()
    (part,) = (tmp_path / "stages").iterdir()
    assert sorted(file.name for file in part.iterdir()) == ["attempt.json", "rows.txt"]
