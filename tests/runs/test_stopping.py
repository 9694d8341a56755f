"""A SIGTERM stops at once, or after the step at hand; before and after it is as ever."""

import signal

import pytest

from g2is_jax.runs.stages import run_stage
from g2is_jax.runs.stopping import STOPPED, Stopped, asked_to_stop, finishing, sigterm_heeded


def test_it_stops_where_it_is():
    with sigterm_heeded(), pytest.raises(Stopped) as stopped:
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.code == STOPPED
    assert not asked_to_stop()


def test_a_step_is_finished():
    with sigterm_heeded():
        with finishing():
            with finishing():
                signal.raise_signal(signal.SIGTERM)
            assert asked_to_stop()
        with pytest.raises(Stopped):  # the machine asks again
            signal.raise_signal(signal.SIGTERM)


def test_no_stage_is_started(tmp_path):
    with sigterm_heeded():
        with finishing():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            run_stage(tmp_path, "features", {}, {}, dict)
    assert not list(tmp_path.iterdir())


def test_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with sigterm_heeded():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
