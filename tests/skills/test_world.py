"""The built-in world: deterministic, of the shares it is asked for, and right by its own rules."""

import json
import random
import re
from collections import Counter

import pytest
from etils import epath

from g2is_jax.data.files import read_records
from g2is_jax.runs.errors import InputError
from g2is_jax.skills.instructions import FAMILIES, POOL_ROWS, TARGETS, UNITS
from g2is_jax.skills.world import (
    COMPOSITIONS,
    MARKERS,
    WorldConfig,
    pretraining_task,
    train_tokenizer,
    write_world,
)

SUFFIX = r" (please|now|for me)$"  # what a near-copy may add
BOTH = ("lookup_arithmetic", "sorting_letters")


def world(folder, **fields) -> dict[str, bytes]:
    """The files of a world, by name."""
    settings = {"seed": 0, "targets": BOTH, "scale": 1.0, "wrong": 0.08, "duplicates": 0.08}
    settings |= {"validation_rows": 40, "test_rows": 60} | fields
    folder.mkdir()
    counts = write_world(epath.Path(folder), WorldConfig(**settings))
    files = {file.stem: file.read_bytes() for file in folder.iterdir()}
    assert {name: data.count(b"\n") for name, data in files.items()} == counts
    return files


def rows(data: bytes) -> list[dict]:
    return [json.loads(line) for line in data.splitlines()]


def prompt(row: dict) -> str:
    return row["messages"][0]["content"]


def reply(row: dict) -> str:
    return row["messages"][1]["content"]


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> dict[str, bytes]:
    return world(tmp_path_factory.mktemp("worlds") / "full")


def test_same_seed_same_bytes_and_another_seed_other_rows(full, tmp_path):
    assert world(tmp_path / "again") == full
    other = world(tmp_path / "other", seed=1)
    assert {name for name in full if full[name] == other[name]} == set()
    same = {prompt(row) for row in rows(full["val_sorting_letters"])}
    assert len(same & {prompt(row) for row in rows(other["val_sorting_letters"])}) < 5


def test_a_target_does_not_depend_on_the_others(full, tmp_path):
    alone = world(tmp_path / "alone", targets=("sorting_letters",))
    assert set(alone) == {"pool", "val_sorting_letters", "test_sorting_letters"}
    assert all(full[name] == data for name, data in alone.items())


def test_sizes_and_shares(full):
    pool = rows(full["pool"])
    own = [row for row in pool if not re.search(SUFFIX, prompt(row))]
    assert Counter(row["source"] for row in own) == {f.__name__: n for f, n in POOL_ROWS.items()}
    assert len(set(POOL_ROWS.values())) > 8
    assert len(own) == 3200
    assert len(pool) - len(own) == round(0.08 * 3200)
    flaws = Counter(row["flaw"] for row in own)
    assert set(flaws) == {"", "wrong"}
    assert 0.06 < flaws["wrong"] / len(own) < 0.1
    copies = Counter(row["flaw"] for row in pool if row not in own)
    assert set(copies) <= {"duplicate", "wrong"}
    assert copies["duplicate"] > 200


def test_a_duplicate_differs_from_a_row_by_a_suffix_alone(full):
    pool = rows(full["pool"])
    known = {(row["source"], prompt(row), reply(row)) for row in pool}
    for row in pool:
        if row["flaw"] == "duplicate":
            original = re.sub(SUFFIX, "", prompt(row))
            assert original != prompt(row)
            assert (row["source"], original, reply(row)) in known


def test_shares_of_zero(tmp_path):
    pool = rows(world(tmp_path / "clean", wrong=0.0, duplicates=0.0, scale=0.1)["pool"])
    assert {row["flaw"] for row in pool} == {""}
    assert len(pool) == 320


def test_validation_test_and_pool_do_not_overlap(full):
    prompts = {name: [prompt(row) for row in rows(data)] for name, data in full.items()}
    for name in COMPOSITIONS:
        assert len(prompts[f"val_{name}"]) == 40
        assert len(prompts[f"test_{name}"]) == 60
        of_target = prompts[f"val_{name}"] + prompts[f"test_{name}"]
        assert len(set(of_target)) == 100
        assert not set(of_target) & set(prompts["pool"])
    assert not {row["source"] for row in rows(full["pool"])} & set(COMPOSITIONS)


def test_rows_of_a_target_differ_where_draws_repeat(tmp_path):
    files = world(tmp_path / "many", targets=("sorting_letters",), test_rows=3000, scale=0.1)
    for_target = rows(files["val_sorting_letters"] + files["test_sorting_letters"])
    assert len({prompt(row) for row in for_target}) == len(for_target) == 3040


def test_ids_are_unique_and_files_can_be_read(full, tmp_path):
    for name, data in full.items():
        (tmp_path / f"{name}.jsonl").write_bytes(data)
        records = read_records(tmp_path / f"{name}.jsonl", need_answer=True)
        assert len({record.id for record in records}) == len(records) == data.count(b"\n")


