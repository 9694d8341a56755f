"""A test file's own `main(folder)` on eight virtual devices, in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.compilation import many_devices


def run_on_eight_devices(file: str, folder: Path) -> dict:
    """Runs the file as a script on the folder; returns what it leaves there in results.json."""
    paths = [str(path) for path in (Path(file).parent, Path(__file__).parents[2])]
    done = subprocess.run(
        [sys.executable, "-W", "error", file, str(folder)],
        env=os.environ | many_devices(8) | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())
