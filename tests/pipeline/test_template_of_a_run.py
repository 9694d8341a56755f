"""What a run takes from template and checkpoint: the date, the probe, and the longest row."""

import datetime
import json

import pytest
from etils import epath

from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.pipeline import first_date
from g2is_jax.pipeline.job import Job, open_job
from g2is_jax.planning.dry_run import read_plan
from g2is_jax.runs.errors import InputError
from tests.support.own_templates import DATED, PLAIN
from tests.support.small import row, write_rows
from tests.support.small_job import changed

FIRST, SECOND = datetime.date(2026, 2, 9), datetime.date(2026, 2, 11)


@pytest.fixture
def base_of(base, tmp_path):
    """Makes a copy of the small base whose tokenizer brings a template, with other settings."""

    def make(template: str | None, **settings) -> str:
        folder = tmp_path / "base"
        folder.mkdir(exist_ok=True)
        for file in base.iterdir():
            file.copy(epath.Path(folder) / file.name, overwrite=True)
        tokenizer = load_tokenizer(folder)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        raw = json.loads((folder / "config.json").read_text()) | settings
        (folder / "config.json").write_text(json.dumps(raw))
        return str(folder)

    return make


@pytest.fixture
def on(monkeypatch):
    """Sets the present day."""

    def turn(day: datetime.date) -> None:
        class Day(datetime.date):
            @classmethod
            def today(cls):
                return day

        monkeypatch.setattr(datetime, "date", Day)

    return turn


def text_of(job: Job) -> str:
    chat = job.data.chat
    return chat.tokenizer.decode(job.data.pool.encoded[0].tokens_T)


def test_two_days_apart(config, base_of, tmp_path, on, capsys):
    """The second run says that the date is another one, and keeps that of the first."""
    asked = changed(config, model__checkpoint=base_of(DATED))
    workdir = epath.Path(tmp_path / "work")
    on(FIRST)
    first = open_job(asked, workdir)
    first.check()
    assert f"writes the date, {FIRST} for all runs in this work folder\n" in capsys.readouterr().out
    assert json.loads((workdir / "config.json").read_text())["data"]["today"] == str(FIRST)
    (workdir / "stages" / "warmup-0").mkdir(parents=True)  # some work was done
    on(SECOND)
    second = open_job(asked, workdir)
    second.check()
    said = capsys.readouterr().out
    assert f"writes the date: {FIRST}, that of this work folder" in said
    assert f"and not today's, {SECOND}\n" in said
    assert second.model_identity == first.model_identity
    assert first.model_identity["today"] == str(FIRST)
    assert text_of(second) == text_of(first)
    assert "09February2026" in text_of(second).replace(" ", "")  # its tokenizer adds some
    other = open_job(asked, epath.Path(tmp_path / "other"))
    assert other.model_identity != first.model_identity
    named = open_job(changed(asked, data__today=str(FIRST)), epath.Path(tmp_path / "named"))
    assert named.model_identity == first.model_identity
    with pytest.raises(InputError, match=r'data\.today is "2026-02-11", was "2026-02-09"'):
        open_job(changed(asked, data__today=str(SECOND)), workdir)
    variant = second.variant({"walk.delta": 0.7})
    assert variant.settings.data.today == FIRST


def test_a_folder_without_work_takes_the_day_of_the_run(config, base_of, tmp_path, on):
    asked = changed(config, model__checkpoint=base_of(DATED))
    for day in (FIRST, SECOND):
        on(day)
        assert open_job(asked, epath.Path(tmp_path / "work")).settings.data.today == day
    (tmp_path / "work" / "config.json").write_text("{")
    dated = first_date.dated(asked, epath.Path(tmp_path / "work"), is_new=False)
    assert dated.data.today == str(SECOND)


def test_the_day_is_no_part_of_what_a_template_without_it_makes(config, base_of, tmp_path, on):
    asked = changed(config, model__checkpoint=base_of(PLAIN))
    found = []
    for day in (FIRST, SECOND):
        on(day)
        job = open_job(asked, epath.Path(tmp_path / str(day)))
        job.check()
        found.append(job.model_identity)
    assert found[0] == found[1]
    assert "today" not in found[0]


