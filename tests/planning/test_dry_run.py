"""The cost of a run, reported before it: from the config's files, and with nothing done."""

import os
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from g2is_jax.data.batches import length_plans, training_padding
from g2is_jax.pipeline.adapter_training import shapes_of
from g2is_jax.pipeline.job import Job, open_job
from g2is_jax.planning import dry_run
from g2is_jax.planning.chips import CHIPS
from g2is_jax.planning.dry_run import Asked
from g2is_jax.planning.slices.walks import PoolSize
from g2is_jax.planning.token_counts import one_pass, training
from g2is_jax.runs.errors import InputError
from tests.support.small import ROOT
from tests.support.small_job import changed, write_config


@pytest.fixture
def job(file_config, tmp_path) -> Job:
    return open_job(file_config, epath.Path(tmp_path) / "work")


def lengths(encoded) -> list[int]:
    return [len(row.tokens_T) for row in encoded]


def cells(table: str) -> list[list[str]]:
    """The cells of each line of a table, without its title."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def priced(config, chip: str, devices: int, capsys) -> str:
    """What a dry run prints of chips, without the compiler."""
    assert dry_run.instead(config, True, Asked(chip, devices, compile=False))
    return capsys.readouterr().out


def test_a_command_writes_nothing_and_runs_nothing(file_config, tmp_path):
    """On the built-in world too, which a run would write."""
    config = changed(file_config, data__pool="skills", data__validation="", data__test="")
    file, place = write_config(tmp_path / "c.py", config), tmp_path / "tmp"
    place.mkdir()
    command = [sys.executable, "-m", "experiments.run_all", f"--config={file}", "--dry_run"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'work'}", "--chip=all", "--devices=8"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(place)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[0] for line in cells(done.stdout)] == list(CHIPS)
    assert "70 rows of the pool, 4 of validation, 5 of test" in done.stdout
    assert sorted(tmp_path.iterdir()) == [file, place]
    assert not list(place.iterdir())


def test_rows_are_those_that_the_run_finds(file_config, job):
    """The row that is cut before its answer counts neither here nor there."""
    plan, tokens = dry_run.read_plan(file_config, 1)
    rows, targets = plan.rows, job.data.targets
    assert (rows.pool.count, rows.validation.count, rows.test.count) == (40, 8, 10)
    assert sorted(rows.pool.lengths_S) == sorted(lengths(job.data.pool.encoded))
    assert rows.pool.tokens == np.mean(lengths(job.data.pool.encoded))
    assert rows.pool.supervised == job.data.pool.tokens_N.mean()
    shown = [n for target in targets for n in lengths(target.validation.encoded)]
    assert rows.validation.tokens == np.mean(shown)
    length = file_config.model.max_length
    tests = [row for t in targets for row in job.data.chat.encode_all(t.test_records, length)]
    assert rows.test.tokens == np.mean(lengths(tests))
    assert rows.reply == max(int(row.supervised_T.sum()) for row in tests)
    asked = [job.data.chat.encode_prompt(r.messages, 99) for t in targets for r in t.test_records]
    assert rows.prompts.tokens == np.mean([len(prompt) for prompt in asked])
    assert f"{rows.pool.tokens:,.0f} (pool)" in tokens


def test_a_sample_stands_for_its_file(file_config, monkeypatch):
    monkeypatch.setattr(dry_run, "SAMPLE", 7)
    plan, _ = dry_run.read_plan(file_config, 1)
    assert len(plan.rows.pool.lengths_S) == 7
    assert plan.rows.pool.count == 41  # the one that is no use is not in the sample


def test_batches_are_those_of_the_run(file_config, job):
    rows = dry_run.read_plan(file_config, 1)[0].rows.pool
    plans = length_plans(lengths(job.data.pool.encoded), 256)
    found = one_pass(rows, 256, 64)
    assert found.cells == sum(plan.size_B * plan.width_T for plan in plans)
    assert found.largest == max(plan.size_B * plan.width_T for plan in plans)
    assert (found.places, found.batches) == (sum(plan.size_B for plan in plans), len(plans))
    fit = job.settings.finetune.fit
    shapes = shapes_of(job.data.pool, fit, 40, 1, packed=False)
    found = training(rows, 40, fit, 64, 1)
    drawn = rows.drawn(40)
    padding = training_padding(drawn, fit.batch_size, 0, 1, shapes)
    assert found.cells == pytest.approx(2 * drawn.sum() / (1 - padding))


def test_without_a_tokenizer_rows_are_as_long_as_they_may_be(file_config, base, tmp_path, capsys):
    (tmp_path / "config.json").write_text((base / "config.json").read_text())
    config = changed(file_config, model__checkpoint=str(tmp_path))
    rows = dry_run.read_plan(config, 1)[0].rows
    assert (rows.pool.count, rows.pool.tokens, rows.reply) == (41, 64, None)
    assert "tokens not measured" in priced(config, "v5e", 1, capsys)


def test_parts_add_up(file_config, capsys):
    table = priced(file_config, "h100", 1, capsys)
    *lines, total = cells(table)
    assert float(total[2]) == pytest.approx(sum(float(line[2]) for line in lines), rel=0.1)
    for name, _, _, memory, fits in lines:
        whole, _, parts = memory.rstrip(")").partition(" (")
        held = sum(float(part.split()[-1]) for part in parts.split(", "))
        assert float(whole) == pytest.approx(held, rel=0.05), name
        assert fits == "yes"
    (line,) = [line for line in cells(priced(file_config, "all", 1, capsys)) if line[0] == "h100"]
    assert line[1] == total[2]
    assert float(line[2].split()[0]) == max(float(of[3].split()[0]) for of in lines)


def test_replies_are_as_long_as_those_of_the_file(file_config, capsys):
    """At most; and no longer than they may be."""
    plans = {
        most: dry_run.read_plan(changed(file_config, evaluate__new_tokens=most), 1)[0]
        for most in (3, 40, 50)
    }
    assert plans[3].reply_tokens == 3
    own = plans[40].rows.reply
    assert plans[40].reply_tokens == plans[50].reply_tokens == own
    config = changed(file_config, evaluate__new_tokens=50)
    message = f"Replies of {own} tokens like the longest in the test files, of at most 50. "
    assert message in priced(config, "v5e", 1, capsys)


def test_without_a_chip_there_is_a_line_for_each(file_config, capsys):
    assert dry_run.instead(file_config, True, Asked())
    found = capsys.readouterr().out
    assert [line[0] for line in cells(found)] == list(CHIPS)
    assert found == priced(file_config, "all", 1, capsys)


def test_where_there_is_no_compiler_bytes_are_of_shapes(file_config, monkeypatch, capsys):
    monkeypatch.setattr(dry_run, "has_compiler", lambda: False)
    assert dry_run.instead(file_config, True, Asked("v5e", 8))
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("Not compiled for v5e:2x4, so bytes are the arithmetic of shapes: ")
    assert dry_run.instead(file_config, True, Asked("h100", 8))  # no TPU: nothing to compile
    assert "ompiled for" not in capsys.readouterr().out


def test_programs_are_those_of_the_config_and_its_rows(file_config, monkeypatch, capsys):
    """Compiled for the slice, with the pool's rows and a target's; the largest batches as flags."""
    asked: list[tuple] = []

    def print_programs(settings, model, topology, pool, finds_largest):
        asked.append((settings.features.batch_tokens, topology, pool, finds_largest))
        return []

    monkeypatch.setattr(dry_run, "has_compiler", lambda: True)
    monkeypatch.setattr(dry_run, "print_programs", print_programs)
    dry_run.instead(file_config, True, Asked("v5e", 8))
    dry_run.instead(file_config, True, Asked(topology="v5e:4x4", largest=True))
    dry_run.instead(file_config, True, Asked("v5e", 8, compile=False))
    tokens = file_config.grads.batch_tokens
    rows = dry_run.read_plan(file_config, 1)[0].rows
    pool = PoolSize(rows.pool.count, rows.validation.count // 2)
    assert asked == [(tokens, "v5e:2x4", pool, False), (tokens, "v5e:4x4", pool, True)]
    assert " on 16 x v5e, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"chip": "h1000"}, "--chip=h1000 is unknown; choose from v5e, "),
        ({"chip": "h100", "devices": 0}, "--devices=0; it must be at least 1"),
        ({"chip": "cpu"}, "--chip=cpu is unknown; choose from v5e, "),
        ({"chip": "v5e", "devices": 3}, "--devices=3: no v5e slice has as many; one of 1, 4, 8"),
        ({"topology": "h100:2x2"}, "--topology=h100:2x2 is no slice of v5e"),
        ({"topology": "v5e:2x2", "devices": 4}, "--topology names chip and devices; leave"),
    ],
)
def test_wrong_flags(file_config, flags, message):
    with pytest.raises(InputError, match=message) as raised:
        dry_run.instead(file_config, True, Asked(**flags))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "flags", [{"chip": "h100"}, {"devices": 8}, {"topology": "v5e:2x2"}, {"overrides": "f"}]
)
def test_flags_of_a_dry_run_need_one(file_config, flags):
    (flag,) = flags
    with pytest.raises(InputError, match=f"--{flag} is read with --dry_run alone"):
        dry_run.instead(file_config, False, Asked(**flags))


def test_without_the_flag_the_run_goes_on(file_config, capsys):
    assert not dry_run.instead(file_config, False, Asked())
    assert capsys.readouterr().out == ""
