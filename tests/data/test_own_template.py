"""Templates that tokenizers bring: replies are found in their turns, whatever else is written."""

import dataclasses
import datetime
import json

import numpy as np
import pytest

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.files import read_records
from g2is_jax.data.messages import Message
from g2is_jax.data.own_template import NO_SYSTEM, NOT_MARKED, REPLY_LEFT_OUT, THOUGHTS_LEFT_OUT
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.runs.errors import InputError
from tests.support import own_templates as own
from tests.support.chats import OWN, OWN_MARKED, learned_texts, make_record, save_bpe

SYSTEM = Message("system", "Be brief.")
ASKED, REPLIED = Message("user", "Who wrote Faust?"), Message("assistant", "Goethe.")
TURNS = (ASKED, REPLIED, Message("user", "And Émile?"), Message("assistant", "Rousseau."))
THOUGHT = "<think>\nA poet, so Goethe.\n</think>\n\nGoethe."
THINKING = (ASKED, Message("assistant", THOUGHT))
TODAY = datetime.date(2024, 2, 9)


@pytest.fixture
def chat_of(tmp_path):
    """Makes the format of a tokenizer that brings a template."""

    def make(template, today: datetime.date | None = None, **changes) -> ChatFormat:
        tokenizer = load_tokenizer(save_bpe(tmp_path, template, marks=own.MARKS))
        for name, value in changes.items():
            setattr(tokenizer, name, value)
        return ChatFormat(tokenizer, "auto", today)

    return make


def text_of(chat, tokens_T) -> str:
    return chat.tokenizer.decode(tokens_T)


def check_prompt(chat, messages) -> str:
    """The prompt is what stands before the last reply in training; returns its text."""
    encoded, prompt_T = chat.encode(messages, 1000), chat.encode_prompt(messages, 1000)
    assert np.array_equal(encoded.tokens_T[: len(prompt_T)], prompt_T)
    starts = np.flatnonzero(np.diff(encoded.supervised_T.astype(int)) == 1)
    assert len(prompt_T) == starts[-1] + 1
    return text_of(chat, prompt_T)


def test_empty_think_block_is_not_learned(chat_of):
    chat = chat_of(own.THINKING)
    encoded = chat.encode(TURNS, 1000)
    assert text_of(chat, encoded.tokens_T) == (
        "<|im_start|>user\nWho wrote Faust?<|im_end|>\n<|im_start|>assistant\nGoethe.<|im_end|>\n"
        "<|im_start|>user\nAnd Émile?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nRousseau.<|im_end|>\n"
    )
    assert learned_texts(chat, encoded) == ["Goethe.<|im_end|>", "Rousseau.<|im_end|>"]
    assert check_prompt(chat, TURNS).endswith("assistant\n<think>\n\n</think>\n\n")
    assert np.array_equal(chat.encode_prompt(TURNS[:-1], 1000), chat.encode_prompt(TURNS, 1000))


def test_a_thought_of_the_row_is_learned(chat_of):
    chat = chat_of(own.THINKING)
    assert learned_texts(chat, chat.encode(THINKING, 1000)) == [THOUGHT + "<|im_end|>"]
    assert check_prompt(chat, THINKING).endswith("<|im_start|>assistant\n")
    empty = (ASKED, Message("assistant", "<think>\n\n</think>\n\nGoethe."))
    assert learned_texts(chat, chat.encode(empty, 1000)) == ["Goethe.<|im_end|>"]
    check_prompt(chat, empty)


def test_a_thought_that_a_row_brings_apart_is_learned(chat_of, tmp_path):
    turns = [
        {"role": "user", "content": "Who wrote Faust?"},
        {"role": "assistant", "content": "Goethe.", "reasoning_content": "A poet, so Goethe."},
    ]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": turns}))
    chat = chat_of(own.THINKING)
    (encoded,) = chat.encode_all(read_records(tmp_path / "rows.jsonl"), 1000)
    assert learned_texts(chat, encoded) == [THOUGHT + "<|im_end|>"]


def test_thoughts_that_the_template_leaves_out_are_counted(chat_of):
    chat = chat_of(own.THINKING)
    records = [make_record((*THINKING, *TURNS[2:])), make_record(TURNS), make_record(THINKING)]
    encoded = chat.encode_all(records, 1000)
    assert learned_texts(chat, encoded[0]) == ["Goethe.<|im_end|>", "Rousseau.<|im_end|>"]
    assert chat.notes == {THOUGHTS_LEFT_OUT: 1}
    assert f"chat template own: {THOUGHTS_LEFT_OUT} (1 rows)" in chat.summary()


