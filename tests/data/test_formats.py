"""Rows of every published shape become the same messages; a bad one is named by its field."""

import itertools
import json

import pytest

from g2is_jax.data.formats import BEST_PATH, OF_LISTS, PREFERENCE
from g2is_jax.data.messages import Message
from g2is_jax.data.row_fields import PROMPTS, REPLIES, TURNS, read_columns
from g2is_jax.data.turns import IN_TURN, NOT_LEARNED, THOUGHTS
from g2is_jax.data.values import BadRow
from g2is_jax.runs.errors import InputError
from tests.support.row_shapes import (
    ANSWERED,
    ASKED,
    BRIEF,
    REPLY,
    SYSTEM,
    USER,
    failure,
    messages_of,
    read,
)

NAN = float("nan")


def turns(first: str, second: str, role: str = "role", text: str = "content") -> list[dict]:
    return [{role: first, text: "2+2?"}, {role: second, text: "4"}]


# The shapes.


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value"), ("Role", "text")])
def test_turns_by_any_name_and_spelling(name, keys):
    assert messages_of({name: turns("human", "gpt", *keys)}) == (ASKED, ANSWERED)


@pytest.mark.parametrize(("asked", "replied"), [*itertools.product(PROMPTS, REPLIES)])
def test_any_prompt_with_any_reply(asked, replied):
    assert messages_of({asked: "2+2?", replied: "4"}) == (ASKED, ANSWERED)
    assert messages_of({asked.upper(): "2+2?", replied.capitalize(): "4"}) == (ASKED, ANSWERED)


@pytest.mark.parametrize("absent", [None, NAN, "", [], {}])
def test_values_that_are_there_name_the_shape(absent):
    assert messages_of({"messages": absent, "instruction": "2+2?", "output": "4"}) == (
        ASKED,
        ANSWERED,
    )
    row = {"prompt": absent, "question": "2+2?", "completion": absent, "answer": "4"}
    assert messages_of(row | {"input": absent, "system": absent, "history": absent}) == (
        ASKED,
        ANSWERED,
    )


@pytest.mark.parametrize(
    "row",
    [
        {"data": ["2+2?", "4"]},
        {"conversations": [["2+2?", "4"]]},
        {"conversation": [{"input": "2+2?", "output": "4"}]},
        {"conversation": [{"human": "2+2?", "assistant": "4"}]},
        {"messages": [{**USER, "content": [{"type": "text", "text": "2+"}, "2?"]}, REPLY]},
        {"contents": [{"role": "user", "parts": [{"text": "2+2?"}]},
                      {"role": "model", "parts": [{"text": "4"}]}]},
        {"prompt": [USER], "completion": [REPLY]},
        {"prompt": [USER], "completion": "4"},
        {"prompt": "2+2?", "chosen": [USER, REPLY], "rejected": [USER, REPLY]},
        {"chosen": [USER, REPLY], "rejected": [USER, REPLY]},
        {"conversations": [{"from": "human", "value": "2+2?"}],
         "chosen": {"from": "gpt", "value": "4"}, "rejected": {"from": "gpt", "value": "5"}},
        {"instruction": "", "input": "2+2?", "output": "4"},
        {"question": "2+2?", "output": ["4"]},
        {"question": "2+2?", "output": 4},
    ],
)  # fmt: skip
def test_other_shapes(row):
    assert messages_of(row) == (ASKED, ANSWERED)


@pytest.mark.parametrize(
    ("row", "note"),
    [
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, PREFERENCE),
        ({"prompt": [USER], "completion": [REPLY]}, OF_LISTS),
        ({"data": ["2+2?", "4"]}, IN_TURN),
        ({"messages": [USER, {**REPLY, "weight": 0}, USER, REPLY]}, NOT_LEARNED),
        ({"messages": [USER, {**REPLY, "thinking": "Hm."}]}, THOUGHTS),
    ],
)
def test_a_reading_that_could_surprise_is_noted(row, note):
    _, remarks = read(row)
    assert (remarks.notes, remarks.unread) == ({note}, set())


