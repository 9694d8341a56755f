"""Turns that are written as one text, or as columns.

"\\n\\nHuman: 2+2?\\n\\nAssistant: 4"                  HH-RLHF; other marks of speakers are in MARKS
"[{\\"role\\": \\"user\\", \\"content\\": \\"2+2?\\"}]"    a list as JSON, or as Python writes it
{"role": ["user"], "content": ["2+2?"]}            columns with an element a turn, as of parquet
"""

import ast
import itertools
import json
import re
import warnings
from collections.abc import Mapping

from g2is_jax.data.messages import ROLES, Message

SYSTEM, USER, ASSISTANT = ROLES
# What begins a turn, and whose, in each way in which transcripts are published.
MARKS = (
    {"\n\nHuman:": USER, "\n\nAssistant:": ASSISTANT},  # HH-RLHF
    {"### Human:": USER, "### Assistant:": ASSISTANT},  # Guanaco
    {"### Instruction:": USER, "### Response:": ASSISTANT},  # Alpaca's prompt and its reply
    {
        "<|im_start|>system\n": SYSTEM,
        "<|im_start|>user\n": USER,
        "<|im_start|>assistant\n": ASSISTANT,
    },
    {"<|system|>": SYSTEM, "<|user|>": USER, "<|assistant|>": ASSISTANT},  # Zephyr, Tulu
    {"[|Human|]": USER, "[|AI|]": ASSISTANT},  # Baize
    {"<human>:": USER, "<bot>:": ASSISTANT},  # OIG
    {"USER:": USER, "ASSISTANT:": ASSISTANT},  # Vicuna
    {"[INST]": USER, "<<SYS>>": SYSTEM, "<</SYS>>": USER, "[/INST]": ASSISTANT},  # Llama 2
)
AROUND = ("<s>", "</s>", "<|im_end|>", "<|endoftext|>")  # what may stand around a turn's text
OBJECTS = re.compile(r"\s*\[\s*\{")  # a list of them


def turns_from_transcript(text: object, opening: bool) -> list[Message] | None:
    """Returns the turns of a text with marks of speakers, without the marks and blanks around.

    opening: the text has to begin with a mark; else what stands before the first one is a system
    text. An empty turn at the end is left out: there a reply is to go. None where the text is no
    transcript.
    """
    if not isinstance(text, str):
        return None
    start = text.lstrip()
    for marks in MARKS:
        if opening and not start.startswith(tuple(mark.lstrip() for mark in marks)):
            continue
        whole = f"\n\n{start}"  # the first turn may lack the line breaks of its mark
        if {USER, ASSISTANT} <= {marks[mark] for mark in marks if mark in whole}:
            before, *turns = _split(whole, marks)
            turns = turns if turns[-1].content else turns[:-1]
            return [before, *turns] if before.content else turns
    return None


def _split(text: str, marks: Mapping[str, str]) -> list[Message]:
    """Returns what stands before the first mark, as a system text, and the turns."""
    before, *pieces = re.split(f"({'|'.join(map(re.escape, marks))})", text)
    roles, texts = [marks[mark] for mark in pieces[::2]], pieces[1::2]
    turns = [Message(SYSTEM, before), *map(Message, roles, texts)]
    turns = [Message(turn.role, _bare(turn.content)) for turn in turns]
    inside = [a.content or b.role != SYSTEM for a, b in itertools.pairwise(turns)]  # of Llama 2
    return [turns[0], *itertools.compress(turns[1:], [*inside[1:], True])]


def _bare(text: str) -> str:
    """Returns a text without the blanks, and the marks of tokenizers, around it."""
    text = text.strip()
    while mark := next((mark for mark in AROUND if text.endswith(mark)), None):
        text = text.removesuffix(mark).rstrip()
    return text.removeprefix("<s>").lstrip()


def turns_from_text(text: str) -> list | None:
    """Returns the list of objects that a text is as JSON, or as Python writes it."""
    if not OBJECTS.match(text):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings(action="ignore"):  # of Python about what looks odd to it
                found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list) else None
    return None


def turns_from_columns(value: Mapping[str, object]) -> list[dict] | None:
    """Returns the turns of an object whose fields are lists of one length, with an element each."""
    columns = [column for column in value.values() if isinstance(column, list)]
    if not columns or len(columns) < len(value) or len({*map(len, columns)}) > 1:
        return None
    return [dict(zip(value, turn, strict=True)) for turn in zip(*columns, strict=True)]