@pytest.mark.parametrize("template", [own.OPENED, own.OPENED_KEPT])
def test_opened_think_tag_of_the_prompt(chat_of, template):
    """The prompt of replies without thoughts ends before the tag, which they do not begin with."""
    chat = chat_of(template)
    assert learned_texts(chat, chat.encode(TURNS, 1000)) == ["Goethe.</s>", "Rousseau.</s>"]
    assert check_prompt(chat, TURNS).endswith("<|user|>And Émile?<|assistant|>")
    assert chat.summary() == []
    thoughts = chat.encode_all([make_record(THINKING)], 1000)[0]
    if template == own.OPENED_KEPT:
        assert learned_texts(chat, thoughts) == ["A poet, so Goethe.\n</think>\n\nGoethe.</s>"]
        assert check_prompt(chat, THINKING).endswith("<|assistant|><think>\n")
        assert not chat.notes
    else:
        assert learned_texts(chat, thoughts) == ["\n\nGoethe.</s>"]
        assert check_prompt(chat, THINKING).endswith("<|assistant|>")
        assert chat.notes == {THOUGHTS_LEFT_OUT: 1}


def test_text_between_the_marks_has_to_be_that_of_the_row(chat_of):
    """A template that drops what stands before a thought would change what is learned."""
    chat = chat_of(own.THINKING)
    for content in ("Well. <think>a</think>b", "<think>a</think>b<think>c</think>d"):
        with pytest.raises(InputError, match="message 2 cannot be found exactly"):
            chat.encode((ASKED, Message("assistant", content)), 1000)
    # Elsewhere these are words like any others.
    plain = chat_of(own.PLAIN)
    row = (ASKED, Message("assistant", "Well. <think>a</think>b"))
    assert learned_texts(plain, plain.encode(row, 1000)) == ["Well. <think>a</think>b</s>"]


def test_marks_are_clipped_to_the_reply_and_its_end(chat_of):
    chat = chat_of(own.MARKED_WIDELY)
    assert learned_texts(chat, chat.encode(TURNS, 1000)) == [
        "Goethe.<|im_end|>",
        "Rousseau.<|im_end|>",
    ]
    assert check_prompt(chat, TURNS).endswith("<|im_start|>assistant\n<think>\n\n</think>\n")
    assert not chat.notes


def test_replies_that_are_not_marked_are_found_by_their_text(chat_of):
    last = OWN_MARKED.replace("m.role == 'assistant'", "m.role == 'assistant' and loop.last")
    chat = chat_of(last)
    (encoded,) = chat.encode_all([make_record(TURNS)], 1000)
    assert learned_texts(chat, encoded) == ["Goethe.</s>", "Rousseau.</s>"]
    assert chat.notes == {NOT_MARKED: 1}
    kept = [dataclasses.replace(m, learned=i != 1) for i, m in enumerate(TURNS)]
    assert learned_texts(chat, chat.encode(kept, 1000)) == ["Rousseau.</s>"]


def test_marks_stand_where_the_text_is_another(chat_of):
    """The text of a reply is then what is marked; fewer marks than replies are an error."""
    upper = OWN_MARKED.replace("m.content", "m.content | upper")
    chat = chat_of(upper)
    assert learned_texts(chat, chat.encode(TURNS, 1000)) == ["GOETHE.</s>", "ROUSSEAU.</s>"]
    fewer = upper.replace("m.role == 'assistant'", "m.role == 'assistant' and loop.last")
    with pytest.raises(InputError, match="marks 1 pieces for 2 replies, which are not found"):
        chat_of(fewer).encode(TURNS, 1000)


def test_earlier_replies_that_are_left_out_are_counted(chat_of):
    last = OWN.replace("m.content", "(m.content if loop.last or m.role == 'user' else '')")
    chat = chat_of(last)
    (encoded,) = chat.encode_all([make_record(TURNS)], 1000)
    assert learned_texts(chat, encoded) == ["Rousseau.</s>"]
    assert chat.notes == {REPLY_LEFT_OUT: 1}


def test_a_last_reply_that_is_left_out_has_no_prompt(chat_of):
    chat = chat_of(OWN.replace("m.content", "(m.content if not loop.last else '')"))
    with pytest.raises(InputError, match="leaves the reply out; name a chat template instead"):
        chat.encode_prompt(TURNS, 1000)
    with pytest.raises(InputError, match="message 2 cannot be found"):
        chat.encode(TURNS[:2], 1000)


def test_a_header_that_the_prompt_has_not(chat_of):
    """The prompt is what training writes, whatever the template's own prompt is."""
    chat = chat_of(OWN.replace("{% if add_generation_prompt %}", "{% if false %}"))
    assert learned_texts(chat, chat.encode(TURNS, 1000)) == ["Goethe.</s>", "Rousseau.</s>"]
    assert check_prompt(chat, TURNS).endswith("<|assistant|>\n")


@pytest.mark.parametrize("asks", ["{% if add_generation_prompt %}", "{% if false %}"])
def test_blank_before_a_reply_is_learned_with_it(chat_of, asks):
    """Most tokenizers join it to the first word."""
    turn = "{% for m in messages %}{{ '[' + m.role + '] ' + m.content + eos_token }}{% endfor %}"
    chat = chat_of(f"{turn}{asks}{{{{ '[assistant]' }}}}{{% endif %}}")
    assert learned_texts(chat, chat.encode(TURNS, 1000)) == [" Goethe.</s>", " Rousseau.</s>"]
    assert check_prompt(chat, TURNS).endswith("[assistant]")


