import pytest
from etils import epath

from tests.support.small import write_files
from tests.support.small_job import changed, small_config, write_base


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> epath.Path:
    """A random checkpoint of two layers."""
    folder = epath.Path(tmp_path_factory.mktemp("base"))
    write_base(folder)
    return folder


@pytest.fixture(scope="session")
def file_config(base, tmp_path_factory):
    """The small job, on files of a pool and of two targets."""
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return changed(
        small_config(base),
        data__pool=str(folder / "pool.jsonl"),
        data__validation=f"{folder / 'val_plus.jsonl'},{folder / 'val_pick.jsonl.gz'}",
        data__test=f"{folder / 'test_plus.jsonl'},{folder / 'test_pick.jsonl'}",
    )
