"""Names of files in a field: by commas, as a JSON list, one a line of another file; homes."""

import pytest

from configs import default
from g2is_jax.pipeline.command_line import write_out_files
from g2is_jax.pipeline.fields import file_names, written
from g2is_jax.runs.errors import InputError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a.jsonl, b.jsonl", ("a.jsonl", "b.jsonl")),
        ('["a,1.jsonl", "b.jsonl"]', ("a,1.jsonl", "b.jsonl")),
        ("~/a.jsonl,gs://b/c.jsonl", ("HOME/a.jsonl", "gs://b/c.jsonl")),
        ("@~/list.txt", ("HOME/x,1.jsonl", "y.jsonl")),
        ("", ("",)),
    ],
)
def test_names_of_files(home, text, names):
    (home / "list.txt").write_text("~/x,1.jsonl\n\ny.jsonl\n")
    found = tuple(name.replace("HOME", str(home)) for name in names)
    assert file_names(text) == found
    assert file_names(written(found)) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('["a.jsonl"', "no JSON list of files"),
        ("[1]", "not a list of names of files"),
        ("@gone.txt", "gone.txt: cannot be read as a list of files, a name a line"),
    ],
)
def test_a_list_that_cannot_be_read(text, said):
    with pytest.raises(InputError, match=said) as caught:
        file_names(text)
    assert "\n" not in str(caught.value)


def test_names_are_written_out_where_the_config_is_read(home):
    (home / "list.txt").write_text("v,1.jsonl\nw.jsonl\n")
    config = default.get_config()
    config.model.checkpoint, config.data.pool = "~/llama", "~/pool,1.jsonl"
    config.data.validation, config.data.test = f"@{home}/list.txt", "~/t.jsonl,u.jsonl"
    write_out_files(config)
    assert config.model.checkpoint == f"{home}/llama"
    assert config.data.pool == f"{home}/pool,1.jsonl"
    assert config.data.validation == '["v,1.jsonl", "w.jsonl"]'
    assert config.data.test == f"{home}/t.jsonl,u.jsonl"
    assert config.evaluate.shots_files == ""
