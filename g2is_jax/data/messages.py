"""The turns that a row becomes, and what they must be to be learned from."""

from collections.abc import Sequence
from dataclasses import dataclass

from g2is_jax.data.values import BadRow

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str  # one of ROLES
    content: str
    learned: bool = True  # of an assistant's turn: it counts in the loss


def check_turns(messages: Sequence[Message]) -> None:
    """Checks that user and assistant alternate after at most one system message, and that some text
    is to be learned."""
    roles = [message.role for message in messages]
    first = 1 if roles[:1] == ["system"] else 0
    for index in range(first, len(roles)):
        expected = "user" if (index - first) % 2 == 0 else "assistant"
        if roles[index] != expected:
            raise BadRow(
                f"message {index + 1} is from {roles[index]}, expected {expected}; "
                "an optional system message comes first, then user and assistant in turn"
            )
    replies = [message for message in messages if message.role == "assistant"]
    if not replies:
        raise BadRow("no assistant message; there is nothing to learn from this row")
    if not any(reply.content.strip() for reply in replies):
        raise BadRow("no assistant message has any text; fill it or leave the row out")
    if not any(reply.content.strip() for reply in replies if reply.learned):
        raise BadRow("every assistant message with a text is marked as not learned; leave it out")
