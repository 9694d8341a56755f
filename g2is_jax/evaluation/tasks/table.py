"""The table of tasks, and the eval sets that they make of test rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from etils import epath

from g2is_jax.data.files import Record
from g2is_jax.data.messages import Message
from g2is_jax.evaluation.tasks.prompts import check_letters, choose_shots, lettered, replied
from g2is_jax.evaluation.tasks.reply_metrics import ACCURACY, METRICS
from g2is_jax.runs.errors import InputError


@dataclass(frozen=True)
class Task:
    """Says how a row is asked, and how the reply is judged.

    shots: worked rows before it. turns: how a worked row is written. metrics: of the generated
    reply, in METRICS; the first is the main one. letters: where there are some, no reply is
    generated: the likeliest of them is the answer, and the metric is their accuracy.
    """

    name: str
    shots: int
    turns: Callable[[Record], tuple[Message, ...]]
    metrics: tuple[str, ...]
    letters: str


# GPQA's choices are shuffled as its rows are written, by each row's own text (fetch_task).
TASKS = {
    task.name: task
    for task in (
        Task("answer", 0, replied, ("exact_match",), letters=""),
        Task("gsm8k", 8, replied, ("strict", "flexible"), letters=""),
        Task("math", 4, replied, ("mathematics",), letters=""),
        Task("bbh", 3, replied, ("stated",), letters=""),
        Task("mmlu", 5, lettered, (ACCURACY,), letters="ABCD"),
        Task("gpqa", 0, lettered, (ACCURACY,), letters="ABCD"),
        Task("gpqa_5shot", 5, lettered, (ACCURACY,), letters="ABCD"),
    )
}


def named_task(name: str) -> Task:
    """Returns a task of TASKS, or for a metric's name a task of rows as they stand."""
    if name in TASKS:
        return TASKS[name]
    if name in METRICS:
        return Task(name, 0, replied, (name,), letters="")
    raise InputError(
        f"evaluate.tasks: {name!r} is unknown; choose from the tasks {', '.join(TASKS)}, or for "
        f"rows of your own from the metrics {', '.join(METRICS)}"
    )


@dataclass(frozen=True)
class EvalSet:
    """Holds the test rows of a task, and the worked rows that are shown before each."""

    task: Task
    records: Sequence[Record]
    shots: Sequence[Sequence[Record]]


def make_eval_set(
    task: Task,
    records: Sequence[Record],
    test_file: epath.PathLike,
    worked: Sequence[Record],
    worked_file: epath.PathLike,
) -> EvalSet:
    """Gives each test row its shots; InputError where a file lacks what the task asks."""
    shots = choose_shots(records, worked, task.shots, worked_file)
    if task.letters:
        check_letters(records, task.letters, test_file)
        shown = {row.row: row for rows in shots for row in rows}
        check_letters(list(shown.values()), task.letters, worked_file)
    return EvalSet(task, records, shots)
