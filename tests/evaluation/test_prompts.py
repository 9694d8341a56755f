"""Prompts: exactly the right worked rows in the right order, whole, and never the row itself."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.messages import Message
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.evaluation.evaluate import encode_prompts
from g2is_jax.evaluation.tasks.prompts import choose_shots, lettered, replied
from g2is_jax.evaluation.tasks.table import TASKS, EvalSet, Task, make_eval_set
from g2is_jax.runs.errors import InputError
from g2is_jax.skills.world import BASE_FOLDER
from tests.support.characters import Characters, record, text_of

TWO_SHOTS = Task("two", 2, replied, ("number",), letters="")
WORKED = [
    record(0, "1+1?", "2", "sums"),
    record(1, "2*3?", "6", "products"),
    record(2, "2+2?", "4", "sums"),
    record(3, "5*5?", "25", "products"),
    record(4, "4+5?", "9", "sums"),
]
TESTS = [record(0, "7*8?", "56", "products"), record(1, "1+1?", "2", "sums")]


def prompts(eval_set: EvalSet, max_length: int, new_tokens: int) -> tuple[list[str], int]:
    found, dropped = encode_prompts(Characters(), eval_set, max_length, new_tokens)
    return [text_of(tokens_T) for tokens_T in found], dropped


def test_shots_of_the_own_subtask_in_order_and_then_the_question():
    eval_set = make_eval_set(TWO_SHOTS, TESTS, "test.jsonl", WORKED, "val.jsonl")
    texts, dropped = prompts(eval_set, 1000, 10)
    assert texts == [
        "u:2*3?\na:It is 6.\nu:5*5?\na:It is 25.\nu:7*8?\na:",
        "u:2+2?\na:It is 4.\nu:4+5?\na:It is 9.\nu:1+1?\na:",  # the first worked row asks the same
    ]
    assert dropped == 0


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), min_size=1, max_size=30),
    st.integers(0, 3),
)
def test_shots_are_the_first_of_the_subtask_that_ask_something_else(rows, count):
    worked = [record(n, f"{s}{q}?", "1", s) for n, (s, q) in enumerate(rows)]
    asking = [record(n, f"{s}{n}?", "1", s) for n, s in enumerate("abc")]
    able = {
        row.id: [w for w in worked if w.subtask == row.subtask and w.messages != row.messages]
        for row in asking
    }
    if any(len(found) < count for found in able.values()):
        with pytest.raises(InputError):
            choose_shots(asking, worked, count, "val.jsonl")
        return
    for row, shots in zip(asking, choose_shots(asking, worked, count, "val.jsonl"), strict=True):
        assert shots == able[row.id][:count]


def test_files_without_subtasks_are_one():
    """Rows without a subtask have their file's name for it, and the two files differ."""
    worked = [dataclasses.replace(row, subtask="val_sums") for row in WORKED]
    tests = [dataclasses.replace(row, subtask="test_sums") for row in TESTS[:1]]
    (shots,) = choose_shots(tests, worked, 2, "val.jsonl")
    assert [shot.id for shot in shots] == ["row-0", "row-1"]


def test_too_few_shots():
    four = dataclasses.replace(TWO_SHOTS, shots=3)
    with pytest.raises(InputError) as caught:
        make_eval_set(four, TESTS, "test.jsonl", WORKED, "val.jsonl")
    assert str(caught.value) == (
        "val.jsonl: 2 worked rows of the subtask 'products' for the test row \"row-0\", the task "
        'shows 3; add rows with that "subtask", or name another file in evaluate.shots_files'
    )


