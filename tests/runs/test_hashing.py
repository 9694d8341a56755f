"""A file's hash is of its bytes, and of samples of them where it is large."""

import hashlib
import time

import pytest

from g2is_jax.runs import hashing
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.hashing import file_hash


def test_file_hash(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    data = bytes(range(256)) * 20_000
    file.write_bytes(data)
    assert file_hash(file) == hashlib.sha256(data).hexdigest()
    with pytest.raises(InputError) as refused:
        file_hash(tmp_path / "none")
    assert str(refused.value).startswith(f"{tmp_path}/none: no such file")

    monkeypatch.setattr(hashing, "WHOLE_BYTES", 1_000_000)
    monkeypatch.setattr(hashing, "SAMPLE_BYTES", 1000)
    sampled = file_hash(file)
    for changed in (b"x" + data[1:], data[:-1] + b"x", data + b"x"):
        file.write_bytes(changed)
        assert file_hash(file) != sampled
    file.write_bytes(data)
    assert file_hash(file) == sampled


def test_large_file_is_not_read_whole(tmp_path):
    file = tmp_path / "huge"
    with file.open("wb") as stream:
        stream.truncate(40 * 2**30)  # sparse
    started = time.monotonic()
    file_hash(file)
    assert time.monotonic() - started < 5