def node(role: str, text: str, *replies: dict, **fields: object) -> dict:
    return {"role": role, "text": text, "replies": list(replies), **fields}


def test_a_tree_s_best_ranked_path_or_its_first():
    best = node("assistant", "4", node("prompter", "Sure?"), rank=0)
    worse = node("assistant", "5", rank=1)
    gone, unranked = node("assistant", "6", rank=-1, deleted=True), node("assistant", "7")
    row = {"message_tree_id": "a", "tree_state": "x"}
    tree = row | {"prompt": node("prompter", "2+2?", unranked, worse, gone, best)}
    found, remarks = read(tree)
    assert found == (ASKED, ANSWERED)
    assert (remarks.notes, remarks.unread) == ({BEST_PATH}, set())
    tree = row | {"prompt": node("prompter", "2+2?", node("assistant", "4"), unranked)}
    assert messages_of(tree) == (ASKED, ANSWERED)


# What stands beside the turns.


def test_alpaca_input_follows_after_an_empty_line():
    row = {"instruction": "Add.", "input": "2 and 2", "output": "4"}
    assert messages_of(row)[0].content == "Add.\n\n2 and 2"
    both = {"question": "Who?", "context": ["Ann came.", "Bob left."], "answer": "Ann"}
    assert messages_of(both)[0].content == "Who?\n\nAnn came.\n\nBob left."
    beside = {"messages": [SYSTEM, USER, REPLY], "context": "Sums."}
    assert messages_of(beside)[:2] == (BRIEF, Message("user", "2+2?\n\nSums."))


@pytest.mark.parametrize("name", ["system", "system_prompt", "System_Message"])
def test_a_system_text_comes_first(name):
    for row in ({"messages": [USER, REPLY]}, {"prompt": "2+2?", "response": "4"}):
        assert messages_of({**row, name: "Be brief."}) == (BRIEF, ASKED, ANSWERED)
    assert messages_of({"messages": [SYSTEM, USER, REPLY], name: "Be brief."})[0] == BRIEF
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
    assert messages_of({"messages": [USER, REPLY], name: parts})[0] == BRIEF
    found = messages_of({"messages": [SYSTEM, USER, REPLY], name: "Be kind."})
    assert found[0].content == "Be kind.\n\nBe brief."


def test_a_definition_stands_before_the_question():
    for definition in ("Add.", ["Add."]):
        row = {"definition": definition, "inputs": "2 and 2", "targets": "4"}
        assert messages_of(row)[0].content == "Add.\n\n2 and 2"
    assert failure({**row, "definition": ["Add.", "Sum."]}).startswith('"definition" is a list')


def test_the_one_of_the_instances_is_read_with_its_row():
    row = {"instruction": "Add.", "instances": [{"input": "2 and 2", "output": "4", "x": 1}]}
    found, remarks = read(row)
    assert [message.content for message in found] == ["Add.\n\n2 and 2", "4"]
    assert remarks.unread == {"x"}
    two = {**row, "instances": row["instances"] * 2}
    assert failure(two).startswith('"instances" is a list; write each of them as a row')


def test_a_prompt_that_holds_its_reply_is_not_read():
    rendered = "Below is a task.\n\n### Instruction:\n2+2?\n\n### Response:\n4"
    found, remarks = read({"prompt": rendered, "instruction": "2+2?", "output": "4"})
    assert found == (ASKED, ANSWERED)
    assert remarks.unread == {"prompt"}
    row = {"prompt": rendered, "instruction": "2+2?", "output": "4"}
    assert messages_of(row, "prompt=prompt")[0].content == rendered
    twice = {"prompt": rendered, "instruction": rendered, "output": "4"}
    assert messages_of(twice)[0].content == rendered