def test_a_prompt_that_does_not_fit_loses_whole_shots_from_the_front():
    eval_set = make_eval_set(TWO_SHOTS, TESTS[:1], "test.jsonl", WORKED, "val.jsonl")
    whole, last, bare = (
        "u:2*3?\na:It is 6.\nu:5*5?\na:It is 25.\nu:7*8?\na:",
        "u:5*5?\na:It is 25.\nu:7*8?\na:",
        "u:7*8?\na:",
    )
    for room in range(1, len(whole) + 3):
        expected = next((text for text in (whole, last, bare) if len(text) <= room), bare[-room:])
        dropped = [whole, last].index(expected) if expected in (whole, last) else 2
        for new_tokens in (1, 30):
            assert prompts(eval_set, room + new_tokens, new_tokens) == ([expected], dropped)


def test_the_rows_own_system_message_comes_first_and_those_of_shots_not_at_all():
    def with_system(row, text):
        return dataclasses.replace(row, messages=(Message("system", text), *row.messages))

    eval_set = EvalSet(
        TWO_SHOTS,
        [with_system(TESTS[0], "Be brief.")],
        [[with_system(WORKED[1], "Be wordy."), WORKED[3]]],
    )
    texts, _ = prompts(eval_set, 1000, 1)
    assert texts == ["s:Be brief.\nu:2*3?\na:It is 6.\nu:5*5?\na:It is 25.\nu:7*8?\na:"]


@pytest.mark.parametrize("max_length", [1000, 30])
def test_the_default_task_shows_the_row_alone_as_it_always_did(max_length):
    """Also where the row is too long: the chat format cuts it."""
    chat = ChatFormat(load_tokenizer(BASE_FOLDER), "auto")
    rows = [record(0, "sort these letters: " + "k a q " * 20, "a k q"), *TESTS]
    eval_set = make_eval_set(TASKS["answer"], rows, "test.jsonl", [], "val.jsonl")
    found, dropped = encode_prompts(chat, eval_set, max_length, 8)
    expected = [chat.encode_prompt(row.messages, max_length - 8) for row in rows]
    assert [tokens_T.tolist() for tokens_T in found] == [tokens_T.tolist() for tokens_T in expected]
    assert dropped == 0


@pytest.mark.parametrize(
    ("question", "answer", "asked", "reply"),
    [
        ("Which?\nA. x\nB. y", "B", "Which?\nA. x\nB. y\nAnswer:", "B"),
        ("Which?\nA. x\nB. y\nAnswer:", "(B)", "Which?\nA. x\nB. y\nAnswer:", "B"),
        ("Which?\nAnswer: ", " b.", "Which?\nAnswer: ", "B"),
    ],
)
def test_lettered(question, answer, asked, reply):
    messages = lettered(record(0, question, answer))
    assert [(m.role, m.content) for m in messages] == [("user", asked), ("assistant", reply)]


@pytest.mark.parametrize("bad", ["test", "val"])
@pytest.mark.parametrize("answer", ["Paris", "E", "", None, "AB"])
def test_an_answer_that_is_no_letter(bad, answer):
    five = TASKS["gpqa_5shot"]
    worked, tests = [[record(n, f"{s}{n}?", "A") for n in range(6)] for s in ("v", "t")]
    (worked if bad == "val" else tests)[2] = record(2, "which?", answer)
    with pytest.raises(
        InputError, match=rf'^{bad}\.jsonl: row "row-2": the answer .* is none of A'
    ):
        make_eval_set(five, tests, "test.jsonl", worked, "val.jsonl")


def test_shots_of_the_benchmark_files(shared_data):
    """Eight worked problems before a question, each with its own reply, on real rows."""
    from g2is_jax.data.files import read_records

    worked, tests = (read_records(shared_data / f"{s}_gsm8k.jsonl") for s in ("val", "test"))
    eval_set = make_eval_set(TASKS["gsm8k"], tests[:3], "test", worked, "val")
    texts, _ = prompts(eval_set, 100_000, 1)
    shots = "".join(
        f"u:{row.messages[0].content}\na:{row.messages[1].content}\n" for row in worked[:8]
    )
    assert texts == [f"{shots}u:{row.messages[0].content}\na:" for row in tests[:3]]
