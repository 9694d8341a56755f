"""Turns in any spelling; marks and thoughts are honoured, and no field is dropped in silence."""

import pytest

from g2is_jax.data.messages import Message
from g2is_jax.data.turns import ROLE_OF, Remarks, read_turns
from g2is_jax.data.values import BadRow
from tests.support.row_shapes import ASKED, REPLY, USER, failure, messages_of, read


@pytest.mark.parametrize("role", ROLE_OF)
def test_roles_by_any_name_and_case(role):
    for spelled in (role, role.upper(), f" {role.capitalize()}"):
        first = {"role": spelled, "content": "a"}
        rest = [] if ROLE_OF[role] == "user" else [USER]
        if ROLE_OF[role] == "assistant":
            found = messages_of({"messages": [USER, first]})[1]
        else:
            found = messages_of({"messages": [first, *rest, REPLY]})[0]
        assert found == Message(ROLE_OF[role], "a")


@pytest.mark.parametrize(
    ("mark", "learned"),
    [
        *(({"weight": value}, False) for value in (0, 0.0, False, "0")),
        *(({key: value}, False) for key in ("train", "loss", "training") for value in (False, 0)),
        ({"masked": True}, False),
        ({"masked": False}, True),
        ({"weight": 1, "train": False}, False),
        ({"weight": 1.0, "train": True, "loss": None}, True),
    ],
)
def test_a_marked_reply_is_not_learned(mark, learned):
    found, remarks = read({"messages": [{**USER, "train": False}, {**REPLY, **mark}, USER, REPLY]})
    assert [message.learned for message in found] == [True, learned, True, True]
    assert remarks.unread == set()


def test_a_mark_that_cannot_be_honoured():
    assert failure({"messages": [USER, {**REPLY, "weight": 0.5}]}).startswith(
        'message 2: "weight" is 0.5; only 0 and 1, true and false are honoured'
    )
    assert read({"messages": [{**USER, "train": True}, REPLY]})[1].unread == {"messages[].train"}
    told = "every assistant message with a text is marked as not learned"
    assert failure({"messages": [USER, {**REPLY, "weight": 0}]}).startswith(told)


def test_thoughts_stand_before_their_reply():
    thought = Message("assistant", "<think>\nHm.\n</think>\n\n4")
    for key in ("reasoning_content", "thinking", "reasoning"):
        assert messages_of({"messages": [USER, {**REPLY, key: "Hm.\n"}]}) == (ASKED, thought)
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "4"}]
    assert messages_of({"messages": [USER, {**REPLY, "content": parts}]}) == (ASKED, thought)
    row = {"prompt": "2+2?", "response": "4", "reasoning_content": "Hm."}
    assert messages_of(row) == (ASKED, thought)
    again = {"role": "assistant", "content": thought.content, "thinking": "Hm."}
    assert messages_of({"messages": [USER, again]}) == (ASKED, thought)


@pytest.mark.parametrize("name", ["name", "tool_calls", "weight", "audio", "mask", "x", "loss"])
@pytest.mark.parametrize("value", ["some text", 7, [1], {"a": 1}])
@pytest.mark.parametrize("at", [0, 1])
def test_no_field_of_a_turn_is_dropped_in_silence(name, value, at):
    both = [dict(USER), dict(REPLY)]
    both[at][name] = value
    try:
        _, remarks = read({"messages": both})
    except BadRow:
        return
    assert remarks.unread == {f"messages[].{name}"}


def test_a_thought_that_its_reply_happens_to_hold_stays():
    turn = {"role": "assistant", "content": "Hello there", "reasoning_content": "Hello"}
    messages = read_turns([{"role": "user", "content": "Hi"}, turn], "messages", Remarks())
    assert messages[-1].content == "<think>\nHello\n</think>\n\nHello there"
