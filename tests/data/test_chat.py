"""Conversations become tokens, and answers alone are supervised."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.files import read_records
from g2is_jax.data.messages import Message
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.runs.errors import InputError
from tests.support.chats import (
    DIALOGUE,
    OWN,
    OWN_MARKED,
    answers,
    learned_texts,
    make_record,
    random_dialogue,
    save_bpe,
)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    return load_tokenizer(save_bpe(tmp_path_factory.mktemp("bpe")))


@pytest.fixture(scope="module", params=["bpe", "stories"])
def tulu(request, bpe):
    if request.param == "bpe":
        return ChatFormat(bpe, "tulu")
    stories = request.getfixturevalue("shared_data") / "stories260K"  # skips where it is absent
    return ChatFormat(load_tokenizer(stories), "auto")


def own_format(folder: Path, template: str) -> ChatFormat:
    return ChatFormat(load_tokenizer(save_bpe(folder, template)), "auto")


def test_tulu_text(tulu):
    encoded = tulu.encode(DIALOGUE[:5], 1000)
    assert encoded.tokens_T[0] == tulu.tokenizer.bos_token_id
    assert np.count_nonzero(encoded.tokens_T == tulu.tokenizer.bos_token_id) == 1
    # stories260K decodes a blank after a special token.
    text = tulu.tokenizer.decode(encoded.tokens_T[1:]).replace("</s> ", "</s>")
    assert text == (
        "<|system|>\nBe brief, please.\n<|user|>\nWhat is 2 + 2?\n"
        "<|assistant|>\nIt is 4.\n\nThe answer is 4.</s>\n"
        "<|user|>\nAnd é + 漢?\n<|assistant|>\n</s>"
    )
    assert encoded.tokens_T.dtype == np.int32
    assert encoded.supervised_T.dtype == bool
    assert not encoded.truncated


def test_only_answers_and_their_ends_are_supervised(tulu):
    assert learned_texts(tulu, tulu.encode(DIALOGUE, 1000)) == answers(DIALOGUE)
    for seed in range(60):
        messages = random_dialogue(seed)
        encoded = tulu.encode(messages, 10_000)
        assert learned_texts(tulu, encoded) == answers(messages)
        assert encoded.tokens_T[-1] == tulu.tokenizer.eos_token_id


def test_prompt_is_the_token_prefix(tulu):
    for seed in range(60):
        messages = random_dialogue(seed)
        encoded = tulu.encode(messages, 10_000)
        prompt_T = tulu.encode_prompt(messages, 10_000)
        assert prompt_T.dtype == np.int32
        assert np.array_equal(prompt_T, encoded.tokens_T[: len(prompt_T)])
        last_run = np.flatnonzero(~encoded.supervised_T)[-1] + 1
        assert len(prompt_T) == last_run
        assert np.array_equal(tulu.encode_prompt(messages[:-1], 10_000), prompt_T)


@pytest.mark.parametrize("template", ["tulu", "gemma", "chatml", OWN, OWN_MARKED])
def test_a_reply_that_is_not_to_be_learned(tmp_path, bpe, template):
    """The tokens are the same, and the other replies are learned as before."""
    own = template in (OWN, OWN_MARKED)
    chat = own_format(tmp_path, template) if own else ChatFormat(bpe, template)
    marked = [dataclasses.replace(m, learned=i not in (2, 4)) for i, m in enumerate(DIALOGUE)]
    whole, part = chat.encode(DIALOGUE, 1000), chat.encode(marked, 1000)
    assert np.array_equal(part.tokens_T, whole.tokens_T)
    assert learned_texts(chat, part) == learned_texts(chat, whole)[-1:]
    assert np.array_equal(chat.encode_prompt(marked, 1000), chat.encode_prompt(DIALOGUE, 1000))


def test_truncation_keeps_the_beginning(tulu):
    whole = tulu.encode(DIALOGUE, 1000)
    for length in (5, 40, len(whole.tokens_T) - 1, len(whole.tokens_T)):
        cut = tulu.encode(DIALOGUE, length)
        assert np.array_equal(cut.tokens_T, whole.tokens_T[:length])
        assert np.array_equal(cut.supervised_T, whole.supervised_T[:length])
        assert cut.truncated == (length < len(whole.tokens_T))


def test_long_prompt_keeps_its_end(tulu):
    whole_T = tulu.encode_prompt(DIALOGUE, 1000)
    cut_T = tulu.encode_prompt(DIALOGUE, 20)
    assert len(cut_T) == 20
    assert cut_T[0] == tulu.tokenizer.bos_token_id
    assert np.array_equal(cut_T[1:], whole_T[-19:])


def test_encode_all_equals_one_by_one(tulu):
    records = [make_record(random_dialogue(seed), seed) for seed in range(1100)]
    together = tulu.encode_all(records, 60)
    for record, encoded in list(zip(records, together, strict=True))[::50]:
        alone = tulu.encode(record.messages, 60)
        assert np.array_equal(alone.tokens_T, encoded.tokens_T)
        assert np.array_equal(alone.supervised_T, encoded.supervised_T)
        assert alone.truncated == encoded.truncated


def test_token_that_straddles_the_header_is_not_supervised(bpe):
    """The answer's first line break merges with the header's; the second one stands alone."""
    chat = ChatFormat(bpe, "tulu")
    encoded = chat.encode([Message("user", "a"), Message("assistant", "\n\nA  b")], 100)
    assert learned_texts(chat, encoded) == ["\nA  b</s>"]
    assert bpe.convert_tokens_to_ids("ĊĊ") in encoded.tokens_T


@pytest.mark.parametrize("trim", [True, False])
def test_blank_that_ends_the_header_is_not_supervised(tmp_path, trim):
    """`: a` is one token with the blank, whatever its offsets say; `  a` has the blank apart."""
    template = OWN_MARKED.replace("<|{{ m.role }}|>{{ '\\n' }}", "<|{{ m.role }}|>{{ ': ' }}")
    assert template != OWN_MARKED
    chat = ChatFormat(load_tokenizer(save_bpe(tmp_path, template, trim=trim)), "auto")
    for answer, learned in [("a is a", " is a</s>"), ("  a is", " a is</s>"), ("\n4", "\n4</s>")]:
        encoded = chat.encode([Message("user", "a"), Message("assistant", answer)], 100)
        assert learned_texts(chat, encoded) == [learned]


def test_no_begin_token_where_the_tokenizer_adds_none(tmp_path):
    chat = ChatFormat(load_tokenizer(save_bpe(tmp_path, bos=False)), "tulu")
    assert chat.tokenizer.bos_token_id not in chat.encode(DIALOGUE, 1000).tokens_T
    cut_T = chat.encode_prompt(DIALOGUE, 20)
    assert np.array_equal(cut_T, chat.encode_prompt(DIALOGUE, 1000)[-20:])


@pytest.mark.parametrize("template", [OWN, OWN_MARKED])
def test_own_template(tmp_path, template):
    chat = own_format(tmp_path, template)
    for messages in [list(DIALOGUE), *(random_dialogue(seed) for seed in range(30))]:
        encoded = chat.encode(messages, 10_000)
        assert learned_texts(chat, encoded) == answers(messages)
        rendered = chat.tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages], return_dict=True
        )
        assert np.array_equal(encoded.tokens_T, rendered["input_ids"])
        prompt_T = chat.encode_prompt(messages, 10_000)
        assert np.array_equal(prompt_T, encoded.tokens_T[: len(prompt_T)])
        # All that follows is learned, except the line break after the end-of-turn mark.
        assert encoded.supervised_T[len(prompt_T) : -1].all()
        assert not encoded.supervised_T[-1]


def test_marked_template_that_ends_in_a_blank(tmp_path):
    """Here return_assistant_tokens_mask=True would mark all that follows the first answer."""
    chat = own_format(tmp_path, OWN_MARKED.replace("</s>{% endgen", "{% endgen"))
    messages = [Message("user", "a"), Message("assistant", "b  "), Message("user", "c")]
    assert learned_texts(chat, chat.encode(messages, 100)) == ["b  "]


def test_named_template_wins_over_the_tokenizers_own(tmp_path, bpe):
    tokenizer = load_tokenizer(save_bpe(tmp_path, OWN))
    named = ChatFormat(tokenizer, "tulu").encode(DIALOGUE, 1000)
    assert np.array_equal(named.tokens_T, ChatFormat(bpe, "auto").encode(DIALOGUE, 1000).tokens_T)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (OWN.replace("m.content", "m.content | upper"), "message 3 cannot be found exactly"),
        (OWN + "{{ raise_exception('no system here') }}", "refuses the conversation (no system"),
        (OWN_MARKED + "{{ raise_exception('no system here') }}", "refuses the conversation (no sy"),
    ],
)
def test_own_template_without_exact_spans(tmp_path, template, expected):
    chat = own_format(tmp_path, template)
    with pytest.raises(InputError, match="name a chat template instead: tulu") as caught:
        chat.encode_all([make_record(DIALOGUE, row=7)], 100)
    assert str(caught.value).startswith('row 7 (id "id7"): ')
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_end_tokens(tmp_path, bpe):
    assert ChatFormat(bpe, "tulu").end_tokens() == (2,)
    folder = save_bpe(tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 7}))
    assert ChatFormat(load_tokenizer(folder), "tulu").end_tokens() == (2, 7)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5]}))
    assert ChatFormat(load_tokenizer(folder), "tulu").end_tokens() == (1, 2, 5)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 3}))
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    marked = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ChatFormat(tokenizer, "tulu").end_tokens() == (2, 3, marked)


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe{", b"[1, 2]", b'"</s>"', b"[" * 99_999], ids=range(5)
)
def test_generation_config_that_cannot_be_read(tmp_path, content):
    folder = save_bpe(tmp_path)
    (folder / "generation_config.json").write_bytes(content)
    with pytest.raises(InputError, match="not a JSON object; copy the file again") as caught:
        ChatFormat(load_tokenizer(folder), "tulu").end_tokens()
    assert str(caught.value).startswith(f"{folder / 'generation_config.json'}: ")


@pytest.mark.parametrize("ends", ["2", 2.0, True, {"a": 1}, [1, None], [[2]]])
def test_end_tokens_that_are_no_numbers_of_tokens(tmp_path, ends):
    folder = save_bpe(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    with pytest.raises(InputError, match=r"config\.json: eos_token_id is no token's number.*copy"):
        ChatFormat(load_tokenizer(folder), "tulu").end_tokens()


def test_a_template_cannot_reach_out_of_its_sandbox(tmp_path):
    """Nor does one without an end of its own recursion, or of its memory, take the job with it."""
    for template in (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in range(10 ** 9) %}a{% endfor %}",
        "{{ 'a' * 10 ** 18 }}",
    ):
        with pytest.raises(InputError, match="own chat template refuses the conversation"):
            own_format(tmp_path, template).encode(DIALOGUE[:3], 100)


def test_end_of_turn_that_merges_with_what_follows_is_supervised(tmp_path):
    """The last token of a plain-text mark covers the line break too: it ends the turn."""
    tokenizer = load_tokenizer(save_bpe(tmp_path, trim=False))
    tokenizer.add_tokens([">\n"])
    chat = ChatFormat(tokenizer, "chatml")
    encoded = chat.encode([Message("user", "a"), Message("assistant", "b")], 100)
    assert learned_texts(chat, encoded) == ["b<|im_end|>\n"]


def test_template_name_and_tokenizer_are_checked(tmp_path, bpe):
    with pytest.raises(InputError, match='chat template "tullu" is unknown; known are auto, tulu'):
        ChatFormat(bpe, "tullu")
    slow = SimpleNamespace(is_fast=False, name_or_path="ckpt", chat_template=None)
    with pytest.raises(InputError, match="ckpt: the tokenizer is slow"):
        ChatFormat(slow, "auto")
    endless = load_tokenizer(save_bpe(tmp_path))
    endless.eos_token = None
    with pytest.raises(InputError, match=r'no end-of-sequence token; set "eos_token" in'):
        ChatFormat(endless, "tulu")


def test_real_pool(tulu, shared_data):
    records = read_records(shared_data / "pool_small.jsonl")
    encoded = tulu.encode_all(records, 4096)
    for record, example in zip(records, encoded, strict=True):
        assert not example.truncated
        assert learned_texts(tulu, example) == answers(record.messages)
        prompt_T = tulu.encode_prompt(record.messages, 4096)
        assert np.array_equal(prompt_T, example.tokens_T[: len(prompt_T)])
        assert len(prompt_T) + example.supervised_T.sum() == len(example.tokens_T)
