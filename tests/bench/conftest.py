import pytest

from experiments.bench import generate


@pytest.fixture(scope="session")
def checkpoint(torch, tmp_path_factory) -> str:
    """The folder of a random Llama of one layer."""
    folder = str(tmp_path_factory.mktemp("llama"))
    sizes = generate.BenchConfig(hidden=32, layers=1, heads=4, vocabulary=53)
    generate.write_random_model(folder, sizes)
    return folder
