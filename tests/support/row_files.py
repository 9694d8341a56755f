"""Files of rows for the tests of their reader, and the messages with which it fails."""

import json
from pathlib import Path

import pytest

from g2is_jax.data.files import read_records
from g2is_jax.runs.errors import InputError

USER = {"role": "user", "content": "2+2?"}
REPLY = {"role": "assistant", "content": "4"}
GOOD = {"messages": [USER, REPLY]}


def write(folder: Path, *rows: object, name: str = "pool.jsonl") -> Path:
    """Rows as JSON lines; a string is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def failure(path: Path, need_answer: bool = False) -> str:
    """The message, without the folder, that reading the file fails with."""
    with pytest.raises(InputError) as caught:
        read_records(path, need_answer)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(f"{path.parent}/")


def numbered(rows: int, *bad: int) -> list[dict]:
    """Rows that differ, of which some have no reply."""
    return [{"prompt": f"{i}?", "completion": "" if i in bad else f"{i}"} for i in range(rows)]