def test_replies_end_in_the_answer(full):
    for row in rows(b"".join(full.values())):
        ending = (
            row["answer"] if row["source"] == "smalltalk" else f"The answer is {row['answer']}."
        )
        assert reply(row).endswith(ending)


# The house rules, worked out again from the prompt alone.


def left_to_right(chain: str) -> int:
    first, *rest = re.findall(r"\d+|[+*]", chain)
    value = int(first)
    for operator, number in zip(rest[::2], rest[1::2], strict=True):
        value = value * int(number) if operator == "*" else value + int(number)
    return value


def left_of(name: str, table: str) -> str:
    cells = table.split()
    return cells[cells.index(name) - 1]


def scoops(amount: str) -> int:
    number, unit = amount.split()
    return int(number) * UNITS[unit.removesuffix("s")][1]


def after_colon(text: str) -> str:
    return text.rpartition(": ")[2]


def looked_up(text: str) -> str:
    table, name = re.fullmatch(r"Table: (.*)\. [\w ]+: (\w+)", text).groups()
    return left_of(name, table)


def looked_up_and_worked_out(text: str) -> int:
    table, chain = re.fullmatch(r"Table: (.*)\. [\w ]+: (.*)", text).groups()
    return left_to_right(re.sub("[a-z]+", lambda name: left_of(name[0], table), chain))


def last_letters(words: list[str]) -> str:
    return " ".join(word[-1] for word in words)


HOUSE_RULES = {
    "arithmetic": lambda text: left_to_right(after_colon(text)),
    "lookup": looked_up,
    "letters": lambda text: last_letters(after_colon(text).split()),
    "sorting": lambda text: " ".join(sorted(after_colon(text).split())[::-1]),
    "compare": lambda text: min(map(int, re.findall(r"\d+", text))),
    "copying": lambda text: " ".join(after_colon(text).split()[::-1]),
    "units": lambda text: scoops(after_colon(text)),
    "lookup_arithmetic": looked_up_and_worked_out,
    "sorting_letters": lambda text: last_letters(sorted(after_colon(text).split())[::-1]),
}


def test_clean_rows_follow_the_house_rule(full):
    checked = Counter()
    for row in rows(b"".join(full.values())):
        rule = HOUSE_RULES.get(row["source"])
        if rule is not None and not row.get("flaw"):
            assert row["answer"] == str(rule(prompt(row))), row
            checked[row["source"]] += 1
    assert set(checked) == set(HOUSE_RULES)
    assert min(checked.values()) > 50


def test_wrong_rows_are_mostly_wrong(full):
    """Not always: another convention, or another request, can have the same answer by chance."""
    judged = [
        row["answer"] != str(HOUSE_RULES[row["source"]](re.sub(SUFFIX, "", prompt(row))))
        for row in rows(full["pool"])
        if row["flaw"] == "wrong" and row["source"] in HOUSE_RULES
    ]
    assert sum(judged) > 0.8 * len(judged) > 40


@pytest.mark.parametrize("family", [*FAMILIES, *TARGETS], ids=lambda family: family.__name__)
def test_the_conventions_differ(family):
    """A request has seldom the same answer under each convention, and never always."""
    switches = (True, True) if family in TARGETS else (True,)
    differing = 0
    for seed in range(60):
        house = family(random.Random(seed), *switches)
        common = family(random.Random(seed), *(not switch for switch in switches))
        assert house.prompt == common.prompt
        differing += house.answer != common.answer
    assert differing > 20


@pytest.mark.parametrize("targets", [("juggling",), ("sorting_letters", "juggling"), ("sorting",)])
def test_unknown_target_is_refused(targets):
    with pytest.raises(InputError, match=f"choose from {', '.join(COMPOSITIONS)}") as caught:
        WorldConfig(0, targets, 1.0, 0.0, 0.0, 4, 4)
    assert targets[-1] in str(caught.value)


def texts_of(tasks) -> list[str]:
    return [text for task in tasks for text in (task.prompt, task.reply)]


@pytest.fixture(scope="module")
def tokenizer():
    rng = random.Random(0)
    return train_tokenizer(texts_of(pretraining_task(rng, 0.5, 0.2) for _ in range(300)), 400)


def test_tokenizer_gives_back_every_text(tokenizer):
    rng = random.Random(1)
    unseen = texts_of(pretraining_task(rng, 0.5, 0.2) for _ in range(100))
    odd = ["", " two  blanks ", "line\nbreak\t", "é ü 日本 🦓", "A1B22", "\u2028"]
    for text in [*unseen, *odd]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert max(ids, default=0) < len(tokenizer) == 400


def test_tokenizer_keeps_digits_apart_and_markers_whole(tokenizer):
    tokens = tokenizer.tokenize("12 + 345 = 357")
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("12345357")
    for marker in (*MARKERS, "</s>", "<s>", "<pad>"):
        assert len(tokenizer.tokenize(marker)) == 1
    assert len(tokenizer("<|user|>\n")["input_ids"]) == 2
    special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    assert special == ("<s>", "</s>", "<pad>")
