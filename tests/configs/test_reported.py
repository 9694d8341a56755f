"""Configs of the paper's rows: what they share, what sets them apart, and what their texts say."""

import functools
import itertools
import re
import runpy
import statistics

import pytest
from ml_collections import ConfigDict

from configs import default
from configs.reported import MODELS, POOLS, REPLY_TOKENS
from g2is_jax.model.build import Model, build_model
from g2is_jax.pipeline.fields import flat_fields
from g2is_jax.pipeline.settings import check_settings
from g2is_jax.planning.chips import CHIPS
from g2is_jax.planning.dry_run import decoder
from g2is_jax.planning.machines import published
from g2is_jax.planning.model_costs import size
from g2is_jax.planning.stage_costs import Plan, Sizes, stages
from g2is_jax.runs.errors import InputError
from tests.support.small import ROOT

ROWS = [f"{model}_{target}" for model, target in itertools.product(MODELS, REPLY_TOKENS)]
PARAMETERS = {  # of the base, and of an adapter of rank 128
    "llama31_8b": (8_030_261_248, 109_051_904),
    "gemma_7b": (8_537_680_896, 102_760_448),
    "mistral_7b": (7_248_023_552, 109_051_904),
}


def module(row: str) -> dict:
    return runpy.run_path(str(ROOT / "configs" / f"{row}.py"))


def fields(row: str, pool: str) -> dict:
    return flat_fields(module(row)["get_config"](pool))


def differing(one: dict, other: dict) -> set[str]:
    return {field for field in one if one[field] != other[field]}


@functools.cache
def shapes(checkpoint: str) -> Model:
    """The model of a row: all rows of a base model have the same."""
    row = next(row for row in ROWS if module(row)["get_config"]().model.checkpoint == checkpoint)
    settings = check_settings(module(row)["get_config"]())
    return build_model(decoder(checkpoint), settings.lora, settings.base.model)


def commands(row: str) -> dict[str, dict[str, str]]:
    """Flags of each command in a row's text, by script."""
    text = re.sub(r"\\\n\s+", "", module(row)["__doc__"])
    lines = re.findall(r"^    python -m experiments\.(\w+) (.*)$", text, re.MULTILINE)
    return {script: dict(re.findall(r"--(\w+)=(\S+)", flags)) for script, flags in lines}


def test_there_is_a_row_for_each_base_model_and_target():
    files = {file.stem for file in (ROOT / "configs").glob("*.py")}
    assert {name for name in files if name.startswith(tuple(MODELS))} == set(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_rows_are_valid_on_every_pool(row):
    model = next(name for name in MODELS if row.startswith(name))
    for pool, file in POOLS.items():
        config = module(row)["get_config"](pool)
        assert check_settings(config).selection.budget.budget == 0.01
        assert (config.data.pool, config.model.checkpoint) == (file, MODELS[model])
        assert config.data.test == f"data/test_{row.removeprefix(model + '_')}.jsonl"
    assert module(row)["get_config"]() == module(row)["get_config"]("infinity")


def test_a_wrong_pool_is_told_the_pools():
    for row in ROWS:
        told = rf"configs/{row}\.py: pool 'wiki' is unknown; .* infinity, cot, flan, as in"
        with pytest.raises(InputError, match=told):
            module(row)["get_config"]("wiki")


def test_rows_differ_in_nothing_but_model_target_and_pool():
    first = fields(ROWS[0], "infinity")
    assert differing(first, fields(ROWS[0], "flan")) == {"data.pool"}
    of_target = {"data.validation", "data.test", "evaluate.tasks", "evaluate.new_tokens"}
    for row in ROWS:
        apart = differing(first, fields(row, "infinity"))
        assert apart <= of_target | {"model.checkpoint"}
        assert ("model.checkpoint" in apart) == (row.split("_")[0] != ROWS[0].split("_")[0])


def test_what_the_paper_states_is_so():
    config = module(ROWS[0])["get_config"]()
    assert (config.lora.rank, config.lora.alpha, config.projection.width) == (128, 512.0, 8192)
    assert (config.finetune.epochs, config.finetune.schedule) == (3, "cosine")
    assert config.paper.to_dict() == default.paper_preset().to_dict()


@pytest.mark.parametrize("model", MODELS)
def test_shapes_of_base_and_adapter(model):
    built = shapes(MODELS[model])
    assert (size(built.base_shapes), size(built.adapter_shapes)) == PARAMETERS[model]


@pytest.mark.parametrize("row", ROWS)
def test_commands_of_a_row_are_of_that_row(row):
    found = commands(row)
    assert list(found) == ["run_all", "estimate"]
    path, _, pool = found["run_all"]["config"].partition(":")
    assert (path, pool) == (f"configs/{row}.py", "infinity")
    assert found["run_all"]["workdir"] == f"runs/{row}_infinity"
    assert found["estimate"]["config"] == path
    for flags in found.values():
        assert (ROOT / flags["config"].partition(":")[0]).is_file()


@pytest.mark.parametrize("row", ROWS)
def test_hours_and_hardware_of_a_row_are_those_of_its_estimate(row):
    text, flags = " ".join(module(row)["__doc__"].split()), commands(row)["estimate"]
    config: ConfigDict = module(row)["get_config"]()
    sizes = Sizes(**{field: int(flags[field]) for field in Sizes.__dataclass_fields__})
    devices, chip = int(flags["devices"]), CHIPS[flags["chip"]]
    model, machine = shapes(config.model.checkpoint), published(flags["chip"])
    plan = Plan(config, check_settings(config), model, sizes.rows(), devices)
    hours = sum(machine.seconds(stage, "bfloat16", devices) for stage in stages(plan)) / 3600
    assert f"Expected hours: {hours:.1f}, for {sizes.pool_rows:,} rows" in text
    assert "Hardware: one H100 of 80 GB." in text
    assert (flags["chip"], devices, chip.memory) == ("h100", 1, 80e9)
    assert all(sum(stage.memory.values()) <= chip.memory for stage in stages(plan))
    replies = f"replies of up to {config.evaluate.new_tokens:,} tokens"
    assert (replies if config.evaluate.new_tokens else "the likeliest letter") in text


def test_figures_are_the_published_ones_or_said_not_to_be_published():
    """Those of the five targets have the published means."""
    found = []
    for row in ROWS:
        text = " ".join(module(row)["__doc__"].split())
        if row.startswith("llama31_8b"):
            named = r"Expected figure, .*: G2IS ([\d.]+), LESS ([\d.]+), full data ([\d.]+)\. "
            found.append([float(figure) for figure in re.search(named, text).groups()])
        else:
            assert "Expected figure: not published" in text
    means = [statistics.mean(figures) for figures in zip(*found, strict=True)]
    assert means == pytest.approx([48.55, 47.17, 47.15], abs=0.006)
