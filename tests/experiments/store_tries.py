"""`experiments.forked`, without the waits for an object store."""

import runpy
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

if __name__ == "__main__":
    from object_store import without_waits

    without_waits(pytest.MonkeyPatch())
    runpy.run_module("experiments.forked", run_name="__main__")