def test_turns_that_end_in_a_question_are_followed_by_the_reply():
    for name in ("solution", "response", "completion"):
        found, remarks = read({"messages": [SYSTEM, USER], name: "4", "reasoning_content": "Hm."})
        assert found[:2] == (BRIEF, ASKED)
        assert found[2].content == "<think>\nHm.\n</think>\n\n4"
        assert remarks.unread == set()
    assert read({"messages": [USER, REPLY], "response": "5"})[1].unread == {"response"}
    gold = {"messages": [USER], "answer": "4"}
    assert failure(gold).startswith("no assistant message; there is nothing to learn")
    assert messages_of(gold, "reply=answer") == (ASKED, ANSWERED)


def test_a_source_is_the_prompt_where_nothing_else_is_beside_a_target():
    assert messages_of({"source": "2+2?", "target": "4"}) == (ASKED, ANSWERED)
    found, remarks = read({"source": "sums", "question": "2+2?", "target": "4"})
    assert (found, remarks.unread) == ((ASKED, ANSWERED), {"source"})  # it is the label


def test_history_comes_before_the_prompt():
    row = {"instruction": "2+2?", "output": "4", "system": "Be brief.", "history": [["a", "b"]]}
    assert messages_of(row) == (
        BRIEF, Message("user", "a"), Message("assistant", "b"), ASKED, ANSWERED
    )  # fmt: skip
    assert messages_of({**row, "history": turns("user", "assistant")})[1:3] == (ASKED, ANSWERED)


GOOD_ROWS = [
    {"messages": [USER, REPLY]},
    {"prompt": "2+2?", "completion": "4"},
    {"instruction": "2+2?", "input": "", "output": "4"},
    {"prompt": [USER], "completion": [REPLY]},
    {"prompt": node("prompter", "2+2?", node("assistant", "4"))},
]
ADDED = [
    "system", "system_prompt", "history", "context", "input", "weight", "label", "score", "tools",
    "functions", "images", "category", "reasoning_content", "thinking", "rejected", "chosen",
    "reference", "text", "question", "solution", "loss", "train", "mask", "reward", "turns", "x",
]  # fmt: skip


@pytest.mark.parametrize("row", GOOD_ROWS, ids=lambda row: "/".join(row))
@pytest.mark.parametrize("name", ADDED)
@pytest.mark.parametrize("value", ["some text", 7, False, [["a", "b"]], {"a": "b"}])
def test_no_field_is_dropped_in_silence(row, name, value):
    usual = read(row)[1].notes
    try:
        found, remarks = read({**row, name: value})
    except BadRow:
        return
    told = name in remarks.unread or remarks.notes - usual
    none = name in ("tools", "functions", "images") and value is False
    assert told or none or found != (ASKED, ANSWERED)


def test_a_field_that_repeats_a_message_is_no_news():
    assert read({"messages": [USER, REPLY], "prompt": "2+2?", "output": " 4"})[1].unread == set()
    assert read({"messages": [USER, REPLY], "prompt": "4"})[1].unread == {"prompt"}
    assert messages_of({"instruction": "Repeat.", "input": "4", "output": "4"})[0].content == (
        "Repeat.\n\n4"
    )


# Fields named by hand.


def test_fields_named_by_hand():
    columns = "prompt=my_q,reply=my_a, system = sys"
    row = {"my_q": "2+2?", "my_a": "4", "sys": "Be brief."}
    assert messages_of(row, columns) == (BRIEF, ASKED, ANSWERED)
    found, remarks = read(row | {"messages": [USER], "prompt": "other"}, columns)
    assert found == (BRIEF, ASKED, ANSWERED)
    assert remarks.unread == {"messages", "prompt"}
    assert messages_of({"messages": [USER, REPLY]}, columns) == (ASKED, ANSWERED)
    assert messages_of({"log": [USER, REPLY], "messages": [REPLY]}, "messages=log")[0] == ASKED


@pytest.mark.parametrize("text", ["my_q", "prompt=", "=a", "promt=a", "prompt=a,prompt=b"])
def test_columns_that_name_nothing(text):
    with pytest.raises(InputError, match=r"data\.columns: '.*' names no part of a row"):
        read_columns(text)


