"""A test file's own `main(folder)` in several processes of one run."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.compilation import many_devices

PROGRAM = """
import importlib.util, sys
from pathlib import Path
from g2is_jax.runs.processes import start
file, folder, coordinator, processes, process = sys.argv[1:]
start(coordinator, int(processes), int(process))
spec = importlib.util.spec_from_file_location("of_a_process", file)
module = importlib.util.module_from_spec(spec)
sys.modules["of_a_process"] = module
spec.loader.exec_module(module)
module.main(Path(folder))
"""


def run_in_processes(file: str, folder: Path, processes: int, devices: int) -> dict:
    """Runs the file's `main` on the folder in each process, of so many virtual devices; returns
    what the first one leaves there in results.json."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    variables = os.environ | many_devices(devices) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, file, str(folder), coordinator, str(processes), str(n)],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(processes)
    ]
    try:
        printed = [process.communicate(timeout=280)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, text in zip(started, printed, strict=True):
        assert process.returncode == 0, text
    return json.loads((folder / "results.json").read_text())
