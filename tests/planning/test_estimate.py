"""Hours and bytes of a run, estimated from a config: counted by hand, and how they grow."""

import dataclasses
import json
import subprocess
import sys

import pytest

from configs import default
from g2is_jax.model.build import build_model
from g2is_jax.model.families import decoder_config
from g2is_jax.pipeline.settings import check_settings
from g2is_jax.planning.chips import CHIPS, Work
from g2is_jax.planning.cost_table import seconds
from g2is_jax.planning.estimate import run
from g2is_jax.planning.plan import Plan, Sizes
from g2is_jax.planning.stage_costs import StageCost, stage_costs
from g2is_jax.runs.errors import InputError
from tests.support.small import ROOT, row, write_rows
from tests.support.small_job import changed
from tests.support.tiny_models import RAW

SIZES = Sizes(pool_rows=1000, validation_rows=30, test_rows=50, mean_tokens=99)
GIVEN = vars(SIZES)
GRADIENTS = ("pool gradients", "validation gradients")
# Of the tiny Llama: two layers of width 42, 6 heads of 10, keys for 2 of them, an MLP of 53 and 131
# tokens; adapters of rank 3 on all layers.
LINEAR = 2 * (2 * 42 * 60 + 2 * 42 * 20 + 3 * 42 * 53)
ADAPTER = 2 * 3 * (2 * (42 + 60) + 2 * (42 + 20) + 3 * (42 + 53))
SIGNS = ADAPTER * 64


@pytest.fixture
def folder(tmp_path):
    """A checkpoint's folder with nothing in it but its config."""
    (tmp_path / "config.json").write_text(json.dumps(RAW["llama"]))
    return tmp_path


def plan(sizes: Sizes = SIZES, devices: int = 1, **fields) -> Plan:
    """The tiny Llama under the default config, with some fields changed."""
    fields = {"lora__rank": 3, "lora__targets": "all-linear", "projection__width": 64} | fields
    config = changed(default.get_config(), **fields)
    settings = check_settings(config, "tpu")
    model = build_model(decoder_config(RAW["llama"], "c"), settings.lora, settings.base.model)
    return Plan(config, settings, model, sizes.rows(), devices)


def by_name(found: list[StageCost]) -> dict[str, StageCost]:
    return {cost.name: cost for cost in found}


def hours(of: Plan) -> dict[str, float]:
    return {cost.name: seconds(of, cost, CHIPS["v5e"]) / 3600 for cost in stage_costs(of)}


def test_operations_of_the_pools_pass_by_hand():
    attention = 2 * (2 * 60 + 2 * 60) * 50  # of 99 tokens, the mean one sees 50
    token = 4 * LINEAR + 6 * ADAPTER + 3.5 * attention + 4 * 42 * 131
    found = by_name(stage_costs(plan()))
    assert found["pool gradients"].work["feature passes"].operations == 1000 * 99 * token
    assert found["validation gradients"].work["feature passes"].operations == 30 * 99 * token
    assert found["warm-up"].operations == pytest.approx(4 * 0.05 * 1000 * 99 * token)
    kinds = 2  # plain gradients, and Adam's for less and g2is_paper
    dense = by_name(stage_costs(plan(projection__kind="rademacher")))["pool gradients"]
    added = dense.operations - found["pool gradients"].operations
    assert added == 1000 * kinds * 2 * 2 * SIGNS  # of two parts


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("none", 2 * ADAPTER),
        ("sketch", 5 * ADAPTER),
        ("rademacher", 2 * ADAPTER + 1.5 * SIGNS / 10),
    ],
)
def test_traffic_of_the_projection_by_hand(kind, values):
    """A gradient is written and read, once more for each repetition; signs once a batch of 10."""
    fields = {"projection__repetitions": 3, "grads__batch_tokens": 999}
    found = by_name(stage_costs(plan(projection__kind=kind, **fields)))["pool gradients"]
    assert found.work["feature passes"].traffic == pytest.approx(1000 * 2 * 4 * values)
    width = ADAPTER if kind == "none" else 64
    assert found.memory["features"] == 4 * 2 * 10 * 2 * width


