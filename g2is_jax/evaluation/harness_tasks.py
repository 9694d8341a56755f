"""Settings of EleutherAI's lm-evaluation-harness, and the scores in its results.

It is not imported here, so that settings can be read where it is not installed.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.hashing import file_hash


@dataclass(frozen=True)
class HarnessConfig:
    """Settings of the harness.

    tasks: names of tasks, groups or tags; empty: the harness is not used.

    include: local folder of YAML files of further tasks, with Python code that is run; "": none.
    shots: examples before each question; -1: the task's own number. limit: the first rows of each
    task alone; 0: all. chat: prompts are conversations in the model's chat template.
    """

    tasks: tuple[str, ...]
    include: str
    shots: int
    limit: int
    chat: bool

    def __post_init__(self):
        for field, value, least in (("shots", self.shots, -1), ("limit", self.limit, 0)):
            if value < least:
                raise InputError(f"harness_{field} = {value}; it must be at least {least}")
        if self.include and not Path(self.include).is_dir():
            raise InputError(
                f"harness_include = {self.include}: no such folder; give one with the tasks' YAML "
                "files, or leave it empty"
            )

    def digest(self) -> str:
        """Hashes all files in the folder: data and code stand beside the YAML files."""
        if not self.include:
            return ""
        lines = []
        for file in Path(self.include).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                lines.append(f"{file.relative_to(self.include)} {file_hash(file)}\n")
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def read_metrics(results: dict) -> tuple[dict[str, float], list[str]]:
    """Returns metrics named `task/metric`, and the names of those where less is better.

    The parts of a group that has metrics of its own are left out. A metric that is read in several
    ways is named after its filter too: `gsm8k/exact_match,strict-match`.
    """
    found = {task: _numbers(reported) for task, reported in results["results"].items()}
    groups = results["group_subtasks"]
    parts = {part for group in groups if found.get(group) for part in groups[group]}
    named, falling = {}, []
    for task in [task for task in found if task not in parts]:
        rising = results["higher_is_better"].get(task, {})
        for key, value in found[task].items():
            name = f"{task}/{key.removesuffix(',none')}"
            named[name] = value
            if rising.get(key.partition(",")[0]) is False:
                falling.append(name)
    return named, falling


def _numbers(reported: dict[str, Any]) -> dict[str, float]:
    """Keeps the values of `metric,filter`, among `metric_stderr,filter`, names and counts."""
    return {
        key: float(value)
        for key, value in reported.items()
        if "," in key and "_stderr," not in key and isinstance(value, int | float)
    }
