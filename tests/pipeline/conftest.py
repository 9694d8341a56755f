from pathlib import Path

import jax
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from tests.support.small import write_files
from tests.support.small_job import changed, small_config, write_base


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_compilation):
    """Compiles every job of this room in half the time."""


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Jobs of one session share their compiled programs, those of other processes included."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
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
    """A random checkpoint of two layers."""
    folder = epath.Path(tmp_path_factory.mktemp("base"))
    write_base(folder)
    return folder


@pytest.fixture
def config(base):
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


@pytest.fixture
def file_config(config, files):
    """The small job on files in place of the built-in world."""
    return changed(
        config,
        data__pool=str(files / "pool.jsonl"),
        data__validation=f"{files / 'val_plus.jsonl'},{files / 'val_pick.jsonl.gz'}",
        data__test=f"{files / 'test_plus.jsonl'},{files / 'test_pick.jsonl'}",
    )
