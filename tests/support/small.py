"""Rows and files that a user might give, for the tests of the scripts."""

import gzip
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def row(number: int, **fields) -> dict:
    """A good row, with some fields replaced."""
    messages = [
        {"role": "user", "content": f"Work out: {number} + 1"},
        {"role": "assistant", "content": f"{number} + 1 = {number + 1}. So it is {number + 1}."},
    ]
    return {"id": f"row-{number}", "messages": messages, "answer": str(number + 1)} | fields


def picking(number: int) -> dict:
    """A row of another kind: two numbers are compared."""
    a, b = number, 99 - number
    prompt, reply = f"Which one wins: {a} or {b}", f"The answer is {min(a, b)}."
    return {"prompt": prompt, "completion": reply, "answer": str(min(a, b))}


def write_rows(file: Path, rows: list[dict]) -> Path:
    """Rows as a JSON lines file, compressed if its name says so."""
    data = "".join(json.dumps(record) + "\n" for record in rows).encode()
    file.write_bytes(gzip.compress(data) if file.name.endswith(".gz") else data)
    return file


def write_files(folder: Path) -> None:
    """A pool of 40 rows from three sources, and two targets of 4 validation and 5 test rows."""
    pool = [row(n, source="plus") for n in range(10, 30)]
    for n in range(10, 30):
        pick = picking(n)
        messages = [
            {"role": "user", "content": pick["prompt"]},
            {"role": "assistant", "content": pick["completion"]},
        ]
        pool.append(
            {"messages": messages, "source": "low" if n < 20 else "high", "note": "é \u2028"}
        )
    # A blank line, a row cut before its answer, odd spacing: lines are kept as they are.
    long = row(30, messages=[{"role": "user", "content": "zebra " * 99}, *row(30)["messages"][1:]])
    lines = [json.dumps(record, ensure_ascii=False) for record in [*pool[:7], long, *pool[7:]]]
    lines[3] = lines[3].replace('": ', '" :   ')
    lines.insert(5, "")
    (folder / "pool.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_rows(folder / "val_plus.jsonl", [row(n) for n in range(40, 44)])
    write_rows(folder / "test_plus.jsonl", [row(n) for n in range(50, 55)])
    write_rows(folder / "val_pick.jsonl.gz", [picking(n) for n in range(40, 44)])
    write_rows(folder / "test_pick.jsonl", [picking(n) for n in range(51, 56)])


def stages(workdir: Path) -> list[str]:
    """Names of the stage folders, finished or not."""
    return sorted(entry.name for entry in (workdir / "stages").glob("*"))
