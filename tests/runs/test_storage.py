import errno
import os

import pytest

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import atomic_stream, naming_failures, write_atomic


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_the_system_refuses_is_named():
    with pytest.raises(IsADirectoryError), naming_failures("x"):
        raise IsADirectoryError(errno.EISDIR, "no")
    with pytest.raises(InputError, match="file: Permission denied; allow it"), naming_failures("x"):
        raise PermissionError(errno.EACCES, "no", "file")
    with pytest.raises(BrokenPipeError), naming_failures("gs://bucket"):
        raise BrokenPipeError
    with pytest.raises(InputError, match="disk full while writing x"), naming_failures("x"):
        raise ValueError("RESOURCE_EXHAUSTED: write: No space left on device")  # tensorstore
    inner = pytest.raises(InputError, match="disk full while writing a: free")
    with inner, naming_failures("b"), naming_failures("a"):
        no_space()


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    write_atomic(file, "old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match=r"disk full while writing .*a\.txt"):
        write_atomic(file, "new")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("a.txt", "old")]
    monkeypatch.undo()
    os.link(file, tmp_path / "opened before")
    write_atomic(file, b"\xff")
    assert file.read_bytes() == b"\xff"
    assert (tmp_path / "opened before").read_text() == "old"


def write_half(file):
    with atomic_stream(file) as stream:
        stream.write(b"half")
        no_space()


def test_atomic_stream_leaves_no_trace_of_an_error(tmp_path):
    """Nor is anything under the file's own name before the block has ended."""
    file = tmp_path / "a.npy"
    with pytest.raises(InputError, match=r"disk full while writing .*a\.npy"):
        write_half(file)
    assert list(tmp_path.iterdir()) == []
    with atomic_stream(file) as stream:
        stream.write(b"whole")
        assert not file.exists()
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [
        (file.name, b"whole")
    ]
