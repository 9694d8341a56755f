"""Turns a row of any published shape into messages.

    {"messages": [{"role": "user", "content": "2+2?"}, ...]}     turns, by any name of TURNS
    {"prompt": "2+2?", "completion": "4"}                        by names of PROMPTS and REPLIES
    {"prompt": {"text": "2+2?", "replies": [...]}}               a tree of replies (OASST)

Each row is recognised by itself, from the values that are there: null, NaN and what is empty count
as absent. A system text, a history and a context beside them are part of the conversation.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from g2is_jax.data.messages import Message
from g2is_jax.data.turns import (
    MEDIA_KEYS,
    TOOL_KEYS,
    Remarks,
    content_of,
    has_role,
    read_turns,
    refuse_tools_and_media,
    with_thought,
)
from g2is_jax.data.values import BadRow, is_absent, kind_of, text_of
from g2is_jax.runs.errors import InputError

TURNS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat",
         "items", "contents", "data")  # fmt: skip
PROMPTS = ("prompt", "instruction", "question", "inputs", "query", "problem", "user", "human",
           "user_prompt", "user_input", "input", "source_text")  # fmt: skip
REPLIES = ("completion", "response", "output", "targets", "target", "solution", "outputs", "reply",
           "assistant", "generated_solution", "chosen", "answer")  # fmt: skip
# Part of a conversation or of a record -> the fields that may hold it, first by preference.
NAMES = {
    "messages": TURNS,
    "prompt": PROMPTS,
    "reply": REPLIES,
    "system": ("system", "system_prompt", "system_message"),
    "history": ("history",),
    "context": ("context", "input"),
    "thought": ("reasoning_content", "thinking"),
    "id": ("id",),
    "source": ("source", "family"),
    "task": ("task",),
    "subtask": ("subtask",),
    "answer": ("answer",),
}
UNDESIRED = ("label", "kto_tag")  # false: the reply is one that people did not want
PREFERENCE = 'of a preference pair "chosen" is the reply, "rejected" is not read'
OF_LISTS = "the messages of the prompt are followed by those of the reply"
BEST_PATH = "of a tree of replies the best-ranked path is read, else the first replies"
KNOWN = 'a list "messages", or a prompt and its reply, as "prompt" and "completion"'
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
        self.row = row
        self.by_hand, self._spelled, self._names = _layout(tuple(row), columns)
        self._left = {key for key, value in row.items() if not is_absent(value)}

    def spelled(self, *names: str) -> list[str]:
        """Returns those of some fields that the row has, empty or not, as it spells them."""
        return [self._spelled[name] for name in names if name in self._spelled]

    def names(self, part: str) -> list[str]:
        """Returns the fields that may hold a part, that named by hand before all others."""
        return self._names[part]

    def find(self, part: str) -> str | None:
        """Returns the field that holds a part, of those that are there and were not read yet."""
        return next((key for key in self.names(part) if key in self._left), None)

    def take(self, key: str) -> Any:
        """Returns a field's value, and marks the field as read."""
        self._left.discard(key)
        return self.row[key]

    def empty(self, part: str) -> str | None:
        """Returns the first field of a part that the row has, but without a value."""
        return next((key for key in self.names(part) if is_absent(self.row[key])), None)

    def left(self) -> set[str]:
        """Returns the fields that are there and were not read."""
        return self._left


def read_conversation(fields: Fields, remarks: Remarks) -> tuple[str, tuple[Message, ...]]:
    """Returns the name of a row's shape and its messages; BadRow if it has none that is known."""
    refuse_tools_and_media({key.lower(): fields.row[key] for key in fields.left()}, "")
    for key in fields.spelled(*TOOL_KEYS, *MEDIA_KEYS):
        fields.take(key)  # it says that there are none
    for name in UNDESIRED:
        if fields.row.get(name) is False:
            raise BadRow(f'"{name}" is false, so the reply is one to avoid; leave such rows out')
    readers = [_tree, _turns, _prompt_and_reply]
    if fields.by_hand.keys() & {"prompt", "reply"}:
        readers.reverse()
    found = next((found for read in readers if (found := read(fields, remarks))), None)
    if found is None:
        raise BadRow(_unrecognised(fields))
    shape, messages = found
    messages = _with_context(messages, fields)
    if history := fields.find("history"):
        before = read_turns(fields.take(history), history, remarks)
        first = 1 if messages[0].role == "system" else 0
        messages = [*messages[:first], *before, *messages[first:]]
    return shape, tuple(_with_system(messages, fields))


def _turns(fields: Fields, remarks: Remarks) -> tuple[str, list[Message]] | None:
    """Reads a list of turns; the reply of a preference pair may follow it."""
    lists = [key for key in fields.names("messages") if isinstance(fields.row[key], list)]
    key = next((key for key in lists if key in fields.left()), None)
    if key is None:
        return None
    messages = read_turns(fields.take(key), key, remarks)
    _take_repeated(fields, messages)
    chosen = [key for key in fields.spelled("chosen") if key in fields.left()]
    if messages[-1].role == "user" and chosen:
        messages += _messages(fields, chosen[0], "assistant", remarks)
        return f"{key}/{chosen[0]}", messages
    return key, messages


