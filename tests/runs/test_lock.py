"""One run at a time in a work folder, on a disk and on an object store."""

import subprocess
import sys
import time

import pytest
from etils import epath

from g2is_jax.runs import lock
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.lock import LOCK, locked

HOLD = """
import sys, time
from g2is_jax.runs.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """A work folder that another process holds, and that process."""
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield folder, process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_is_refused_with_the_name_of_the_first(held):
    folder, process = held
    with pytest.raises(InputError) as refused, locked(folder):
        pass
    assert str(refused.value).startswith(f"{folder}: another run is at work here (")
    assert f'"process": {process.pid}' in str(refused.value)
    assert str(refused.value).endswith("choose another --workdir")


def test_a_killed_run_holds_nothing(held):
    folder, process = held
    process.kill()
    process.wait()
    with locked(folder):
        pass


def test_a_run_that_ended_holds_nothing(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used as a work folder"):
        locked(tmp_path / "file" / "run").__enter__()


@pytest.fixture
def quick(monkeypatch):
    """Makes each wait a hundredth as long."""
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.9)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.1)


def test_a_lease_is_renewed_and_given_back(quick, tmp_path):
    folder = epath.Path(tmp_path)
    with lock._leased(folder):
        first = (folder / LOCK).read_text()
        time.sleep(0.5)
        assert (folder / LOCK).read_text() != first
        with pytest.raises(InputError, match="another run is at work here"):
            lock._leased(folder).__enter__()
    assert not (folder / LOCK).exists()


def test_the_lease_of_a_dead_run_is_taken_over(quick, tmp_path):
    folder = epath.Path(tmp_path)
    lock._renew(folder / LOCK, "of a run that is gone")
    started = time.monotonic()
    with lock._leased(folder):
        assert time.monotonic() - started > 0.9


def test_the_lease_has_one_owner_where_two_runs_come_at_once(quick, tmp_path, monkeypatch):
    folder = epath.Path(tmp_path)
    renew = lock._renew

    def overtaken(file, token):
        renew(file, token)
        renew(file, "of the other")

    monkeypatch.setattr(lock, "_renew", overtaken)
    with pytest.raises(InputError, match="another run is at work here"):
        lock._leased(folder).__enter__()
