import numpy as np
import pytest

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.messages import Message
from g2is_jax.data.templates import ALPACA_HEADER, TEMPLATES
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.runs.errors import InputError
from tests.support.chats import (
    DIALOGUE,
    OWN,
    answers,
    learned_texts,
    make_record,
    random_dialogue,
    save_bpe,
)

# Every mark of every template, as special tokens; without them the marks are plain text.
MARKS = (
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "[INST]",
    "[/INST]",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|im_start|>",
    "<|im_end|>",
)
TURNS = (
    Message("user", "Who wrote Faust?"),
    Message("assistant", "Goethe."),
    Message("user", "And Émile?"),
    Message("assistant", "Rousseau."),
)
SYSTEM = Message("system", "Be brief.")
TRIMMED = ("llama3", "mistral", "gemma")  # these write an answer without the blanks around it
IN_TURN = ("mistral", "gemma", "alpaca")

WRITTEN = {
    "tulu": (
        "<|system|>\nBe brief.\n<|user|>\nWho wrote Faust?\n<|assistant|>\nGoethe.</s>\n"
        "<|user|>\nAnd Émile?\n<|assistant|>\nRousseau.</s>"
    ),
    "llama3": (
        "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho wrote Faust?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nGoethe.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd Émile?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nRousseau.<|eot_id|>"
    ),
    "mistral": (
        "[INST] Be brief.\n\nWho wrote Faust?[/INST] Goethe.</s>[INST] And Émile?[/INST] "
        "Rousseau.</s>"
    ),
    "gemma": (
        "<start_of_turn>user\nBe brief.\n\nWho wrote Faust?<end_of_turn>\n"
        "<start_of_turn>model\nGoethe.<end_of_turn>\n"
        "<start_of_turn>user\nAnd Émile?<end_of_turn>\n"
        "<start_of_turn>model\nRousseau.<end_of_turn>\n"
    ),
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWho wrote Faust?<|im_end|>\n"
        "<|im_start|>assistant\nGoethe.<|im_end|>\n"
        "<|im_start|>user\nAnd Émile?<|im_end|>\n"
        "<|im_start|>assistant\nRousseau.<|im_end|>\n"
    ),
    "alpaca": (
        "Be brief.\n\n### Instruction:\nWho wrote Faust?\n\n### Response:Goethe.</s>\n\n"
        "### Instruction:\nAnd Émile?\n\n### Response:Rousseau.</s>"
    ),
}

# The same formats as jinja, after the templates that the models' repositories hold.
LOOP = "{% for m in messages %}"
LOOP_WITHOUT_SYSTEM = (
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}"
    "{% set before = system + '\n\n' if loop.first and system | trim else '' %}"
)
JINJA = {
    "tulu": LOOP + "{{ '<|' + m.role + '|>\n' }}"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}"
    "{% if m.role != 'assistant' or not loop.last %}{{ '\n' }}{% endif %}{% endfor %}",
    "llama3": LOOP + "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}",
    "mistral": LOOP_WITHOUT_SYSTEM + "{% if m.role == 'user' %}"
    "{{ '[INST] ' + before + m.content + '[/INST]' }}"
    "{% else %}{% generation %}{{ ' ' + m.content | trim + eos_token }}{% endgeneration %}"
    "{% endif %}{% endfor %}",
    "gemma": LOOP_WITHOUT_SYSTEM + "{% if m.role == 'user' %}"
    "{{ '<start_of_turn>user\n' + before + m.content | trim + '<end_of_turn>\n' }}"
    "{% else %}{{ '<start_of_turn>model\n' }}"
    "{% generation %}{{ m.content | trim + '<end_of_turn>' }}{% endgeneration %}{{ '\n' }}"
    "{% endif %}{% endfor %}",
    "chatml": LOOP + "{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}",
    "alpaca": LOOP_WITHOUT_SYSTEM + "{% if m.role == 'user' %}"
    "{% if not loop.first %}{{ '\n\n' }}{% elif before %}{{ before }}"
    "{% else %}{{ '" + ALPACA_HEADER + "\n\n' }}{% endif %}"
    "{{ '### Instruction:\n' + m.content + '\n\n### Response:' }}"
    "{% else %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    "{% endif %}{% endfor %}",
}