def _prompt_and_reply(fields: Fields, remarks: Remarks) -> tuple[str, list[Message]] | None:
    """Reads a prompt and its reply, each a text or messages; `chosen` may hold both."""
    asked, replied = fields.find("prompt"), fields.find("reply")
    if replied is None or (asked is None and not _holds_turns(fields.row[replied])):
        return None
    before = _messages(fields, asked, "user", remarks) if asked else []
    reply = _messages(fields, replied, "assistant", remarks)
    said = {message.content.strip() for message in reply}
    whole = reply[0].role != "assistant" and all(m.content.strip() in said for m in before)
    thought = fields.find("thought")
    if thought and reply[-1].role == "assistant":
        text = with_thought(fields.take(thought), reply[-1].content, f'"{thought}"', remarks)
        reply[-1] = dataclasses.replace(reply[-1], content=text)
    if asked and not whole and _holds_turns(fields.row[asked]):
        remarks.notes.add(OF_LISTS)
    shape = f"{asked}/{replied}" if asked else replied
    return shape, reply if whole else [*before, *reply]


def _holds_turns(value: object) -> bool:
    turns = value if isinstance(value, list) else [value]
    return any(isinstance(turn, dict) and has_role(turn) for turn in turns)


def _messages(fields: Fields, key: str, role: str, remarks: Remarks) -> list[Message]:
    """Takes a field that holds a text of this role, or messages."""
    value = fields.take(key)
    if key.lower() == "chosen":
        for rejected in fields.spelled("rejected"):
            fields.take(rejected)
        remarks.notes.add(PREFERENCE)
    if _holds_turns(value):
        return read_turns(value, key, remarks)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    elif isinstance(value, list):
        raise BadRow(f'"{key}" is a list of {len(value)}; keep the one to be read')
    return [Message(role, text_of(value, f'"{key}"'))]


def _tree(fields: Fields, remarks: Remarks) -> tuple[str, list[Message]] | None:
    """Reads the best path of a tree of replies."""
    key = next(iter(fields.spelled("prompt")), "")
    root = fields.row.get(key)
    if not isinstance(root, dict) or "replies" not in root:
        return None
    path = [root]
    while replies := _replies(path[-1]):
        path.append(min(replies, key=_rank))
    messages = read_turns(path, key, Remarks())  # the other fields of a node describe it
    for name in fields.spelled("prompt", "message_tree_id", "tree_state"):
        fields.take(name)
    remarks.notes.add(BEST_PATH)
    return "tree of replies", messages[:-1] if messages[-1].role == "user" else messages


def _replies(node: dict) -> list[dict]:
    replies = node.get("replies")
    if not isinstance(replies, list):
        return []
    return [one for one in replies if isinstance(one, dict) and one.get("deleted") is not True]


def _rank(node: dict) -> float:
    """Returns a reply's rank, 0 the best; replies without one come after those that have it."""
    rank = node.get("rank")
    return rank if isinstance(rank, int | float) and not is_absent(rank) else float("inf")


def _take_repeated(fields: Fields, messages: list[Message]) -> None:
    """Takes the fields that say what a message says already, as a prompt beside the messages."""
    said = {(message.role, message.content.strip()) for message in messages}
    roles = {"system": "system", "prompt": "user", "context": "user", "reply": "assistant"}
    for part, role in roles.items():
        for key in (
            fields.left().intersection(fields.names(part)).difference(fields.names("answer"))
        ):
            text = fields.row[key]
            if isinstance(text, str) and (role, text.strip()) in said:
                fields.take(key)


def _with_context(messages: list[Message], fields: Fields) -> list[Message]:
    """Writes a context below the first question, after an empty line."""
    while key := fields.find("context"):
        value = fields.take(key)
        parts = value if isinstance(value, list) else [value]
        texts = [text_of(part, f'"{key}"') for part in parts]
        first = next((i for i, message in enumerate(messages) if message.role == "user"), None)
        if first is None:
            raise BadRow(f'"{key}" stands beside no question; write one, or leave the row out')
        content = "\n\n".join(filter(None, [messages[first].content, *texts]))
        messages[first] = dataclasses.replace(messages[first], content=content)
    return messages


def _with_system(messages: list[Message], fields: Fields) -> list[Message]:
    """Puts a row's system text first, before that of its messages."""
    key = fields.find("system")
    if key is None:
        return messages
    text, _ = content_of(fields.take(key), f'"{key}"')
    if messages[0].role == "system":
        return [Message("system", f"{text}\n\n{messages[0].content}"), *messages[1:]]
    return [Message("system", text), *messages]


def _unrecognised(fields: Fields) -> str:
    """Says why a row is of no known shape, and the way out."""
    asked, replied = fields.find("prompt"), fields.find("reply")
    turns, empty = fields.find("messages"), fields.empty("messages")
    name = fields.empty("reply")
    if name and not replied and (asked or not (turns or empty)):
        return f'"{name}" is {kind_of(fields.row[name])}; fill it or leave the row out'
    if replied and (name := fields.empty("prompt")):
        return f'"{name}" is {kind_of(fields.row[name])}, so nothing is asked; leave the row out'
    if key := turns or empty:
        return f'"{key}" is {kind_of(fields.row[key])}; expected a list of messages'
    if has_role(fields.row):
        return 'the row is one message; write a whole conversation a row, as a list "messages"'
    if "text" in fields.left():
        return f'only "text", which does not say what is asked and what is the reply; write {KNOWN}'
    if "chosen" in fields.left():
        return '"chosen" stands beside no prompt; write it as messages, or a "prompt" beside it'
    found = ", ".join(f'"{key}"' for key in fields.row) or "none"
    return (
        f"format not recognised, the fields are {found}; a row needs {KNOWN}; "
        "other names are given by data.columns"
    )
