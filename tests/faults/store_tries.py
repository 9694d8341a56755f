"""`tests.support.forked`, without the waits for an object store."""

import runpy

import pytest

if __name__ == "__main__":
    from tests.support.object_store import without_waits

    without_waits(pytest.MonkeyPatch())
    runpy.run_module("tests.support.forked", run_name="__main__")