@pytest.fixture(scope="module", params=["marks", "plain"])
def tokenizer(request, tmp_path_factory):
    """A byte-level BPE whose offsets leave nothing out; with the marks or without them."""
    marks = MARKS if request.param == "marks" else ()
    return load_tokenizer(save_bpe(tmp_path_factory.mktemp("bpe"), trim=False, marks=marks))


def as_dicts(messages) -> list[dict]:
    return [{"role": message.role, "content": message.content} for message in messages]


def plain_rows() -> list[list[Message]]:
    """Every answer begins with a letter, so that no token covers a header's end and an answer."""
    rows = [list(TURNS), [SYSTEM, *TURNS], [Message("system", " \n"), *TURNS]]
    echo = "What is 4?\n\nthe answer "
    rows.append([Message("user", echo), Message("assistant", echo)] * 2)
    return rows + [random_dialogue(seed) for seed in range(40)]


def blank_rows() -> list[list[Message]]:
    """Answers that are empty, or begin and end in blanks and blank lines."""
    rows = [list(DIALOGUE)]
    for text in ["", " ", "\n\n", "\n\nA  b", "  a is \n", "\n4", " é\t\n\n\n", "\u3000漢 "]:
        rows.append([Message("system", text), Message("user", text), Message("assistant", text)])
        rows.append(rows[-1][1:] * 2)
    return rows


def mask_by_bytes(tokenizer, template: str, messages) -> tuple[list[int], list[bool]]:
    """Tokens of the jinja text, and whether each begins in a generation block, byte by byte."""
    marked = template.replace("{% generation %}", "\x02").replace("{% endgeneration %}", "\x03")
    text = tokenizer.apply_chat_template(
        as_dicts(messages), chat_template="{{ bos_token }}" + marked, tokenize=False
    )
    learned_bytes: list[bool] = []
    inside = False
    for letter in text:
        if letter in "\x02\x03":
            inside = letter == "\x02"
        else:
            learned_bytes += [inside] * len(letter.encode())
    ids = tokenizer(text.replace("\x02", "").replace("\x03", ""), add_special_tokens=False)
    mask, place = [], 0
    added = tokenizer.get_added_vocab()
    for token in tokenizer.convert_ids_to_tokens(ids["input_ids"]):
        mask.append(learned_bytes[place])
        place += len(token.encode()) if token in added else len(token)
    assert place == len(learned_bytes)
    return ids["input_ids"], mask


def test_every_template_is_covered():
    assert set(TEMPLATES) == set(WRITTEN) == set(JINJA)


