import threading

import pytest
from etils import epath

from g2is_jax.features.rows import DTYPES


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_compilation):
    """Compiles every program of this room in half the time."""


@pytest.fixture
def folder(tmp_path) -> epath.Path:
    return epath.Path(tmp_path) / "store"


@pytest.fixture
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture(params=list(DTYPES))
def dtype(request) -> str:
    return request.param
