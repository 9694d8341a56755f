import threading

import pytest
from etils import epath

from g2is_jax.features.rows import DTYPES


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
