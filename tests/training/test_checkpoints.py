"""Checkpoints come back bit for bit, and only finished ones count."""

from pathlib import Path

import jax
import pytest
from etils import epath

from g2is_jax.runs.errors import InputError
from g2is_jax.training.checkpoints import Checkpoints
from g2is_jax.training.optimizer import read_moments
from tests.support import tiny_training
from tests.support.tiny_training import assert_equal, trained

# A read that fails leaves orbax's other reads to end in an event loop that is closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(epath.Path(tmp_path / "checkpoints"), keep=None)
    yield opened
    opened.close()


def test_round_trip(tmp_path, checkpoints):
    """A second manager reads both of two checkpoints, as after a kill."""
    saved = {4: trained(1), 11: trained(2)}
    for step, (adapter, state) in saved.items():
        checkpoints.save(step, adapter, state, {"step": step})
    again = Checkpoints(epath.Path(tmp_path / "checkpoints"), keep=None)
    assert again.steps() == [4, 11]
    for step, (adapter, state) in saved.items():
        restored = again.restore(step, *trained(0))
        assert_equal(restored, (adapter, state))
        assert read_moments(restored[1]).step == read_moments(state).step
    again.close()


def test_restored_arrays_are_bound_to_no_device(checkpoints):
    """Restored arrays are not bound to a device, also if the saved ones were."""
    adapter, state = trained(1)
    device = jax.devices()[0]
    checkpoints.save(3, jax.device_put(adapter, device), jax.device_put(state, device), {"step": 3})
    leaves = jax.tree.leaves(checkpoints.restore(3, *trained(0)))
    assert not any(leaf.committed for leaf in leaves)


def test_keeps_the_newest(tmp_path):
    kept = Checkpoints(epath.Path(tmp_path / "checkpoints"), keep=2)
    for step in (1, 2, 3):
        kept.save(step, *trained(0), {"step": step})
    assert kept.steps() == [2, 3]
    kept.close()


def test_starts_empty(checkpoints):
    assert checkpoints.steps() == []


def test_unfinished_checkpoint_is_not_seen(tmp_path, checkpoints):
    """A kill within a save leaves a folder under orbax's temporary name."""
    checkpoints.save(5, *trained(0), {"step": 5})
    folder = tmp_path / "checkpoints"
    (folder / "10.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    again = Checkpoints(epath.Path(folder), keep=None)
    assert again.steps() == [5]
    again.save(10, *trained(1), {"step": 10})
    assert again.steps() == [5, 10]
    again.close()


def test_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = Checkpoints(epath.Path("here"), keep=None)
    relative.save(1, *trained(0), {"step": 1})
    relative.close()
    assert (tmp_path / "here" / "1").is_dir()


SMALL = tiny_training.STATE_SHAPES
LARGE = {path: (64 * rows, 64 * columns) for path, (rows, columns) in SMALL.items()}


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Save a checkpoint whose values stand in files of their own, where orbax checks no byte."""
    monkeypatch.setattr(tiny_training, "STATE_SHAPES", LARGE)
    folder = epath.Path(tmp_path / "checkpoints")
    opened = Checkpoints(folder, keep=None)
    opened.save(7, *trained(1), {"step": 7})
    opened.close()
    return folder


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def alter(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, alter, Path.unlink], ids=["cut", "altered", "gone"])
@pytest.mark.parametrize("which", ["state/_METADATA", "state/manifest.ocdbt", "largest"])
def test_damage_is_named_with_the_way_out(saved, damage, which):
    step = Path(saved) / "7"
    files = sorted(step.glob("state/**/d/*"), key=lambda file: file.stat().st_size)
    damage(files[-1] if which == "largest" else step / which)
    opened = Checkpoints(saved, keep=None)
    for stage, named in ((None, step), (saved.parent, saved.parent)):
        with pytest.raises(InputError) as raised:
            opened.restore(7, *trained(0), stage)
        assert str(raised.value).startswith(f"{step}: unreadable training checkpoint (")
        assert str(raised.value).endswith(f"); delete {named} and run the same command again")
        assert "\n" not in str(raised.value)
    opened.close()


def test_a_checkpoint_from_before_digests_is_read(saved):
    position = saved / "7" / "position" / "metadata"
    position.write_text('{"step": 7}')
    opened = Checkpoints(saved, keep=None)
    assert_equal(opened.restore(7, *trained(0)), trained(1))
    opened.close()