def test_evaluation_by_hand():
    """Answers are read, then prompts; replies of 7 tokens attend to 106 places at the end."""
    fields = {"run__methods": "none,full", "evaluate__new_tokens": 7, "model__max_length": 106}
    found = by_name(stage_costs(plan(evaluate__batch_tokens=999, **fields)))["evaluate"]
    block = 2 * LINEAR + 2 * ADAPTER
    head = 2 * 42 * 131
    prompt = 99 * (block + 2 * 2 * 120 * 50)
    reply = 7 * (block + 2 * 2 * 120 * 53.5 + head)
    assert found.operations == 2 * 50 * (2 * prompt + 99 * head + reply)
    base = 2 * (LINEAR + 2 * 42 * 131 + 5 * 42)
    cache = 106 * 2 * 2 * 20 * 2
    assert found.work["decoding"].traffic == pytest.approx(2 * 50 * 7 * (base / 9 + cache))
    assert found.memory["cache"] == 9 * cache  # 999 tokens: prompts and replies
    assert found.memory["logits"] == 4 * (999 // 4) * 131  # of a quarter of the tokens
    silent = by_name(stage_costs(plan(**fields | {"evaluate__new_tokens": 0})))["evaluate"]
    assert silent.operations == 2 * 50 * (prompt + 99 * head)
    assert list(silent.work) == ["reading"]
    choices = fields | {"evaluate__new_tokens": 0, "evaluate__tasks": "mmlu"}
    lettered = by_name(stage_costs(plan(**choices)))["evaluate"]
    assert lettered.operations == 5 * silent.operations  # the four letters are read as rows


def test_passes_without_gradients_by_hand():
    """Hidden states are read once for all seeds and targets, losses once more for each of them."""
    fields = {"run__seeds": "0,1,2", "run__methods": "rds_plus,embed,loss_drop"}
    found = by_name(stage_costs(plan(**fields)))
    names = ["hidden states", "prompt states", "aligned adapters", "pool losses"]
    assert list(found) == [*names, "fine-tune", "evaluate"]
    token = 2 * LINEAR + 2 * ADAPTER + 2 * 2 * 120 * 50
    for name in names[:2]:
        assert found[name].work["reading"].operations == (1000 + 30) * 99 * token
    passes = 1 + 3 * 2
    assert found["pool losses"].operations == passes * 1000 * 99 * (token + 2 * 42 * 131)
    warmup = by_name(stage_costs(plan(run__methods="less")))["warm-up"]
    rows = 3 * 30 / (0.05 * 1000)  # of three seeds, all targets' rows together
    assert found["aligned adapters"].operations == pytest.approx(rows * warmup.operations)
    assert set(found["aligned adapters"].memory) == set(warmup.memory)
    encoded = stage_costs(plan(run__methods="embed", embed__encoder="some/encoder"))
    assert list(by_name(encoded)) == ["fine-tune", "evaluate"]


def test_budgets_of_every_unit():
    for unit, budget in (("fraction", 0.02), ("rows", 20.0), ("tokens", 20.0 * 99)):
        of = plan(selection__unit=unit, selection__budget=budget)
        assert of.chosen == pytest.approx(20)


def test_hours_are_those_of_the_published_numbers():
    busy, v5e = StageCost("s", {"training": Work(197e12)}, {}), CHIPS["v5e"]
    assert seconds(plan(), busy, v5e, 0.5) == pytest.approx(2)
    assert seconds(plan(model__activations="float32"), busy, v5e, 0.5) == pytest.approx(6 * 2)
    exact = StageCost("s", {"walk": Work(0.0, 197e12, 819e9)}, {})
    assert seconds(plan(devices=2), exact, v5e, 1.0) == pytest.approx((6 + 1) / 2)
    both = StageCost("s", busy.work | exact.work, {})
    assert seconds(plan(), both, v5e, 0.5) == pytest.approx((1 + 6 + 1) / 0.5)


@pytest.mark.parametrize("kind", ["rademacher", "sketch", "none"])
def test_hours_grow_with_the_rows_of_the_pool(kind):
    once = hours(plan(projection__kind=kind))
    more = hours(plan(dataclasses.replace(SIZES, pool_rows=3000), projection__kind=kind))
    for stage in ("warm-up", "pool gradients", "fine-tune"):
        assert more[stage] == pytest.approx(3 * once[stage]), stage
    assert more["walk"] == pytest.approx(9 * once["walk"])  # more rows to read, for more picks
    for stage in ("validation gradients", "evaluate"):
        assert more[stage] == once[stage], stage


def test_a_front_reads_the_features_once_for_many_rows():
    """The default walk has one above 4,096 rows, the paper's has none."""
    sizes = dataclasses.replace(SIZES, pool_rows=10_000)

    def work(method: str) -> Work:
        return by_name(stage_costs(plan(sizes, run__methods=method)))["walk"].work["walk"]

    assert work("g2is").exact == work("g2is_paper").exact
    assert work("g2is").traffic == pytest.approx(work("g2is_paper").traffic / 32)


def test_gradients_of_layers_need_no_warm_up_and_multiply_each_side_once():
    found = by_name(stage_costs(plan(grads__of="layers", grads__layer_width=5)))
    assert "warm-up" not in found
    attention = 2 * (2 * 60 + 2 * 60) * 50
    sides = 2 * 5 * (2 * (42 + 60) + 2 * (42 + 20) + 3 * (42 + 53))
    token = 4 * LINEAR + 2 * (sides + 14 * 5 * 5) + 3.5 * attention + 4 * 42 * 131
    passes = found["validation gradients"].work["feature passes"].operations
    assert passes == pytest.approx(30 * 99 * token, rel=0.02)
    assert "warm-up" not in by_name(stage_costs(plan(warmup__adapter="some/folder")))


def test_all_weights_take_their_moments_and_gradients():
    of_adapter, in_full = (
        by_name(stage_costs(plan(finetune__full=full)))["fine-tune"] for full in (False, True)
    )
    weights = 4 * (LINEAR + 2 * 131 * 42 + 5 * 42)
    assert in_full.memory["optimiser"] == in_full.memory["gradients"] == 2 * weights
    assert in_full.operations == 1.5 * of_adapter.operations


def test_hours_shrink_with_the_devices_that_share_the_work():
    one, eight = hours(plan()), hours(plan(devices=8))
    for stage in (*GRADIENTS, "walk", "warm-up", "fine-tune", "evaluate"):
        assert eight[stage] == pytest.approx(one[stage] / 8), stage


def test_seeds_checkpoints_targets_and_methods_are_counted():
    once = hours(plan())
    seeds = hours(plan(run__seeds="0,1,2"))
    assert all(seeds[stage] == pytest.approx(3 * once[stage]) for stage in once)
    four = hours(plan(grads__checkpoints=0))
    assert four["pool gradients"] == pytest.approx(4 * once["pool gradients"])
    assert four["warm-up"] == once["warm-up"]
    targets = hours(plan(world__targets="sorting_letters"))
    assert targets["walk"] == pytest.approx(once["walk"] / 2)
    alone = stage_costs(plan(run__methods="none,random"))
    assert [stage.name for stage in alone] == ["fine-tune", "evaluate"]
    full = by_name(stage_costs(plan(run__methods="full")))["fine-tune"]
    assert full.operations == pytest.approx(alone[0].operations / 0.05)
    less = by_name(stage_costs(plan(run__methods="none,less")))["fine-tune"]  # once for each target
    assert less.operations == pytest.approx(2 * alone[0].operations)


def test_memory_names_what_is_held():
    found = by_name(stage_costs(plan()))
    held = {"base", "adapter", "optimiser", "activations"}
    assert set(found["warm-up"].memory) == set(found["fine-tune"].memory) == held | {"gradients"}
    assert all(set(found[stage].memory) == held | {"features"} for stage in GRADIENTS)
    memory = found["warm-up"].memory
    assert memory["adapter"] == 4 * ADAPTER
    assert memory["optimiser"] == memory["gradients"] == 2 * 4 * ADAPTER
    more = by_name(stage_costs(plan(grads__batch_tokens=32768, warmup__microbatch_tokens=32768)))
    for stage in ("pool gradients", "warm-up"):
        grown = more[stage].memory["activations"] / found[stage].memory["activations"]
        assert grown == 2
    walk = found["walk"].memory
    assert walk == {"features": 1000 * 64 * 2, "served": 4 * 1000 * 30 / 2}
    assert by_name(stage_costs(plan(devices=4)))["walk"].memory["features"] == walk["features"] / 4


def test_an_8b_model_fits_eight_small_chips_that_share_it_and_not_one():
    config = changed(
        default.get_config(),
        model__checkpoint="meta-llama/Llama-3.1-8B",
        model__remat=True,
        projection__kind="sketch",
        grads__batch_tokens=2048,
    )
    shared = changed(config, model__shard_base=True)
    one, alone, together = (
        gradients_fit(run(fields, "v5e", devices, 0.4, GIVEN))
        for fields, devices in ((shared, 1), (config, 8), (shared, 8))
    )
    assert (one, alone, together) == ("no", "no", "yes")


def gradients_fit(table: str) -> str:
    line = next(line for line in table.splitlines() if line.startswith("| pool gradients"))
    return line.split("|")[-2].strip()


def test_table_has_the_stages_and_what_was_assumed(folder):
    config = changed(default.get_config(), model__checkpoint=str(folder), lora__rank=3)
    table = run(config, "h100", 2, 0.25, GIVEN)
    names = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert names[2:] == ["warm-up", *GRADIENTS, "walk", "fine-tune", "evaluate", "all"]
    assert "2 x h100, at 25% of its published numbers (assumed)" in table
    assert "1,000 rows of the pool, 30 of validation, 50 of test, 99 tokens each" in table
    assert "To make it fit" not in table


def test_rows_that_are_not_given_are_counted_in_the_files(folder):
    files = [write_rows(folder / f"{n}.jsonl", [row(i) for i in range(n)]) for n in (5, 3, 2, 4)]
    config = changed(
        default.get_config(),
        model__checkpoint=str(folder),
        data__pool=str(files[0]),
        data__validation=f"{files[1]},{files[2]}",
        data__test=f"{files[3]}",
    )
    table = run(config, "h100", 1, 0.4, dict.fromkeys(GIVEN))
    assert "5 rows of the pool, 5 of validation, 4 of test, 1,024 tokens each" in table
    with pytest.raises(InputError, match=r"--pool_rows=0; it must be at least 1"):
        run(config, "h100", 1, 0.4, dict.fromkeys(GIVEN) | {"pool_rows": 0})
    for pool, message in (
        ("gone.jsonl", "gone.jsonl: no such file"),
        ("skills", "no file to count"),
    ):
        with pytest.raises(InputError, match=rf"{message}.*; give --pool_rows"):
            run(changed(config, data__pool=pool), "h100", 1, 0.4, dict.fromkeys(GIVEN))


def test_batches_of_what_memory_allows_have_no_estimate(folder):
    """Only the methods that take features ask for them."""
    fields = {"model__checkpoint": str(folder), "grads__batch_tokens": 0}
    config = changed(default.get_config(), **fields)
    with pytest.raises(InputError, match=r"grads\.batch_tokens = 0 .* give a number") as raised:
        run(config, "h100", 1, 0.4, GIVEN)
    assert "\n" not in str(raised.value)
    assert "| all |" in run(changed(config, run__methods="none,random"), "h100", 1, 0.4, GIVEN)


def test_a_model_of_unknown_shapes_is_refused():
    config = changed(default.get_config(), model__checkpoint="someone/model")
    with pytest.raises(InputError, match=r"'someone/model' is neither a folder nor one of meta-"):
        run(config, "h100", 1, 0.4, GIVEN)


def test_command_line(folder):
    flags = [f"--{field}={value}" for field, value in GIVEN.items()]
    config = "--config=configs/reproduce.py:model=gemma_7b,pool=cot"
    command = [sys.executable, "-m", "experiments.estimate", config, "--chip=v5e", "--devices=8"]
    done = subprocess.run(
        [*command, f"--config.model.checkpoint={folder}", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("| stage | TFLOP | hours | GB a device | fits |")
    assert f"{folder} on 8 x v5e, at 40% of" in done.stdout
