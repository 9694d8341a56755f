"""A finished stage whose files are gone or of another size is refused, with the way out."""

import json
from pathlib import Path

import pytest
from etils import epath

from g2is_jax.runs import file_sizes
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.manifest import read_manifest
from g2is_jax.runs.stages import run_stage
from tests.support.rows_stage import must_not_build

FILES = {"rows.jsonl": b"ten bytes\n", "adapter/a.safetensors": b"x" * 1234, "deep/er/none": b""}


def build(part) -> dict:
    for name, content in FILES.items():
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        (part / name).write_bytes(content)
    return {}


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(run_stage(tmp_path, "finetune", {}, {}, build))


def test_the_manifest_lists_the_sizes(folder):
    sizes = json.loads((folder / "manifest.json").read_text())["files"]
    assert sizes == {name: len(content) for name, content in sorted(FILES.items())}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_gone_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError) as refused:
        run_stage(folder.parents[1], "finetune", {}, {}, must_not_build)
    assert str(refused.value) == (
        f"{folder / name}: the file is gone; delete {folder} and run the same command again"
    )


def test_a_file_that_was_cut_short_is_named_by_whoever_reads(folder):
    (folder / "adapter/a.safetensors").write_bytes(b"x" * 617)
    for _ in range(2):  # a refusal is not forgotten
        with pytest.raises(InputError) as refused:
            read_manifest(folder)
    assert str(refused.value) == (
        f"{folder}/adapter/a.safetensors: 617 bytes of 1,234; "
        f"delete {folder} and run the same command again"
    )


def test_a_folder_in_place_of_a_file_is_no_file(folder):
    (folder / "rows.jsonl").unlink()
    (folder / "rows.jsonl").mkdir()
    with pytest.raises(InputError, match=r"rows\.jsonl: the file is gone"):
        read_manifest(folder)


def test_other_files_are_not_looked_at(folder):
    (folder / "notes.txt").write_text("mine")
    read_manifest(folder)


def test_a_manifest_from_before_sizes_is_read(folder):
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["files"]
    file.write_text(json.dumps(manifest))
    (folder / "rows.jsonl").unlink()
    assert read_manifest(folder) == manifest


def test_sizes_that_are_none_are_refused(folder):
    file = folder / "manifest.json"
    for sizes in ([1], {"rows.jsonl": "many"}):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"files": sizes}))
        with pytest.raises(InputError, match="absent or unreadable"):
            read_manifest(folder)


def test_a_whole_folder_is_looked_at_once(folder, monkeypatch):
    read_manifest(folder)
    monkeypatch.setattr(file_sizes, "_sizes", must_not_build)
    read_manifest(folder)
    assert file_sizes.difference(epath.Path(folder), {"rows.jsonl": 10}) is None
