"""Flags of a command: a mistake is explained by the fields and flags that there are."""

import re

import pytest
from absl import flags
from ml_collections import config_flags

from g2is_jax.pipeline import command_line
from g2is_jax.pipeline.command_line import parse_config, parse_flags
from g2is_jax.runs.errors import InputError
from tests.support.small import ROOT

# ml_collections loads a config's file so.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
TINY = f"--config={ROOT / 'configs' / 'tiny.py'}"
REPRODUCE = f"--config={ROOT / 'configs' / 'reproduce.py'}"


@pytest.fixture
def values(monkeypatch) -> flags.FlagValues:
    """Flags of a script with a config, beside those of this process."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    flags.DEFINE_integer("rows", 1, "A number.", flag_values=values)
    monkeypatch.setattr(command_line.flags, "FLAGS", values)
    return values


@pytest.fixture
def parsed(values, monkeypatch):
    """A call of `parse_config` on the arguments of a command, which are those of the process."""

    def parse(*arguments: str) -> list[str]:
        argv = ["script", *arguments]
        monkeypatch.setattr("sys.argv", argv)  # ml_collections looks for overrides there
        return parse_config(argv)

    return parse


def test_flags_override_the_config(values, parsed):
    assert parsed(TINY, "--config.walk.delta=0.5", "--rows=7") == ["script"]
    assert (values.config.walk.delta, values.rows) == (0.5, 7)
    assert parse_flags("--rows", ["script", "--rows=8"]) == ["script"]
    assert values.rows == 8


def test_a_config_takes_an_argument(values, parsed):
    parsed(f"{REPRODUCE}:target=mmlu")
    assert values.config.evaluate.tasks == "mmlu"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([TINY, "--config.walk.dleta=0.7"], "--config.walk.dleta: .*did you mean walk.delta?"),
        ([TINY, "--config.zzz=3"], "there is no such config field; see data, embed, evaluate"),
        ([TINY, "--config.lora.rank=many"], "config.lora.rank.*see configs/default.py"),
        ([TINY, "--colour=red"], "colour.*; --help lists the flags"),
        ([TINY, "walk.delta=0.7"], "'walk.delta=0.7' is not a flag; flags look like"),
        (["--config=gone.py"], "gone.py: no such config file; start from configs/default.py"),
        ([f"{REPRODUCE}:pool=wiki"], "wiki.*infinity, cot, flan"),
    ],
)
def test_a_mistake_names_the_way_out(parsed, argv, message):
    with pytest.raises(InputError, match=message):
        parsed(*argv)


def test_a_slip_in_a_config_file_is_named_with_its_line(parsed, tmp_path):
    file = tmp_path / "slip.py"
    file.write_text("def get_config():\n    return {}['walk']\n")
    with pytest.raises(InputError, match=rf"{re.escape(str(file))}:2: KeyError: walk; see"):
        parsed(f"--config={file}")


@pytest.mark.usefixtures("values")
@pytest.mark.parametrize("argument", ["--colour=red", "walk"])
def test_a_script_without_a_config_names_its_flags(argument):
    with pytest.raises(InputError, match="the flags are --rows"):
        parse_flags("--rows", ["script", argument])
