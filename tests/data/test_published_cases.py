"""Rows and files as people publish them are read as what they are, or refused as what they are."""

import pytest

from g2is_jax.data.files import read_rows
from g2is_jax.runs.errors import InputError

HI, HELLO = ("user", "Hi"), ("assistant", "Hello")
PAIR = [[HI, HELLO]]
SUM = [[("user", "2+2?"), ("assistant", "4")]]
MASKED = [[HI, ("assistant", "WRONG", "not learned"), ("user", "Again"), HELLO]]
# Case -> the conversations that it holds.
READ = {
    "rows/alpaca_lf_system_history": [[
        ("system", "You are a poet."), ("user", "Tell."), ("assistant", "She came."),
        ("user", "And then?"), ("assistant", "She left."),
    ]],
    "rows/alpaca_nan_input": PAIR,
    "rows/alpaca_output_number": [[("user", "1+1?"), ("assistant", "2")]],
    "rows/axolotl_train_false": MASKED,
    "rows/conversations_role_content": PAIR,
    "rows/dolly15k": [[("user", "Name a river."), ("assistant", "The Oder.")]],
    "rows/dpo_prompt_chosen": PAIR,
    "rows/flan_inputs_targets": [[("user", "Is 2 even?"), ("assistant", "yes")]],
    "rows/gsm8k": [[("user", "1+1?"), ("assistant", "It is 2\n#### 2")]],
    "rows/instruction_response": PAIR,
    "rows/messages_capital_roles": PAIR,
    "rows/messages_from_value": PAIR,
    "rows/messages_model_role": PAIR,
    "rows/messages_null_plus_alpaca": PAIR,
    "rows/mixed_formats": PAIR * 2,
    "rows/oasst1_tree": PAIR,
    "rows/openai_developer": [[("system", "Be brief"), HI, HELLO]],
    "rows/openai_parts": PAIR,
    "rows/openai_reasoning_content": [
        [HI, ("assistant", "<think>\nthink hard\n</think>\n\nHello")]
    ],
    "rows/openai_weight0": MASKED,
    "rows/openorca": [[("system", "Be kind."), ("user", "1+1?"), ("assistant", "2")]],
    "rows/prompt_response": PAIR,
    "rows/sharegpt_chatgpt": PAIR,
    "rows/sharegpt_dup_ids": [*PAIR, [("user", "Bye"), ("assistant", "Bye")]],
    "rows/sharegpt_top_system": [[("system", "Speak like a pirate."), HI, HELLO]],
    "rows/source_int": PAIR,
    "rows/source_list": PAIR,
    "rows/trl_prompt_completion_lists": PAIR,
    "rows/ultrachat_original": [[HI, HELLO, ("user", "Bye"), ("assistant", "Bye bye")]],
    "files/X": SUM,
    "files/array": SUM,
    "files/array_oneline": SUM,
    "files/lines": SUM,
    "files/nan": [[("user", "a"), ("assistant", "b")]],
    "files/x": SUM,
}  # fmt: skip
# Case -> the beginning of its error, behind the file's name.
REFUSED = {
    "rows/alpaca_empty_output_one_row": ':2: "output" is empty; fill it',
    "rows/openai_tool_calls": ':1: message 2: "tool_calls": calls of tools cannot be learned',
    "rows/sharegpt_empty_conv": ':2: "conversations" is empty; ',
    "rows/sharegpt_gpt_first": ":2: message 1 is from assistant, expected user; ",
    "rows/sharegpt_two_gpt": ":1: message 3 is from assistant, expected user; ",
    "rows/text_only": ':1: only "text", which does not say what is asked',
    "files/bad_last_line": ":2: not JSON (",
    "files/html404": ": an HTML page, not rows: download it again",
    "files/lfs_pointer": ": a Git LFS pointer, not rows: git lfs pull",
    "files/utf16": ": UTF-16, not UTF-8: convert",
    "files/x.parquet": ": a parquet file: ",
}
# Case -> a piece of the lines that say how it was read.
TOLD = {
    "rows/alpaca_one_empty_output": 'jsonl:18: "output" is empty; fill it or leave the row out',
    "rows/dolly15k": "not read: category (1)",
    "rows/dpo_prompt_chosen": '"chosen" is the reply, "rejected" is not read',
    "rows/flan_inputs_targets": "not read: _task_name (1)",
    "rows/mixed_formats": "2 rows read as instruction/output (1), messages (1)",
    "rows/openai_reasoning_content": "thoughts stand before their reply",
    "rows/openai_weight0": "replies marked by weight, train, training, loss, masked are not",
    "rows/sharegpt_dup_ids": "1 repeated ids got a number added",
}


def find(folder, case):
    """The file of a case, named without the end of its name where that is its own alone."""
    exact = folder / case
    found = [exact] if exact.is_file() else sorted(folder.glob(f"{case}.*"))
    return next(file for file in found if file.suffix != ".parquet" or exact == file)


@pytest.mark.parametrize("case", READ)
def test_read_as_it_is(published_cases, case):
    records = read_rows(find(published_cases, case), "drop").records
    found = [
        [(m.role, m.content) if m.learned else (m.role, m.content, "not learned") for m in messages]
        for messages in (record.messages for record in records)
    ]
    assert found == READ[case]
    assert len({record.id for record in records}) == len(records)


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("bad_rows", ["drop", "stop"])
def test_refused_as_it_is(published_cases, case, bad_rows):
    file = find(published_cases, case)
    with pytest.raises(InputError) as caught:
        read_rows(file, bad_rows)
    assert str(caught.value).startswith(f"{file}{REFUSED[case]}")


@pytest.mark.parametrize("case", TOLD)
def test_told(published_cases, case):
    assert TOLD[case] in "\n".join(read_rows(find(published_cases, case), "drop").summary())


def test_one_bad_row_costs_one_row(published_cases):
    file = published_cases / "rows" / "alpaca_one_empty_output.jsonl"
    found = read_rows(file, "drop")
    assert [record.row for record in found.records] == [row for row in range(41) if row != 17]
    with pytest.raises(InputError, match=r':18: "output" is empty'):
        read_rows(file, "stop")


def test_every_case_has_its_test(published_cases):
    names = {*READ, *REFUSED, *TOLD}
    files = {find(published_cases, name) for name in names}
    assert files == {*published_cases.glob("rows/*"), *published_cases.glob("files/*")}