# Bad rows.


def with_messages(*messages: object) -> dict:
    return {"messages": list(messages)}


TOOL_CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (with_messages(), '"messages" is empty; expected a list'),
        ({"messages": "hi"}, '"messages" is a string; expected a list'),
        (with_messages(USER, "4"), "message 2 is a string; expected an object"),
        (
            with_messages(USER, {"role": "assistant"}),
            'message 2 has no "content"; every message needs "role" and "content"',
        ),
        (with_messages(USER, {"content": "4"}), 'message 2 has no "role"'),
        (with_messages({"from": "human", "value": "a"}, {"from": "gpt"}), 'message 2 has no "val'),
        (
            with_messages(USER, {"role": "assistant", "content": None}),
            'message 2: "content" is null; expected a string',
        ),
        (
            with_messages(USER, {"role": "assistant", "content": {"text": "4"}}),
            'message 2: "content" is an object; expected a string',
        ),
        (
            with_messages(USER, {"role": "wizard", "content": "4"}),
            "message 2 has the unknown \"role\" 'wizard'; known are system, developer, user,",
        ),
        (with_messages({"role": [1], "content": "4"}), "message 1 has the unknown"),
        (with_messages(REPLY, USER), "message 1 is from assistant, expected user"),
        (with_messages(USER, USER), "message 2 is from user, expected assistant"),
        (with_messages(USER, REPLY, SYSTEM), "message 3 is from system, expected user"),
        (with_messages(SYSTEM, REPLY), "message 2 is from assistant, expected user"),
        (with_messages(USER), "no assistant message"),
        (with_messages(SYSTEM), "no assistant message"),
        (
            with_messages(USER, {"role": "assistant", "content": " \n"}),
            "no assistant message has any text",
        ),
        (
            with_messages({"role": "user", "content": "a\ud800"}),
            'message 1: "content" holds half of a surrogate pair (character 2)',
        ),
        (with_messages(USER, TOOL_CALL), 'message 2: "tool_calls": calls of tools cannot be'),
        (
            with_messages(USER, {"role": "tool", "content": "{}"}, REPLY),
            "message 2 has the \"role\" 'tool': calls of tools cannot be learned from: write them",
        ),
        ({**with_messages(USER, REPLY), "tools": [{"name": "w"}]}, '"tools": calls of tools'),
        ({**with_messages(USER, REPLY), "images": ["a.png"]}, '"images": only text can be learned'),
        (
            with_messages({"role": "user", "content": [IMAGE]}, REPLY),
            "message 1: \"content\": a part is of the type 'image_url'; only text can be",
        ),
        ({"turns": ["a", "b"]}, '"turns" holds texts without roles'),
        ({"prompt": "a"}, 'format not recognised, the fields are "prompt"; a row needs a list'),
        ({"prompt": "a", "completion": ""}, '"completion" is empty; fill it or leave the row out'),
        ({"prompt": "a", "completion": None}, '"completion" is null; fill it or leave the row'),
        ({"instruction": "", "output": "b"}, '"instruction" is empty, so nothing is asked'),
        ({"instruction": "a", "input": True, "output": "b"}, '"input" is true or false; expected'),
        ({"prompt": "a", "response": ["b", "c"]}, '"response" is a list of 2; keep the one'),
        ({"prompt": "a", "response": "b", "label": False}, '"label" is false, so the reply is one'),
        ({"text": "a b"}, 'only "text", which does not say what is asked and what is the reply'),
        ({"role": "user", "text": "a"}, "the row is one message; write a whole conversation"),
        ({"chosen": "a", "rejected": "b"}, '"chosen" stands beside no prompt'),
    ],
)
def test_bad_row_is_named(row, expected):
    assert failure(row).startswith(expected)


def test_numbers_are_text_as_json_has_them():
    row = json.loads('{"question": 7, "answer": 2.50}')
    assert [message.content for message in messages_of(row)] == ["7", "2.5"]
