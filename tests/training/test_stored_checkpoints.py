"""Checkpoints on gs://: one file each, there as a whole or not at all."""

import pytest
from etils import epath

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import write_atomic
from g2is_jax.training.checkpoints import open_checkpoints
from tests.support.object_store import object_store
from tests.support.tiny_training import assert_equal, trained


@pytest.fixture(scope="module")
def store():
    with object_store() as served:
        yield served


def test_round_trip(store):
    folder = epath.Path("gs://bucket/all")
    saved = {4: trained(1), 11: trained(2)}
    checkpoints = open_checkpoints(folder, keep=None)
    assert checkpoints.steps() == []
    for step, (adapter, state) in saved.items():
        checkpoints.save(step, adapter, state, {"step": step})
    again = open_checkpoints(folder, keep=None)
    assert again.steps() == [4, 11]
    for step, (adapter, state) in saved.items():
        assert_equal(again.restore(step, *trained(0)), (adapter, state))
    assert set(store.files("all/")) == {"4.tar", "11.tar"}


def test_the_newest_stay(store):
    checkpoints = open_checkpoints(epath.Path("gs://bucket/some"), keep=2)
    for step in (1, 2, 10):
        checkpoints.save(step, *trained(1), {"step": step})
    assert checkpoints.steps() == [2, 10]


def test_a_damaged_file_is_named_with_the_way_out(store):
    file = epath.Path("gs://bucket/damaged/3.tar")
    checkpoints = open_checkpoints(file.parent, keep=None)
    checkpoints.save(3, *trained(1), {"step": 3})
    data = file.read_bytes()
    for broken in (data[: len(data) // 2], data[:600]):
        write_atomic(file, broken)
        with pytest.raises(
            InputError, match=r"gs://bucket/damaged/3\.tar: unreadable .* delete gs"
        ):
            checkpoints.restore(3, *trained(0))
    with pytest.raises(InputError, match=r"delete STAGE and run"):
        checkpoints.restore(3, *trained(0), epath.Path("STAGE"))
