"""The fields of a row by the names under which they are published, or by hand."""

import functools
from collections.abc import Mapping
from typing import Any

from g2is_jax.data.values import BadRow, is_absent
from g2is_jax.runs.errors import InputError

TURNS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat",
         "items", "contents", "data")  # fmt: skip
PROMPTS = ("instruction_with_input", "inputs_pretokenized", "prompt", "instruction", "question",
           "inputs", "query", "problem", "user", "human", "user_prompt", "user_input", "input",
           "source_text", "message_1")  # fmt: skip
REPLIES = ("completion", "response", "output", "targets_pretokenized", "targets", "target",
           "attempt", "solution", "outputs", "reply", "assistant", "generated_solution",
           "message_2", "chosen", "answer")  # fmt: skip
# Part of a conversation or of a record -> the fields that may hold it, first by preference.
NAMES = {
    "messages": TURNS,
    "prompt": PROMPTS,
    "reply": REPLIES,
    "system": ("system", "system_prompt", "system_message"),
    "history": ("history",),
    "definition": ("definition",),
    "context": ("context", "input"),
    "thought": ("reasoning_content", "thinking", "thinking_trajectories"),
    "id": ("id", "uuid", "prompt_id", "conversation_id", "conversation_hash", "idx"),
    "source": ("source", "family", "dataset", "dataset_name", "data_source", "problem_source",
               "instruction_source", "_task_source"),
    "task": ("task",),
    "subtask": ("subtask",),
    "answer": ("answer",),
}  # fmt: skip
Columns = tuple[tuple[str, str], ...]  # (part, field named by hand)


def read_columns(text: str) -> Columns:
    """Reads `data.columns`, as in `prompt=my_q,reply=my_a`; InputError names what is wrong."""
    columns = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        part, equals, name = (piece.strip() for piece in pair.partition("="))
        if not (equals and name) or part not in NAMES or part in columns:
            raise InputError(
                f"data.columns: {pair!r} names no part of a row, or one twice; write for instance "
                f"prompt=my_q,reply=my_a; parts are {', '.join(NAMES)}"
            )
        columns[part] = name
    return tuple(sorted(columns.items()))


@functools.lru_cache(maxsize=1024)
def _layout(
    keys: tuple[str, ...], columns: Columns
) -> tuple[dict[str, str], dict[str, str], dict[str, list[str]]]:
    """Returns the fields named by hand, the spelling of each name, and the fields of each part.

    Most rows of a file have the same fields, for which that is found once.
    """
    by_hand = {part: name for part, name in columns if name in keys}
    spelled = {key.lower(): key for key in keys} | {key: key for key in keys}
    names = {
        part: [spelled[name] for name in known if name in spelled] for part, known in NAMES.items()
    }
    for part, name in by_hand.items():
        names[part].insert(0, name)
    return by_hand, spelled, names


class Fields:
    """The fields of a row that are there, by name in any case, and which of them were read."""

    def __init__(self, row: Mapping[str, Any], columns: Columns):
        self._columns = columns
        self._index(row)

    def _index(self, row: Mapping[str, Any]) -> None:
        self.row = row
        self.by_hand, self._spelled, self._names = _layout(tuple(row), self._columns)
        self._left = {key for key, value in row.items() if not is_absent(value)}

    def spelled(self, *names: str) -> list[str]:
        """Returns those of some fields that the row has, empty or not, as it spells them."""
        return [self._spelled[name] for name in names if name in self._spelled]

    def names(self, part: str) -> list[str]:
        """Returns the fields that may hold a part, that named by hand before all others."""
        return self._names[part]

    def holding(self, part: str) -> list[str]:
        """Returns the fields that may hold a part, of those that are there and not read yet."""
        return [key for key in self.names(part) if key in self._left]

    def find(self, part: str) -> str | None:
        """Returns the first of the fields that may hold a part."""
        return next(iter(self.holding(part)), None)

    def take(self, key: str) -> Any:
        """Returns a field's value, and marks the field as read."""
        self._left.discard(key)
        return self.row[key]

    def empty(self, part: str) -> str | None:
        """Returns the first field of a part that the row has, but without a value."""
        return next((key for key in self.names(part) if is_absent(self.row[key])), None)

    def unfold(self, key: str) -> None:
        """Puts the fields of the one object in a list beside those of the row; not of several."""
        value = self.row.get(key)
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
            rest = {name: self.row[name] for name in self.row if name != key}
            inner = {name: part for name, part in value[0].items() if not is_absent(part)}
            if twice := [name for name in inner if not is_absent(rest.get(name))]:
                raise BadRow(f'"{twice[0]}" stands in the row and in its "{key}"; keep one')
            self._index({**rest, **inner})

    def left(self) -> set[str]:
        """Returns the fields that are there and were not read."""
        return self._left
