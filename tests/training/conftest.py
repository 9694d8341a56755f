import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_compilation):
    """Compiles every program of this room in half the time."""
