"""What stands in a row beside its turns and belongs to the conversation."""

import dataclasses

from g2is_jax.data.messages import Message
from g2is_jax.data.row_fields import Fields
from g2is_jax.data.turns import Remarks, content_of, read_turns
from g2is_jax.data.values import BadRow, single, text_of


def with_what_is_beside(messages: list[Message], fields: Fields, remarks: Remarks) -> list[Message]:
    """Returns the turns with a row's definition, context, history and system text."""
    messages = _with_definition(_with_context(messages, fields), fields)
    if history := fields.find("history"):
        before = read_turns(fields.take(history), history, remarks)
        first = 1 if messages[0].role == "system" else 0
        messages = [*messages[:first], *before, *messages[first:]]
    return _with_system(messages, fields, remarks)


def _with_definition(messages: list[Message], fields: Fields) -> list[Message]:
    """Writes the definition of a task above the first question, before an empty line."""
    key = fields.find("definition")
    first = next((i for i, message in enumerate(messages) if message.role == "user"), None)
    if key is None or first is None:
        return messages
    text = text_of(single(fields.take(key), key), f'"{key}"')
    messages[first] = dataclasses.replace(
        messages[first], content=f"{text}\n\n{messages[first].content}"
    )
    return messages


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


def _with_system(messages: list[Message], fields: Fields, remarks: Remarks) -> list[Message]:
    """Puts a row's system text first, before that of its messages."""
    key = fields.find("system")
    if key is None:
        return messages
    text, _ = content_of(fields.take(key), f'"{key}"', remarks)
    if messages[0].role == "system":
        return [Message("system", f"{text}\n\n{messages[0].content}"), *messages[1:]]
    return [Message("system", text), *messages]
