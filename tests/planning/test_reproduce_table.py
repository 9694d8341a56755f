"""The paper's rows in docs/reproduce.md: generated, of what fits, and by commands that work."""

import re

import pytest

from configs import reproduce
from docs.reproduce_table import CONFIGS, ON_SLICE
from g2is_jax.planning.chips import CHIPS
from g2is_jax.planning.model_costs import size
from g2is_jax.planning.reproduce_table import CHIP, replace_table, reproduce_table, row_plan
from g2is_jax.planning.stage_costs import stage_costs
from tests.support.small import ROOT

PARAMETERS = {  # of the base, and of an adapter of rank 128
    "llama31_8b": (8_030_261_248, 109_051_904),
    "gemma_7b": (8_537_680_896, 102_760_448),
    "mistral_7b": (7_248_023_552, 109_051_904),
}


@pytest.fixture(scope="module")
def table() -> str:
    return reproduce_table(CONFIGS, ON_SLICE)


def test_the_page_has_the_table_that_is_generated(table):
    page = (ROOT / "docs" / "reproduce.md").read_text()
    found = "\n".join(line for line in page.splitlines() if line.startswith("| "))
    message = "run python -m docs.reproduce_table --page=docs/reproduce.md"
    assert found == table, f"{message} for this table:\n{table}"


def test_a_table_takes_the_place_of_the_pages_own():
    page = "# Rows\n\nText | with a bar.\n\n{}\n\nMore text.\n"
    old, new = "| a |\n| --- |\n| 1 |", "| b |\n| --- |\n| \\1 |\n| 3 |"
    assert replace_table(page.format(old), new) == page.format(new)


def test_commands_of_the_table_are_of_its_rows(table):
    command = r"`python -m experiments\.run_all --config=(\S+):(\S+) --workdir=(\S+)`"
    commands = re.findall(command, table)
    assert {path for path, _, _ in commands} == {"configs/reproduce.py"}
    assert [argument for _, argument, _ in commands] == list(CONFIGS)
    assert len({workdir for _, _, workdir in commands}) == len(CONFIGS)


def test_figures_are_the_published_ones(table):
    """A row on Infinity-Instruct has three, one on CoT one; of other models none is public."""
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    figures = {(row[0].removeprefix("| "), row[1], row[2]): row[3] for row in rows}
    assert figures["Llama-3.1-8B", "gsm8k", "infinity"] == "62.02, 60.65, 58.30"
    assert figures["Llama-3.1-8B", "bbh", "cot"].startswith("65.66 (")
    others = {text for (model, _, _), text in figures.items() if model != "Llama-3.1-8B"}
    assert others == {"not public"}


@pytest.mark.parametrize("model", reproduce.MODELS)
def test_rows_of_a_model_have_its_shapes_and_fit(model):
    for target in reproduce.TARGETS:
        plan = row_plan(CONFIGS[f"model={model},target={target},pool=infinity"])
        for cost in stage_costs(plan):
            assert sum(cost.memory.values()) <= CHIPS[CHIP].memory, cost.name
        assert (size(plan.model.base_shapes), size(plan.model.adapter_shapes)) == PARAMETERS[model]
