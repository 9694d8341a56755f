"""Texts on the disk come back as they were written."""

import gc
import os

import pytest

from g2is_jax.data.lines import LineFile
from g2is_jax.runs.errors import InputError

TEXTS = [b"first", b"", "é\n漢".encode(), b"x" * 100_000, b"last"]


@pytest.fixture
def lines():
    written = LineFile()
    for text in TEXTS:
        written.add(text)
    return written.lines()


def test_each_text_by_its_place(lines):
    assert list(lines) == TEXTS
    assert lines[-1] == b"last"
    assert list(lines[1:3]) == TEXTS[1:3]
    assert list(lines.take([3, 0])) == [TEXTS[3], TEXTS[0]]
    with pytest.raises(IndexError):
        lines[5]


def test_the_file_is_closed_with_the_last_that_reads_it():
    written = LineFile()
    written.add(b"one")
    file, some = written.file, written.lines().take([0])
    del written
    gc.collect()
    assert some[0] == b"one"
    del some
    gc.collect()
    assert file.closed


def test_a_full_disk_is_named(monkeypatch):
    written = LineFile()

    def refuse(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(written, "file", type("Full", (), {"write": staticmethod(refuse)})())
    with pytest.raises(InputError, match=r"disk full while writing .* \(TMPDIR names another"):
        written.add(b"x")
