"""The shapes of the most common public sets go from a file to a selection by their path alone."""

import json

import pytest
from etils import epath

from g2is_jax.pipeline import selection_stage
from tests.support.small import row, write_rows
from tests.support.small_job import changed

ROWS, SHOWN_ROWS = 30, 4


def alpaca(asked: str, replied: str) -> dict:
    return {"instruction": asked, "input": "", "output": replied, "text": f"{asked} {replied}"}


def openhermes(asked: str, replied: str) -> dict:
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": replied}]
    return {"conversations": turns, "source": "glaive", "category": None, "system_prompt": None}


def tulu(asked: str, replied: str) -> dict:
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": replied}]
    return {"id": f"tulu_{asked}", "messages": turns, "dataset": "flan_v2"}


def gsm8k(asked: str, replied: str) -> dict:
    return {"question": asked, "answer": f"{replied}\n#### 7"}


def dolly(asked: str, replied: str) -> dict:
    return {"instruction": asked, "context": "", "response": replied, "category": "open_qa"}


@pytest.mark.parametrize("made", [alpaca, openhermes, tulu, gsm8k, dolly])
def test_from_a_public_file_to_a_selection(base_config, tmp_path, made):
    """No flag but the paths of the pool, and of a few rows that show what is wanted."""
    texts = [[turn["content"] for turn in row(n)["messages"]] for n in range(ROWS + SHOWN_ROWS)]
    rows = [made(*text) for text in texts]
    pool, shown = tmp_path / "pool.jsonl", tmp_path / "val_x.jsonl"
    write_rows(pool, rows[:ROWS])
    write_rows(shown, rows[ROWS:])
    config = changed(base_config, data__pool=str(pool), data__validation=str(shown))
    (chosen,) = selection_stage.run(config, epath.Path(tmp_path / "work"))
    assert len(chosen.rows) == 6  # 20 %
    lines = (tmp_path / "work/selections/g2is-0/selected.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [rows[n] for n in chosen.rows]


@pytest.fixture
def base_config(config):
    """The small job's model and training; its files are not named."""
    return changed(config, data__pool="", run__methods="g2is", warmup__epochs=1)
