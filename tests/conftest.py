import importlib
import os
from pathlib import Path

from tests.support.compilation import XLA_FLAGS

# Set before jax and transformers are imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # libtpu, where it is, looks for a TPU in vain

import jax
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from tests.support.small import write_files
from tests.support.small_job import changed, small_config, write_base

jax.config.update("jax_numpy_rank_promotion", "raise")

MOST_MAPS = 25_000
SHARED = Path(os.environ.get("G2IS_SHARED", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="module", autouse=True)
def _room_for_programs():
    """A process may map 65,530 pieces of memory, of which a compiled program takes eight or more;
    beyond that XLA ends in a segmentation fault."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def optimised():
    """Compiles with XLA's optimisations, for tests of what they might change: bits and memory."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # of programs that are shared with other tests
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


@pytest.fixture(scope="session")
def _programs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def compiled_once(_programs):
    """Jobs of one session share their compiled programs, those of other processes included."""
    settings = {
        "jax_compilation_cache_dir": str(_programs),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> epath.Path:
    """A random checkpoint of two layers, of the small job."""
    folder = epath.Path(tmp_path_factory.mktemp("base"))
    write_base(folder)
    return folder


@pytest.fixture
def config(base) -> ConfigDict:
    """The small job's config."""
    return small_config(base)


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """Folder of a good pool, and of validation and test rows of two targets.

    The rows are chosen by length, so that few shapes are compiled.
    """
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder


@pytest.fixture(scope="session")
def file_config(base, files) -> ConfigDict:
    """The small job on files in place of the built-in world; tests change copies of it."""
    return changed(
        small_config(base),
        data__pool=str(files / "pool.jsonl"),
        data__validation=f"{files / 'val_plus.jsonl'},{files / 'val_pick.jsonl.gz'}",
        data__test=f"{files / 'test_plus.jsonl'},{files / 'test_pick.jsonl'}",
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data and of the real tiny Llama; tests that use it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def published_cases(shared_data) -> Path:
    """Folder of rows and files as they are published; its tests skip where it is absent."""
    folder = shared_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip("the folder of published cases is not beside the shared data")
    return folder


@pytest.fixture(scope="session")
def torch():
    """PyTorch, the oracle of the parity tests; CI sets G2IS_REQUIRE_PARITY so that none skips."""
    try:
        import torch
    except ImportError:
        if os.environ.get("G2IS_REQUIRE_PARITY"):
            raise
        pytest.skip("needs the parity extra: pip install -r requirements-parity.txt")
    torch.set_num_threads(1)  # the tests run side by side; more threads wait for each other
    return torch


@pytest.fixture(scope="session")
def harness(tmp_path_factory):
    """The adapter to lm-evaluation-harness, whose datasets are made in a folder of the session."""
    try:
        importlib.import_module("lm_eval")
    except ImportError:
        if os.environ.get("G2IS_REQUIRE_PARITY"):
            raise
        pytest.skip('needs lm-evaluation-harness: pip install -e ".[eval]"')
    import datasets

    from g2is_jax.evaluation import harness

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield harness
