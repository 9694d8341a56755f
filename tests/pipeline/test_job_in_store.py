"""The whole job on gs://, from rows and a checkpoint there: the bytes of a job on a disk.

`store_kills.py` has the same with kills in every stage; it takes minutes.
"""

import re

import pytest
from etils import epath

from g2is_jax.pipeline import whole_run
from g2is_jax.runs.errors import StoreLost
from g2is_jax.runs.lock import locked
from g2is_jax.runs.storage import naming_failures, write_atomic
from tests.support.object_store import CUT, MUTE, object_store, stored, without_waits
from tests.support.small_job import changed


class Breaks:
    """Now and then a request fails; from the first checkpoint of a fine-tune on, all fail."""

    def __init__(self):
        self.count, self.lost, self.spared = 0, False, False

    def __call__(self, method: str, name: str) -> int | None:
        upload = method == "POST" and re.search(r"finetune-.*/checkpoints/", name)
        self.lost |= bool(upload) and not self.spared
        self.count += 1
        return 503 if self.lost else {0: CUT, 10: MUTE, 20: 503}.get(self.count % 30)

    def end(self) -> None:
        self.lost, self.spared = False, True


@pytest.fixture
def store(monkeypatch):
    without_waits(monkeypatch)
    with object_store() as served:
        yield served


def run(config, workdir) -> None:
    with naming_failures(workdir), locked(workdir):
        whole_run.run(config, workdir)


def test_the_same_bytes_as_on_a_disk(store, config, base, files, tmp_path, monkeypatch):
    data = "gs://bucket/data"
    for file in [*base.iterdir(), *map(epath.Path, files.iterdir())]:
        write_atomic(f"{data}/{file.name}", file.read_bytes())
    config = changed(
        config,
        run__methods="g2is",
        model__checkpoint=data,
        data__pool=f"{data}/pool.jsonl",
        data__validation=f"{data}/val_pick.jsonl.gz",
        data__test=f"{data}/test_pick.jsonl",
    )
    with monkeypatch.context() as patch:
        patch.setattr(whole_run, "_report", lambda *_: None)  # the page takes seconds
        run(config, epath.Path(tmp_path))
    whole = {str(f.relative_to(tmp_path)): f for f in tmp_path.rglob("*") if f.is_file()}
    expected = stored({name: file.read_bytes() for name, file in whole.items()})
    store.rule = rule = Breaks()
    workdir = epath.Path("gs://bucket/run")
    with pytest.raises(StoreLost, match=r"finetune-\w+/checkpoints/\d+\.tar: the store cannot be"):
        run(config, workdir)
    rule.end()
    run(config, workdir)
    found = stored(store.files("run/"))
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert any(name.endswith("adapter_model.safetensors") for name in expected)
