"""A field that is added to a good row gives another conversation, a printed line, or an error."""

import copy
import json

import pytest

from g2is_jax.data.files import read_rows
from g2is_jax.data.formats import PREFERENCE
from g2is_jax.data.turns import SECOND_THOUGHT
from g2is_jax.runs.errors import InputError
from tests.support.row_files import GOOD, REPLY, USER, write

SHAREGPT = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
ROWS = {
    "messages": GOOD,
    "conversations": {"conversations": SHAREGPT},
    "parts": {"messages": [{**USER, "content": [{"type": "text", "text": "2+2?"}]}, REPLY]},
    "texts in turn": {"data": ["2+2?", "4"]},
    "pairs": {"conversation": [{"input": "2+2?", "output": "4"}]},
    "lists of pairs": {"conversations": [["2+2?", "4"]]},
    "json": {"messages": json.dumps([USER, REPLY])},
    "columns": {"messages": {"role": ["user", "assistant"], "content": ["2+2?", "4"]}},
    "turns and reply": {"messages": [USER], "response": "4"},
    "alpaca": {"instruction": "2+2?", "input": "", "output": "4"},
    "alpaca with input": {"instruction": "Add.", "input": "2+2", "output": "4"},
    "prompt": {"prompt": "2+2?", "completion": "4"},
    "question": {"question": "2+2?", "answer": "4"},
    "lists": {"prompt": [USER], "completion": [REPLY]},
    "preference": {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
    "chosen": {"chosen": [USER, REPLY], "rejected": [USER, REPLY]},
    "tree": {"prompt": {"role": "prompter", "text": "2+2?", "replies": [
        {"role": "assistant", "text": "4", "replies": []}]}},
    "transcript": {"text": "### Human: 2+2?### Assistant: 4"},
    "instances": {"instruction": "2+2?", "instances": [{"input": "", "output": "4"}]},
}  # fmt: skip
OF_ROWS = {
    "system": "Be brief.", "system_prompt": "Be brief.", "System": "Be brief.",
    "history": [["Hi", "Hello"]], "context": "By heart.", "input": "By heart.",
    "definition": "Add.", "weight": 0, "train": False, "train_on_input": True, "mask": [0, 1],
    "loss": False, "loss_mask": [0, 1], "masked": True, "tools": [{"name": "add"}],
    "functions": [{"name": "add"}], "tool_calls": [{"id": "a"}], "function_call": {"name": "a"},
    "images": ["a.png"], "image": "a.png", "videos": ["a"], "audio": "a.wav",
    "reasoning_content": "Hm.", "thinking": "Hm.", "reasoning": "Hm.", "prompt_prefix": "Now: ",
    "prefix": "Now: ", "suffix": "!", "response_prefix": "So: ", "constraints": "One digit.",
    "chat_template_kwargs": {"enable_thinking": True}, "documents": ["a"], "persona": "a poet",
    "label": False, "kto_tag": False, "is_correct": False, "rejected": "5", "chosen": "6",
    "output": "7", "text": "a", "messages": [USER, {**REPLY, "content": "8"}], "deleted": True,
}  # fmt: skip
OF_TURNS = {
    "weight": 0, "train": False, "training": False, "loss": False, "masked": True, "mask": 0,
    "train_detail": [{"begin": 0, "end": 1, "train": False}], "tool_calls": [{"id": "a"}],
    "function_call": {"name": "a"}, "images": ["a.png"], "image_url": "a", "audio": {"id": "a"},
    "reasoning_content": "Hm.", "thinking": "Hm.", "refusal": "No.", "name": "Ann", "prefix": True,
    "tools": ["a"], "documents": ["a"], "text": "5", "input": "5", "system": "Be brief.",
}  # fmt: skip


def what_is_learned_and_printed(row: dict, folder) -> tuple[list, str] | None:
    """The messages of a row with what a run prints of it; None where it is refused."""
    try:
        found = read_rows(write(folder, row), "stop")
    except InputError:
        return None
    return [record.messages for record in found.records], "\n".join(found.summary()[1:])


@pytest.mark.parametrize(
    ("shape", "name"),
    [(shape, name) for shape in ROWS for name in OF_ROWS if not ROWS[shape].get(name)],
)
def test_a_field_of_a_row(shape, name, tmp_path):
    row = ROWS[shape]
    before = what_is_learned_and_printed(row, tmp_path)
    after = what_is_learned_and_printed({**row, name: OF_ROWS[name]}, tmp_path)
    assert before is not None
    assert after is None or after[0] != before[0] or name in after[1]


@pytest.mark.parametrize(
    "shape", ["messages", "conversations", "parts", "pairs", "lists", "chosen", "tree"]
)
@pytest.mark.parametrize("name", OF_TURNS)
@pytest.mark.parametrize("of", ["user", "assistant"])
def test_a_field_of_a_turn(shape, name, of, tmp_path):
    row = copy.deepcopy(ROWS[shape])
    before = what_is_learned_and_printed(row, tmp_path)
    turn = turn_of(row, shape, of)
    if name in turn:
        return
    turn[name] = OF_TURNS[name]
    after = what_is_learned_and_printed(row, tmp_path)
    asks_for_nothing = of == "user" and name in ("weight", "train", "training", "loss", "masked")
    assert before is not None
    assert after is None or after[0] != before[0] or name in after[1] or asks_for_nothing


def turn_of(row: dict, shape: str, of: str) -> dict:
    """The turn of a row that is said by the user or the assistant."""
    if shape == "tree":
        return row["prompt"] if of == "user" else row["prompt"]["replies"][0]
    if shape == "lists":
        return row["prompt" if of == "user" else "completion"][0]
    turns = next(iter(row.values()))
    return turns[0] if of == "user" or len(turns) == 1 else turns[1]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"weight": 0}, None),
        ({"train": False}, None),
        ({"cache_control": {"type": "ephemeral"}}, "[].cache_control of a part (1)"),
        ({"weight": 1, "text": "5"}, ""),
    ],
)
def test_a_field_of_a_part(more, expected, tmp_path):
    part = {"type": "text", "text": "4", **more}
    row = {"messages": [USER, {**REPLY, "content": [part]}]}
    found = what_is_learned_and_printed(row, tmp_path)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found[0][0][1].content == part["text"]
        assert expected in found[1]


def test_a_second_thought_is_named(tmp_path):
    reply = {**REPLY, "content": "<think>\nOne.\n</think>\n4"}
    for thought, said in (("One.", False), ("Two.", True)):
        row = {"messages": [USER, {**reply, "reasoning_content": thought}]}
        found = what_is_learned_and_printed(row, tmp_path)
        assert found is not None
        assert (SECOND_THOUGHT in found[1]) == said


def test_a_rejected_reply_is_named(tmp_path):
    found = what_is_learned_and_printed(ROWS["preference"], tmp_path)
    assert found is not None
    assert PREFERENCE in found[1]
