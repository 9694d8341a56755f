"""Rows read to messages, for the tests of their shapes."""

import pytest

from g2is_jax.data.formats import read_conversation
from g2is_jax.data.messages import Message, check_turns
from g2is_jax.data.row_fields import Fields, read_columns
from g2is_jax.data.turns import Remarks
from g2is_jax.data.values import BadRow

USER = {"role": "user", "content": "2+2?"}
REPLY = {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "Be brief."}
ASKED, ANSWERED = Message("user", "2+2?"), Message("assistant", "4")
BRIEF = Message("system", "Be brief.")


def read(row: dict, columns: str = "") -> tuple[tuple[Message, ...], Remarks]:
    """Messages of a row, and the remarks on it with all its unread fields."""
    fields, remarks = Fields(row, read_columns(columns)), Remarks()
    _, messages = read_conversation(fields, remarks)
    check_turns(messages)
    remarks.unread |= fields.left()
    return messages, remarks


def messages_of(row: dict, columns: str = "") -> tuple[Message, ...]:
    return read(row, columns)[0]


def failure(row: dict, columns: str = "") -> str:
    with pytest.raises(BadRow) as caught:
        messages_of(row, columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)
