"""Turns a row of any published shape into messages.

    {"messages": [{"role": "user", "content": "2+2?"}, ...]}          messages
    {"conversations": [{"from": "human", "value": "2+2?"}, ...]}      ShareGPT
    {"prompt": "2+2?", "completion": "4"}                             prompt and completion
    {"instruction": "Add.", "input": "2 and 2", "output": "4"}        Alpaca; "input" may be absent

`place` is where a row stands, as errors name it: `pool.jsonl:418`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from g2is_jax.runs.errors import InputError

ROLES = ("system", "user", "assistant")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str  # one of ROLES
    content: str


Format = Callable[[dict, str], tuple[Message, ...]]  # (row, place) -> messages


def recognise(row: dict, place: str) -> Format:
    """Returns the format whose fields the row has; InputError if it has those of none."""
    for keys, read in FORMATS.items():
        if all(key in row for key in keys):
            return read
    found = ", ".join(f'"{key}"' for key in row) or "none"
    raise InputError(
        f"{place}: format not recognised, the fields are {found}; a row needs "
        '"messages", or "conversations", or "prompt" and "completion", '
        'or "instruction" and "output"'
    )


def from_messages(row: dict, place: str) -> tuple[Message, ...]:
    """Reads a row of `messages` with `role` and `content`."""
    roles = {role: role for role in ROLES}
    return _turns(row, "messages", "role", "content", roles, place)


def from_sharegpt(row: dict, place: str) -> tuple[Message, ...]:
    """Reads a row of `conversations` with `from` and `value`."""
    return _turns(row, "conversations", "from", "value", SHAREGPT_ROLES, place)


def from_prompt(row: dict, place: str) -> tuple[Message, ...]:
    """Reads a row with `prompt` and `completion`."""
    return (
        Message("user", text_field(row, "prompt", place)),
        Message("assistant", text_field(row, "completion", place)),
    )


def from_alpaca(row: dict, place: str) -> tuple[Message, ...]:
    """Reads a row with `instruction` and `output`; an `input` follows after an empty line."""
    prompt = text_field(row, "instruction", place)
    if row.get("input") is not None and (extra := text_field(row, "input", place)):
        prompt = f"{prompt}\n\n{extra}"
    return Message("user", prompt), Message("assistant", text_field(row, "output", place))


# Fields by which a row is recognised -> its format; the first whose fields are all there.
FORMATS: dict[tuple[str, ...], Format] = {
    ("messages",): from_messages,
    ("conversations",): from_sharegpt,
    ("prompt", "completion"): from_prompt,
    ("instruction", "output"): from_alpaca,
}


def _turns(
    row: dict, field: str, role_key: str, text_key: str, roles: dict[str, str], place: str
) -> tuple[Message, ...]:
    """Reads the list of turns in a field of the row; roles: a role there -> one of ROLES."""
    if field not in row:
        raise InputError(f'{place}: no "{field}"; the first row has it, so every row needs it')
    turns = row[field]
    if not isinstance(turns, list) or not turns:
        found = "empty" if turns == [] else kind_of(turns)
        raise InputError(f'{place}: "{field}" is {found}; expected a list of messages')
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise InputError(
                f"{place}: message {number} is {kind_of(turn)}; "
                f'expected an object with "{role_key}" and "{text_key}"'
            )
        for key in (role_key, text_key):
            if key not in turn:
                raise InputError(
                    f'{place}: message {number} has no "{key}"; '
                    f'every message needs "{role_key}" and "{text_key}"'
                )
        role = turn[role_key]
        if not isinstance(role, str) or role not in roles:
            raise InputError(
                f'{place}: message {number} has the unknown "{role_key}" {role!r}; '
                f"known are {', '.join(roles)}"
            )
        messages.append(
            Message(roles[role], text_field(turn, text_key, f"{place}: message {number}"))
        )
    return tuple(messages)


def check_turns(messages: tuple[Message, ...], place: str) -> None:
    """Checks that user and assistant alternate after at most one system message, and that some text
    is to be learned."""
    roles = [message.role for message in messages]
    first = 1 if roles[0] == "system" else 0
    for index in range(first, len(roles)):
        expected = "user" if (index - first) % 2 == 0 else "assistant"
        if roles[index] != expected:
            raise InputError(
                f"{place}: message {index + 1} is from {roles[index]}, expected {expected}; "
                "an optional system message comes first, then user and assistant in turn"
            )
    if "assistant" not in roles:
        raise InputError(f"{place}: no assistant message; there is nothing to learn from this row")
    if not any(message.content.strip() for message in messages if message.role == "assistant"):
        raise InputError(
            f"{place}: no assistant message has any text; fill it or leave the row out"
        )


def text_field(row: dict, key: str, place: str) -> str:
    """Returns a field's text; InputError where it is absent, no string or not whole characters."""
    if key not in row:
        raise InputError(f'{place}: no "{key}"; the first row has it, so every row needs it')
    text = row[key]
    if not isinstance(text, str):
        raise InputError(f'{place}: "{key}" is {kind_of(text)}; expected a string')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f'{place}: "{key}" holds half of a surrogate pair (character {error.start + 1}); '
            "write the whole character"
        ) from error
    return text


def kind_of(value: object) -> str:
    """Names the kind of a JSON value, for an error message."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    return (
        "null"
        if value is None
        else names.get(type(value), "an object" if isinstance(value, dict) else "a list")
    )