def test_no_date(config, tmp_path):
    with pytest.raises(InputError, match=r"data\.today = '9 Feb' is no date; write it as 2026-01-"):
        open_job(changed(config, data__today="9 Feb"), epath.Path(tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_another_template_is_another_stage(config, base_of, tmp_path):
    """Its probe is part of what tells stages apart, also where no file has changed."""
    plain = open_job(changed(config, model__checkpoint=base_of(PLAIN)), epath.Path(tmp_path / "a"))
    before, text = plain.model_identity, plain.text_identity
    # As another version of transformers would: the same files, other tokens.
    other = open_job(plain.config, epath.Path(tmp_path / "b"))
    other.data.chat._own._text += "{{ 'x' }}"
    assert other.text_identity["probe"] != text["probe"]
    assert {**other.model_identity, "probe": text["probe"]} == before
    assert text.items() <= before.items()


def test_rows_are_as_long_as_the_checkpoint_takes(config, base, tmp_path, capsys):
    """The default of 2,048 tokens is no reason to stop for a model of fewer."""
    asked = changed(config, model__max_length=2048, evaluate__new_tokens=512)
    job = open_job(asked, epath.Path(tmp_path / "work"))
    job.check()
    said = capsys.readouterr().out
    assert (
        f"model.max_length = 2,048 is lowered to 128: {base} takes at most 128 tokens "
        "(max_position_embeddings)\n"
        f"evaluate.new_tokens = 512 is lowered to 64: {base} takes at most 128 tokens"
    ) in said
    assert "cut at 128 tokens" in said
    assert job.model_identity["max_length"] == 128
    assert job.settings.evaluation.evaluate.new_tokens == 64
    assert job.variant({"walk.delta": 0.7}).settings.data.max_length == 128
    exact = changed(config, model__max_length=128, evaluate__new_tokens=64)
    same = open_job(exact, epath.Path(tmp_path / "same"))
    same.check()
    assert same.model_identity == job.model_identity
    assert "lowered" not in capsys.readouterr().out


def test_fields_that_are_passed_over_are_printed_once(config, base_of, tmp_path, capsys):
    folder = base_of(None, heretic_version="1.0")
    open_job(changed(config, model__checkpoint=folder), epath.Path(tmp_path / "work")).check()
    assert capsys.readouterr().out.count("config.json: heretic_version: passed over") == 1


def test_a_head_of_its_own_is_run(config, base_of, tmp_path, capsys):
    """Where config.json ties it to the embedding, which the stored one is not."""
    folder = base_of(None, tie_word_embeddings=True)
    job = open_job(changed(config, model__checkpoint=folder), epath.Path(tmp_path / "work"))
    job.check()
    assert "lm_head.weight is not the embedding" in capsys.readouterr().out
    assert "lm_head" in job.weights
    assert "lm_head" in job.model.base_shapes


def test_a_row_that_the_template_cannot_write_is_bad(file_config, base_of, tmp_path):
    """A dry run leaves it out as well."""
    picky = "{% if 'Wait' in messages[0].content %}{{ raise_exception('no waiting') }}{% endif %}"
    rows = [row(n) for n in range(60)]
    rows[7]["messages"][0]["content"] = "Wait."
    file = write_rows(tmp_path / "pool.jsonl", rows)
    config = changed(file_config, data__pool=str(file), model__checkpoint=base_of(picky + PLAIN))
    pool = open_job(config, epath.Path(tmp_path / "work")).data.pool
    (reason,) = pool.counts["bad_rows"]
    assert (reason["first_line"], reason["rows"]) == (8, 1)
    assert "refuses the conversation (no waiting)" in reason["reason"]
    assert (len(pool.records), pool.records[7].row) == (59, 8)
    assert read_plan(config, 1)[0].rows.pool.count == 59
    stop = changed(config, data__bad_rows="stop")
    with pytest.raises(InputError, match=r"pool\.jsonl:8: .* \(no waiting\)"):
        open_job(stop, epath.Path(tmp_path / "stop")).check()
