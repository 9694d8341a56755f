"""Transcripts of any known marks, lists written as text and turns in columns are read as turns."""

import json

import pytest

from g2is_jax.data.formats import AS_TEXT, TRANSCRIPT
from g2is_jax.data.messages import Message
from g2is_jax.data.transcripts import MARKS, turns_from_text, turns_from_transcript
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

AGAIN = (Message("user", "Sure?"), Message("assistant", "Yes."))


def written(marks: dict[str, str], *turns: Message) -> str:
    """A text of turns; each has the last of its role's marks but for an opening one."""
    mark_of = {role: mark for mark, role in reversed(marks.items())}
    return "".join(f"{mark_of[turn.role]} {turn.content}\n" for turn in turns)


@pytest.mark.parametrize("marks", MARKS, ids=lambda marks: next(iter(marks)).strip())
def test_marks_of_speakers_part_turns(marks):
    text = written(marks, ASKED, ANSWERED, *AGAIN)
    found, remarks = read({"text": text})
    assert found == (ASKED, ANSWERED, *AGAIN)
    assert (remarks.notes, remarks.unread) == ({TRANSCRIPT}, set())
    assert messages_of({"chosen": text, "rejected": text}) == found
    assert messages_of({"conversation": text}) == found
    asked = text.rpartition("Yes.")[0]
    assert messages_of({"prompt": asked, "response": "Yes."}) == found
    before = messages_of({"text": f"Be brief. {text}"})
    assert before == (BRIEF, *found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n2+2? [/INST] 4 </s><s>[INST] Sure? [/INST] "
         "Yes. </s>", (BRIEF, ASKED, ANSWERED, *AGAIN)),
        ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
         "<|im_start|>assistant\n4<|im_end|>\n", (BRIEF, ASKED, ANSWERED)),
        ("<|system|>\nBe brief.</s>\n<|user|>\n2+2?</s>\n<|assistant|>\n4</s>\n",
         (BRIEF, ASKED, ANSWERED)),
    ],
)  # fmt: skip
def test_system_texts_and_ends_of_turns(text, expected):
    assert messages_of({"text": text}) == expected


def test_a_turn_that_says_nothing_is_not_lost_in_the_middle():
    text = "\n\nHuman: 2+2?\n\nAssistant:\n\nHuman: Sure?\n\nAssistant: Yes."
    assert [turn.content for turn in messages_of({"text": text})] == ["2+2?", "", "Sure?", "Yes."]


@pytest.mark.parametrize("text", ["Once.", "Human: hi", "\n\nAssistant: 4", "USER: 2+2?", 7, None])
def test_other_texts_are_no_transcripts(text):
    assert turns_from_transcript(text, opening=False) is None


def test_prompts_and_replies_that_only_quote_marks_stay_texts():
    quoted = "Sum up: \n\nHuman: 2+2?\n\nAssistant: 4"
    assert messages_of({"prompt": quoted, "response": quoted}) == (
        Message("user", quoted),
        Message("assistant", quoted),
    )


@pytest.mark.parametrize("dump", [json.dumps, str])
def test_turns_as_json_text_and_as_python_writes_them(dump):
    found, remarks = read({"messages": dump([SYSTEM, USER, {**REPLY, "weight": 1}])})
    assert found == (BRIEF, ASKED, ANSWERED)
    assert remarks.notes == {AS_TEXT}
    assert messages_of({"prompt": dump([USER]), "chosen": dump([REPLY])}) == found[1:]


def test_many_blanks_take_no_time():
    text = "### Human: 2+2?" + " " * 200_000 + "x### Assistant: 4"
    assert len(messages_of({"text": text})) == 2


def test_texts_of_other_lists_are_texts():
    for text in ("[link](a)", "[{", '[{"a": 1}]', "[{1: 2}](3)"):
        assert messages_of({"prompt": text, "response": "4"})[0].content == text
    assert messages_of({"prompt": "[1, 2]", "response": "[3]"})[0].content == "[1, 2]"
    assert turns_from_text("[1, 2") is None
    assert failure({"messages": "[1, 2]"}).startswith('"messages" is a string; expected a list')


def test_turns_in_columns():
    columns = {"role": ["user", "assistant"], "content": ["2+2?", "4"]}
    assert messages_of({"messages": columns}) == (ASKED, ANSWERED)
    short = {"role": ["user", "assistant"], "content": ["2+2?"]}
    assert failure({"messages": short}).startswith('"messages" is an object; expected a list')
