import pytest


@pytest.fixture(scope="module", autouse=True)
def _shared_programs(compiled_once):
    """Compiles each program of the jobs of this room once."""