@pytest.mark.parametrize("name", TEMPLATES)
def test_text(tokenizer, name):
    encoded = ChatFormat(tokenizer, name).encode([SYSTEM, *TURNS], 1000)
    assert tokenizer.decode(encoded.tokens_T) == "<s>" + WRITTEN[name]
    chat = ChatFormat(tokenizer, name)
    blank = " " if name == "mistral" else ""
    end = TEMPLATES[name].end or "</s>"
    assert learned_texts(chat, encoded) == [blank + text for text in answers(TURNS, end)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_equals_apply_chat_template(tokenizer, name):
    chat = ChatFormat(tokenizer, name)
    for messages in plain_rows():
        encoded = chat.encode(messages, 10_000)
        expected = tokenizer.apply_chat_template(
            as_dicts(messages),
            chat_template="{{ bos_token }}" + JINJA[name],
            return_assistant_tokens_mask=True,
            return_dict=True,
            tokenize=True,
        )
        assert encoded.tokens_T.tolist() == expected["input_ids"]
        assert encoded.supervised_T.astype(int).tolist() == expected["assistant_masks"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_equals_a_count_of_bytes(tokenizer, name):
    """Not against apply_chat_template, which learns a token that covers the header's end too."""
    chat = ChatFormat(tokenizer, name)
    for messages in [*plain_rows(), *blank_rows()]:
        encoded = chat.encode(messages, 10_000)
        ids, mask = mask_by_bytes(tokenizer, JINJA[name], messages)
        assert encoded.tokens_T.tolist() == ids
        assert encoded.supervised_T.tolist() == mask


@pytest.mark.parametrize("name", TEMPLATES)
def test_trimmed_offsets_change_nothing(tmp_path, name):
    whole = ChatFormat(load_tokenizer(save_bpe(tmp_path / "whole", trim=False)), name)
    trimmed = ChatFormat(load_tokenizer(save_bpe(tmp_path / "trimmed", trim=True)), name)
    for messages in [*plain_rows(), *blank_rows()]:
        ours, theirs = trimmed.encode(messages, 10_000), whole.encode(messages, 10_000)
        assert np.array_equal(ours.tokens_T, theirs.tokens_T)
        assert np.array_equal(ours.supervised_T, theirs.supervised_T)
        prompt_T = trimmed.encode_prompt(messages, 10_000)
        assert np.array_equal(prompt_T, whole.encode_prompt(messages, 10_000))


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompt_is_the_token_prefix(tokenizer, name):
    """The two line breaks that end llama3's header are one token only where nothing follows."""
    chat = ChatFormat(tokenizer, name)
    rows = plain_rows()
    if name in TRIMMED:
        rows += [row for row in blank_rows() if row[-1].content.strip()]
    for messages in rows:
        encoded = chat.encode(messages, 10_000)
        prompt_T = chat.encode_prompt(messages, 10_000)
        assert np.array_equal(prompt_T, encoded.tokens_T[: len(prompt_T)])
        runs = np.flatnonzero(np.diff(encoded.supervised_T.astype(int)) == 1)
        assert len(prompt_T) == runs[-1] + 1
        assert np.array_equal(chat.encode_prompt(messages[:-1], 10_000), prompt_T)


def test_header_that_merges_with_the_answer_is_tokenised_alone(tmp_path):
    tokenizer = load_tokenizer(save_bpe(tmp_path))
    before_T = ChatFormat(tokenizer, "alpaca").encode_prompt(TURNS, 1000)
    tokenizer.add_tokens([":A"])
    assert np.array_equal(ChatFormat(tokenizer, "alpaca").encode_prompt(TURNS, 1000), before_T)
    assert tokenizer.decode(before_T).endswith("### Response:")


@pytest.mark.parametrize("name", TEMPLATES)
def test_begin_token_stands_where_the_tokenizer_puts_it(tmp_path, name):
    with_bos = ChatFormat(load_tokenizer(save_bpe(tmp_path / "with")), name)
    without = ChatFormat(load_tokenizer(save_bpe(tmp_path / "without", bos=False)), name)
    tokens_T = with_bos.encode(TURNS, 1000).tokens_T
    assert np.flatnonzero(tokens_T == with_bos.tokenizer.bos_token_id).tolist() == [0]
    assert np.array_equal(without.encode(TURNS, 1000).tokens_T, tokens_T[1:])
    assert with_bos.encode_prompt(TURNS, 20)[0] == with_bos.tokenizer.bos_token_id


def test_cut_prompt_of_a_tokenizer_whose_begin_token_starts_every_turn(tmp_path):
    """SmolLM2's begins a sequence with <|im_start|> in name alone: none is to be kept."""
    tokenizer = load_tokenizer(save_bpe(tmp_path, bos=False, marks=MARKS))
    tokenizer.bos_token = "<|im_start|>"
    chat = ChatFormat(tokenizer, "chatml")
    cut_T = chat.encode_prompt(TURNS, 12)
    assert np.array_equal(cut_T, chat.encode_prompt(TURNS, 1000)[-12:])


@pytest.mark.parametrize("name", TEMPLATES)
def test_where_generation_stops(tmp_path, name):
    marks = load_tokenizer(save_bpe(tmp_path / "marks", marks=MARKS))
    plain = load_tokenizer(save_bpe(tmp_path / "plain"))
    always = ("\n### Instruction:",) if name == "alpaca" else ()
    end = {"llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "chatml": "<|im_end|>"}.get(name)
    # A reply has to end at what its training rows taught it to write last.
    for tokenizer in (marks, plain):
        chat = ChatFormat(tokenizer, name)
        encoded = chat.encode(TURNS, 1000)
        last = encoded.tokens_T[np.flatnonzero(encoded.supervised_T)[-1]]
        stops = [stop for stop in chat.stop_strings() if stop not in always]
        if stops:
            assert learned_texts(chat, encoded)[-1].endswith(stops[0])
        else:
            assert last in chat.end_tokens()
    assert ChatFormat(marks, name).stop_strings() == always
    assert ChatFormat(plain, name).stop_strings() == ((end,) if end else ()) + always
    known = ["</s>", "<|eot_id|>", "<end_of_turn>", "<|im_end|>"]
    assert ChatFormat(marks, name).end_tokens() == tuple(sorted(map(marks.get_vocab().get, known)))
    assert ChatFormat(plain, name).end_tokens() == (plain.eos_token_id,)


def test_own_template_has_no_stop_strings(tmp_path):
    assert ChatFormat(load_tokenizer(save_bpe(tmp_path, OWN)), "auto").stop_strings() == ()


def test_end_of_sequence_is_needed_only_where_it_is_written(tmp_path):
    endless = load_tokenizer(save_bpe(tmp_path, marks=MARKS))
    endless.eos_token = None
    for name in TEMPLATES:
        if name in ("llama3", "gemma", "chatml"):
            assert ChatFormat(endless, name).encode(TURNS, 1000).supervised_T.any()
        else:
            with pytest.raises(InputError, match="no end-of-sequence token"):
                ChatFormat(endless, name)


@pytest.mark.parametrize("name", IN_TURN)
@pytest.mark.parametrize(
    ("messages", "number", "expected"),
    [
        (TURNS[1:], 1, "user"),
        ((*TURNS[:1], *TURNS), 2, "assistant"),
        ((*TURNS[:2], *TURNS[1:]), 3, "user"),
        ((*TURNS, SYSTEM), 5, "user"),
        ((SYSTEM, SYSTEM, *TURNS), 2, "user"),
    ],
)
def test_turns_that_do_not_alternate(tokenizer, name, messages, number, expected):
    role = messages[number - 1].role
    with pytest.raises(InputError) as caught:
        ChatFormat(tokenizer, name).encode_all([make_record(messages, row=7)], 1000)
    assert str(caught.value) == (
        f'row 7 (id "id7"): message {number} is from {role}, where the chat template "{name}" can '
        f"only write {expected}; reorder the messages, or name a chat template that takes any "
        "order: tulu, llama3, chatml"
    )


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - set(IN_TURN)))
def test_templates_that_take_any_order(tokenizer, name):
    chat = ChatFormat(tokenizer, name)
    encoded = chat.encode([*TURNS[1:], SYSTEM, TURNS[1]], 1000)
    end = TEMPLATES[name].end or "</s>"
    assert learned_texts(chat, encoded) == [f"Goethe.{end}", f"Rousseau.{end}", f"Goethe.{end}"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_unknown_role(tokenizer, name):
    chat = ChatFormat(tokenizer, name)
    expected = (
        f'message 2 has the role "tool", which the chat template "{name}" cannot write; known'
    )
    for encode in (chat.encode, chat.encode_prompt):
        with pytest.raises(InputError, match=expected):
            encode([TURNS[0], Message("tool", "4"), *TURNS], 1000)


@pytest.mark.parametrize("name", IN_TURN)
def test_prompt_needs_a_question(tokenizer, name):
    with pytest.raises(InputError, match=f'message 2 is from assistant, where .*"{name}" can only'):
        ChatFormat(tokenizer, name).encode_prompt([SYSTEM, TURNS[1]], 1000)
