"""Rows of the four published shapes become the same messages; a bad one is named by its field."""

import pytest

from g2is_jax.data.formats import Message, check_turns, recognise
from g2is_jax.runs.errors import InputError

PLACE = "pool.jsonl:2"
USER = {"role": "user", "content": "2+2?"}
REPLY = {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "Be brief."}
GOOD = {"messages": [USER, REPLY]}


def messages_of(row: dict, first: dict | None = None) -> tuple[Message, ...]:
    """The messages of a row of a file that begins with `first`."""
    read = recognise(row if first is None else first, PLACE)
    messages = read(row, PLACE)
    check_turns(messages, PLACE)
    return messages


def failure(row: dict, first: dict | None = None) -> str:
    with pytest.raises(InputError) as caught:
        messages_of(row, first)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, REPLY]},
        {"prompt": "2+2?", "completion": "4"},
        {"instruction": "2+2?", "output": "4"},
        {"instruction": "2+2?", "input": "", "output": "4"},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"conversations": [{"from": "user", "value": "2+2?"}, {"from": "assistant", "value": "4"}]},
    ],
)
def test_four_formats_read_alike(row):
    assert messages_of(row) == (Message("user", "2+2?"), Message("assistant", "4"))


def test_alpaca_input_follows_after_an_empty_line():
    row = {"instruction": "Add.", "input": "2 and 2", "output": "4"}
    assert messages_of(row)[0].content == "Add.\n\n2 and 2"


def test_system_and_several_turns():
    row = {"messages": [SYSTEM, USER, {"role": "assistant", "content": ""}, USER, REPLY]}
    roles = [message.role for message in messages_of(row)]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def with_messages(*messages: object) -> dict:
    return {"messages": list(messages)}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a", "completion": "b"}, 'pool.jsonl:2: no "messages"; the first row has it'),
        (with_messages(), 'pool.jsonl:2: "messages" is empty'),
        ({"messages": "hi"}, 'pool.jsonl:2: "messages" is a string; expected a list'),
        ({"messages": {}}, 'pool.jsonl:2: "messages" is an object; expected a list'),
        (with_messages(USER, "4"), "pool.jsonl:2: message 2 is a string; expected an object"),
        (
            with_messages(USER, {"role": "assistant"}),
            'pool.jsonl:2: message 2 has no "content"; every message needs "role" and "content"',
        ),
        (with_messages(USER, {"content": "4"}), 'pool.jsonl:2: message 2 has no "role"'),
        (
            with_messages(USER, {"role": "assistant", "content": None}),
            'pool.jsonl:2: message 2: "content" is null; expected a string',
        ),
        (
            with_messages(USER, {"role": "assistant", "content": [{"text": "4"}]}),
            'pool.jsonl:2: message 2: "content" is a list; expected a string',
        ),
        (
            with_messages(USER, {"role": "bot", "content": "4"}),
            "pool.jsonl:2: message 2 has the unknown \"role\" 'bot'; "
            "known are system, user, assistant",
        ),
        (with_messages({"role": [], "content": "4"}), "pool.jsonl:2: message 1 has the unknown"),
        (
            with_messages(REPLY, USER),
            "pool.jsonl:2: message 1 is from assistant, expected user",
        ),
        (with_messages(USER, USER), "pool.jsonl:2: message 2 is from user, expected assistant"),
        (
            with_messages(USER, REPLY, SYSTEM),
            "pool.jsonl:2: message 3 is from system, expected user",
        ),
        (with_messages(SYSTEM, REPLY), "pool.jsonl:2: message 2 is from assistant, expected user"),
        (with_messages(USER), "pool.jsonl:2: no assistant message"),
        (with_messages(SYSTEM), "pool.jsonl:2: no assistant message"),
        (
            with_messages(USER, {"role": "assistant", "content": " \n"}),
            "pool.jsonl:2: no assistant message has any text",
        ),
        (
            with_messages({"role": "user", "content": "a\ud800"}),
            'pool.jsonl:2: message 1: "content" holds half of a surrogate pair (character 2)',
        ),
    ],
)
def test_bad_row_is_named(row, expected):
    assert failure(row, first=GOOD).startswith(expected)


@pytest.mark.parametrize(
    ("first", "bad", "expected"),
    [
        (
            {"prompt": "a", "completion": "b"},
            {"prompt": "a"},
            'pool.jsonl:2: no "completion"; the first row has it',
        ),
        (
            {"instruction": "a", "output": "b"},
            {"instruction": "a", "input": 3, "output": "b"},
            'pool.jsonl:2: "input" is a number',
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            {"conversations": [{"from": "human", "value": "a"}, {"from": "tool", "value": "b"}]},
            "pool.jsonl:2: message 2 has the unknown \"from\" 'tool'; "
            "known are system, human, user, gpt, assistant",
        ),
    ],
)
def test_bad_row_of_the_other_formats(first, bad, expected):
    assert failure(bad, first).startswith(expected)


def test_unknown_format_lists_what_was_found():
    message = failure({"question": "a", "prompt": "b"})
    assert message.startswith(
        'pool.jsonl:2: format not recognised, the fields are "question", "prompt"; a row needs '
    )
