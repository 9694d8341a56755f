import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_compilation, compiled_once):
    """Compiles the jobs of this room in half the time, and each program once."""
