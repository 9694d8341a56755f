"""Data sets of the hub, against a small hub on this machine."""

import os

import pytest
from etils import epath

from g2is_jax.data.files import read_records
from g2is_jax.data.hub_sets import HubSet, load_hub_set, place_of_rows
from g2is_jax.runs.errors import InputError
from tests.support.dataset_hub import COMMIT, read_all, serving
from tests.support.row_files import numbered, write

CARD = """---
configs:
- config_name: main
  data_files: [{split: train, path: main/train.jsonl}, {split: test, path: main/test.jsonl}]
- config_name: other
  data_files: other/train.jsonl
---
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What is read of each place, online and then offline, by the place."""
    pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("hub")
    rows = {
        name: write(folder, *numbered(rows), name=name).read_bytes()
        for name, rows in (("train", 5), ("test", 1), ("other", 2))
    }
    files = {"README.md": CARD.encode(), "main/train.jsonl": rows["train"]}
    files |= {"main/test.jsonl": rows["test"], "other/train.jsonl": rows["other"]}
    places = [
        "hf://some/rows?config=main&split=train",
        "hf://datasets/some/rows?config=other",
        "hf://some/rows",
        "hf://some/rows?config=main",
        "hf://some/rows?config=main&split=dev",
        "hf://some/rows?config=main&split=train[1:x]",
        "hf://some/rows?config=main&split=train[1:3]",
        "hf://some/none",
    ]
    later = [places[0], f"hf://some/rows@{'b' * 40}?config=main&split=train", "hf://some/none"]
    with serving(files) as endpoint:
        online = dict(zip(places, read_all(places, folder, endpoint), strict=True))
        offline = dict(zip(later, read_all(later, folder, endpoint, offline=True), strict=True))
    return {"online": online, "offline": offline, "train": str(folder / "train")}


@pytest.mark.parametrize("run", ["online", "offline"])
def test_rows_have_the_ids_of_the_file_that_they_come_from(found, run):
    read = found[run]["hf://some/rows?config=main&split=train"]
    assert read["ids"] == [record.id for record in read_records(found["train"])]


def test_a_part_of_a_split(found):
    whole = found["online"]["hf://some/rows?config=main&split=train"]["ids"]
    assert found["online"]["hf://some/rows?config=main&split=train[1:3]"]["ids"] == whole[1:3]


def test_the_commit_is_part_of_the_digest(found):
    read = found["online"]["hf://some/rows?config=main&split=train"]
    assert read["path"] == f"hf://some/rows@{COMMIT}?config=main&split=train"
    assert read["digest"] == f"{read['path']} read as {read['content'][:16]}"


def test_the_only_split_need_not_be_named(found):
    read = found["online"]["hf://datasets/some/rows?config=other"]
    assert read["path"] == f"hf://some/rows@{COMMIT}?config=other&split=train"
    assert len(read["ids"]) == 2


@pytest.mark.parametrize(
    ("run", "place", "error"),
    [
        (
            "online",
            "hf://some/rows",
            "has several configs and none is named; choose of main, other, as in "
            "hf://some/rows?config=main",
        ),
        (
            "online",
            "hf://some/rows?config=main",
            "has several splits and none is named; choose of train, test, as in "
            "hf://some/rows?config=main&split=train",
        ),
        ("online", "hf://some/rows?config=main&split=dev", "has no split 'dev'; choose of train"),
        (
            "online",
            "hf://some/rows?config=main&split=train[1:x]",
            "the data set cannot be loaded from the hub (ValueError: ",
        ),
        ("online", "hf://some/none", "the data set cannot be loaded from the hub ("),
        (
            "offline",
            f"hf://some/rows@{'b' * 40}?config=main&split=train",
            f"only the commit {COMMIT} is in the cache, and the hub cannot be reached; name",
        ),
        ("offline", "hf://some/none", "the data set cannot be loaded from the hub ("),
    ],
)
def test_refusals(found, run, place, error):
    assert found[run][place]["error"].startswith(f"{place}: {error}")
    assert "\n" not in found[run][place]["error"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf://a/b", "b"),
        ("hf://datasets/a/b?split=train", "b"),
        ("hf://a/b@v1.0?config=main&split=test[:10]", "b-main"),
    ],
)
def test_uris(text, name):
    place = place_of_rows(text)
    assert os.fspath(place) == text.replace("datasets/", "")
    assert place.name == name
    assert place_of_rows(place) is place


@pytest.mark.parametrize(
    "text", ["hf://a", "hf://a/b/c.jsonl", "hf://a/b?split=", "hf://a/b?revision=x", "hf://a/b?x"]
)
def test_uris_that_name_nothing(text):
    with pytest.raises(InputError, match="no data set of the hub is named so; write hf://owner/"):
        place_of_rows(text)


def test_other_texts_are_paths():
    assert place_of_rows("a/b.jsonl") == epath.Path("a/b.jsonl")


def test_a_folder_of_the_same_name_is_not_read_in_its_place(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    (tmp_path / "some" / "rows").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="a folder some/rows is here"):
        load_hub_set(HubSet("some/rows"))