@pytest.mark.parametrize("template", [own.NO_SYSTEM, own.SYSTEM_PASSED_OVER])
def test_system_text_without_a_system_role(chat_of, template):
    chat = chat_of(template)
    records = [make_record((SYSTEM, *TURNS)), make_record(TURNS)]
    records.append(make_record((Message("system", " \n"), *TURNS)))
    first, plain, empty = chat.encode_all(records, 1000)
    assert text_of(chat, first.tokens_T).startswith(
        "<s><|user|>\nBe brief.\n\nWho wrote Faust?</s>\n<|assistant|>\nGoethe.</s>"
    )
    assert learned_texts(chat, first) == ["Goethe.</s>", "Rousseau.</s>"]
    assert np.array_equal(plain.tokens_T, empty.tokens_T)
    assert chat.notes == {NO_SYSTEM: 1}
    assert "Be brief.\n\nWho" in check_prompt(chat, (SYSTEM, *TURNS))


def test_the_last_turn_ends_differently(chat_of):
    only_last = own.PLAIN.replace("eos_token", "(eos_token if loop.last else '')")
    chat = chat_of(only_last)
    assert learned_texts(chat, chat.encode(TURNS, 1000)) == ["Goethe.", "Rousseau.</s>"]
    endless = chat_of(own.PLAIN.replace(" + eos_token", ""))
    assert learned_texts(endless, endless.encode(TURNS, 1000)) == ["Goethe.", "Rousseau."]
    assert any("nothing follows a reply" in line for line in endless.summary())


def test_end_of_turn_that_is_not_the_end_of_sequence(chat_of):
    chat = chat_of(own.THINKING.replace("<|im_end|>", "<|user|>"))
    assert chat.tokenizer.convert_tokens_to_ids("<|user|>") in chat.end_tokens()
    (line,) = chat.summary()
    assert line == (
        "chat template own: a reply ends in '<|user|>', not in the tokenizer's end of sequence "
        "'</s>': generation stops at either"
    )
    plain = chat_of(own.THINKING.replace("<|im_end|>", "[end]"))
    assert plain.stop_strings() == ("[end]",)
    assert chat_of(own.PLAIN).summary() == []


def test_templates_by_name_without_a_default(chat_of):
    with pytest.raises(InputError, match='templates named rag, tools, and none "default"; name a'):
        chat_of({"tools": own.PLAIN, "rag": own.PLAIN})
    chat = chat_of({"rag": own.THINKING, "default": own.PLAIN})
    assert learned_texts(chat, chat.encode(TURNS, 1000)) == ["Goethe.</s>", "Rousseau.</s>"]


@pytest.mark.parametrize(
    ("template", "date"), [(own.DATED, "09 February 2024"), (own.DATE_STRING, "09 Feb 2024")]
)
def test_the_date_is_the_one_that_is_given(chat_of, template, date):
    chat = chat_of(template, TODAY)
    written = text_of(chat, chat.encode(TURNS, 1000).tokens_T)
    assert written.startswith(f"Today is {date}.\n<|user|>\n")
    assert chat.today == TODAY
    assert chat.probe != chat_of(template, datetime.date(2024, 2, 10)).probe
    assert chat_of(template).today == datetime.date.today()


def test_only_the_date_of_a_template_with_a_date_is_fixed(chat_of):
    for template in (own.PLAIN, own.DATE_OF_ITS_OWN):
        chat = chat_of(template, TODAY)
        assert chat.today is None
        assert chat.probe == chat_of(template, datetime.date(2024, 2, 10)).probe
    assert "26 Jul 2024" in text_of(chat, chat.encode(TURNS, 1000).tokens_T)


def test_a_fixed_date_changes_nothing_else(chat_of):
    """Blanks and line breaks at the beginning of a template are kept, and its marks."""
    for beginning in ("", "\n", "  \n ", "\n  {% if true %}x{% endif %}"):
        dated = beginning + own.DATED + "{{ strftime_now('%Y') if false }}"
        chat = chat_of(dated, TODAY)
        now = datetime.datetime.now()
        theirs = chat.tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in TURNS], tokenize=False
        )
        ours = text_of(chat, chat.encode(TURNS, 1000).tokens_T)
        assert ours == theirs.replace(now.strftime("%d %B %Y"), "09 February 2024")


def test_the_probe_tells_templates_and_tokenizers_apart(chat_of, tmp_path):
    templates = own.THINKING, own.OPENED, own.OPENED_KEPT, own.MARKED_WIDELY, own.PLAIN, own.DATED
    probes = {template: chat_of(template).probe for template in templates}
    assert len(set(probes.values())) == len(probes)
    assert chat_of(own.PLAIN).probe == probes[own.PLAIN]
    other = load_tokenizer(save_bpe(tmp_path, own.PLAIN))  # other special tokens
    assert ChatFormat(other, "auto").probe != probes[own.PLAIN]
    tokenizer = load_tokenizer(save_bpe(tmp_path / "named", marks=own.MARKS))
    named = {ChatFormat(tokenizer, name).probe for name in ("tulu", "chatml", "gemma")}
    assert len(named) == 3
