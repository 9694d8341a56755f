"""`forks.py`, without the waits for an object store."""

import runpy
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

if __name__ == "__main__":
    from object_store import without_waits

    without_waits(pytest.MonkeyPatch())
    runpy.run_path(str(HERE / "forks.py"), run_name="__main__")
