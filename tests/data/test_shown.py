"""An example as text, with what is learned of it marked."""

import pytest

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.messages import Message
from g2is_jax.data.shown import marked_text
from g2is_jax.data.tokenizer import load_tokenizer
from tests.support.chats import DIALOGUE, OWN, save_bpe


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat(load_tokenizer(save_bpe(tmp_path_factory.mktemp("bpe"), OWN)), "auto")


def test_replies_are_marked_and_all_else_stands_around_them(chat):
    text = marked_text(chat, chat.encode(DIALOGUE, 999))
    assert text == (
        "<s><|system|>\nBe brief, please.</s>\n<|user|>\nWhat is 2 + 2?</s>\n"
        "<|assistant|>\n[[It is 4.\n\nThe answer is 4.</s>]]\n<|user|>\nAnd é + 漢?</s>\n"
        "<|assistant|>\n[[</s>]]\n<|user|>\n<|assistant|>\nNothing at all.</s>\n"
        "<|assistant|>\n[[No\\tidea 😀 </s>]]\n"
    )


def test_what_is_cut_is_not_there(chat):
    turns = (Message("user", "a"), Message("assistant", "b c d e f"))
    whole = chat.encode(turns, 999)
    text = marked_text(chat, chat.encode(turns, len(whole.tokens_T) - 3))
    assert text.startswith("<s><|user|>\na</s>\n<|assistant|>\n[[b")
    assert "</s>]]" not in text
    assert text.endswith("]]")


def test_a_long_example_is_shown_without_its_middle(chat):
    turns = (Message("user", "x" * 2_000), Message("assistant", "end \x1b[2J"))
    text = marked_text(chat, chat.encode(turns, 9_999))
    assert len(text) < 1_300
    assert " characters)... " in text
    assert text.endswith("[[end \\x1b[2J</s>]]\n")
