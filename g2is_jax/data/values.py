"""Values of a row's fields: which are there, and the text of those that stand for one."""

import json
import math
from typing import TypeAlias


class BadRow(ValueError):
    """A row cannot be learned from; the message says why and the way out, and not where."""


Row: TypeAlias = tuple[int, bytes | BadRow]  # its 1-based line or number, its JSON in one line


def is_absent(value: object) -> bool:
    """Tells whether a value says nothing: null, NaN, or an empty text, list or object."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str | list | dict) and not value)
    )


def text_of(value: object, name: str) -> str:
    """Returns a text, or a number as text; BadRow for anything else and for broken characters."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    if not isinstance(value, str):
        raise BadRow(f"{name} is {kind_of(value)}; expected a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(
            f"{name} holds half of a surrogate pair (character {error.start + 1}); "
            "write the whole character"
        ) from error
    return value


def single(value: object, key: str) -> object:
    """Returns a value, or that of a list of one."""
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise BadRow(f'"{key}" is a list of {len(value)}; keep the one to be read')
    return value[0]


def label_of(value: object, name: str) -> str:
    """Returns a value as a label: a scalar as text, a list joined by commas, an object as JSON."""
    if isinstance(value, list):
        return ",".join(label_of(part, name) for part in value)
    if isinstance(value, bool | dict):
        return json.dumps(value, sort_keys=True)
    return text_of(value, name)


def kind_of(value: object) -> str:
    """Names the kind of a JSON value, for an error message."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    if value is None or is_absent(value):
        return "null" if value is None else "NaN" if isinstance(value, float) else "empty"
    return names.get(type(value), "an object" if isinstance(value, dict) else "a list")


def not_utf8(error: UnicodeDecodeError) -> str:
    """Says which byte is wrong, and the way out."""
    return f"byte 0x{error.object[error.start]:02x} is not UTF-8; convert the file to UTF-8"
