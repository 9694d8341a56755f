"""What is exported reads back as the same conversations, and what a format cannot say is said."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from etils import epath

from configs import default
from g2is_jax.data.files import read_records
from g2is_jax.pipeline.export import FORMATS, export_selection, print_exports, read_formats
from g2is_jax.runs.errors import InputError
from tests.support.row_files import REPLY, USER, write

SYSTEM = {"role": "system", "content": "Be brief."}
AGAIN = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Jä \u2028 漢."}]
ROWS = [
    {"id": "a", "messages": [USER, REPLY], "source": "sums"},
    {"id": "b", "messages": [SYSTEM, USER, REPLY, *AGAIN], "source": "talk"},
    {"id": "c", "instruction": "Add.", "input": "2 and 2", "output": "4", "system": "Be kind."},
]
MASKED = {"id": "d", "messages": [USER, {**REPLY, "weight": 0}, *AGAIN]}
OPEN = {"id": "e", "messages": [USER, REPLY, AGAIN[0]]}


def selection(folder: Path, *rows: dict) -> epath.Path:
    """A folder as a selection leaves it."""
    place = folder / "selections" / "g2is-0"
    place.mkdir(parents=True)
    write(place, *rows, name="selected.jsonl")
    why = [
        {
            "row": 7,
            "id": row["id"],
            "source": row.get("source", ""),
            "position": 6,
            "order": i,
            "component": i,
            "reason": "anchor",
            "score": 0.5 - i,
        }
        for i, row in enumerate(rows)
    ]
    write(place, *why, name="selection.jsonl")
    return epath.Path(place)


def written_rows(place: epath.Path, chosen: str, folder: Path) -> Path:
    """The file of an export's rows; a saved data set as the JSON lines of its rows."""
    if chosen != "datasets":
        return Path(place / chosen / "g2is-0.jsonl")
    import datasets

    rows = datasets.load_from_disk(str(place / chosen / "g2is-0")).to_list()
    return write(folder, *rows, name="saved.jsonl")


def talks(file: Path) -> list:
    return [record.messages for record in read_records(file)]


def roles_and_texts(file: Path) -> list:
    return [[(turn.role, turn.content) for turn in talk] for talk in talks(file)]


@pytest.mark.parametrize("chosen", FORMATS)
@pytest.mark.parametrize("reasons", [False, True])
def test_the_same_conversations_are_read_back(tmp_path, chosen, reasons):
    place = selection(tmp_path, *ROWS)
    lines = export_selection(place, [chosen], reasons, "")
    assert lines == [f"{place / chosen}: 3 rows for {chosen}"]
    file = written_rows(place, chosen, tmp_path)
    assert talks(file) == talks(Path(place / "selected.jsonl"))
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    assert {key for row in rows for turn in row["messages"] for key in turn} == {"role", "content"}
    known = {"id": "b", "source": "talk", "order": 1, "component": 1} if reasons else {}
    known |= {"reason": "anchor", "score": -0.5} if reasons else {}
    assert {key: value for key, value in rows[1].items() if key != "messages"} == known


@pytest.mark.parametrize("chosen", FORMATS)
def test_what_is_not_learned_stays_so_or_is_said(tmp_path, chosen):
    place = selection(tmp_path, *ROWS, MASKED)
    lines = export_selection(place, [chosen], False, "")
    found = talks(written_rows(place, chosen, tmp_path))
    whole = talks(Path(place / "selected.jsonl"))
    assert [[turn.content for turn in talk] for talk in found] == [
        [turn.content for turn in talk] for talk in whole
    ]
    if chosen == "datasets":  # the project's own reader takes a saved data set too
        assert talks(Path(place / chosen / "g2is-0")) == found
    kept = FORMATS[chosen].mark is not None
    assert [turn.learned for turn in found[3]] == [True, not kept, True, True]
    assert (found == whole) == kept
    said = f"{place / chosen}: 1 replies that were not learned are learned there: the format has"
    assert [line.startswith(said) for line in lines[1:]] == [] if kept else [True]


def test_marks_are_those_of_each_format(tmp_path):
    place = selection(tmp_path, MASKED)
    export_selection(place, ["openai", "axolotl"], False, "")
    marks = {
        chosen: [turn.get(FORMATS[chosen].mark) for turn in json.loads(
            written_rows(place, chosen, tmp_path).read_text(encoding="utf-8").rstrip("\n")
        )["messages"]]
        for chosen in ("openai", "axolotl")
    }  # fmt: skip
    assert marks == {"openai": [None, 0, None, 1], "axolotl": [False, False, False, True]}


def test_a_last_question_is_left_out_where_the_format_refuses_it(tmp_path):
    place = selection(tmp_path, OPEN)
    lines = export_selection(place, ["llamafactory", "trl"], False, "")
    assert lines[1] == f"{place / 'llamafactory'}: 1 last questions without a reply are left out"
    lengths = [len(talks(written_rows(place, chosen, tmp_path))[0])
               for chosen in ("llamafactory", "trl")]  # fmt: skip
    assert lengths == [2, 3]


def test_llamafactory_knows_the_file_by_its_dataset_info(tmp_path):
    """Fields as LLaMA-Factory's data/README.md documents them for messages of OpenAI's format."""
    place = selection(tmp_path, *ROWS)
    export_selection(place, ["llamafactory"], True, "")
    info = json.loads((place / "llamafactory" / "dataset_info.json").read_text())
    assert info == {
        "g2is-0": {
            "file_name": "g2is-0.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
            },
        }
    }


@pytest.mark.parametrize(("rows", "marked"), [(ROWS, False), ([*ROWS, MASKED], True)])
def test_axolotl_s_part_of_a_config(tmp_path, rows, marked):
    place = selection(tmp_path, *rows)
    export_selection(place, ["axolotl"], False, "")
    (part,) = yaml.safe_load((place / "axolotl" / "axolotl.yaml").read_text())["datasets"]
    assert part.pop("message_field_training", None) == ("train" if marked else None)
    assert part == {
        "path": str(place / "axolotl" / "g2is-0.jsonl"),
        "ds_type": "json",
        "type": "chat_template",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }


def test_the_selections_of_a_run_are_exported_each(tmp_path, capsys):
    config = default.get_config()
    config.run.methods, config.run.seeds = "none,random,g2is", "0,1"
    for name in ("g2is-0/plus", "g2is-0/pick", "random-1", "less-0"):
        place = tmp_path / "selections" / name
        place.mkdir(parents=True)
        write(place, *ROWS, name="selected.jsonl")
    print_exports(config, epath.Path(tmp_path), ["trl"], False)
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("trl/*.jsonl")}
    assert files == {
        "selections/g2is-0/plus/trl/g2is-0-plus.jsonl",
        "selections/g2is-0/pick/trl/g2is-0-pick.jsonl",
        "selections/random-1/trl/random-1.jsonl",
    }
    assert len(capsys.readouterr().out.splitlines()) == 3
    print_exports(config, epath.Path(tmp_path), [], False)
    assert capsys.readouterr().out == ""


def test_fields_named_by_hand_are_read_so(tmp_path):
    place = selection(tmp_path, {"id": "f", "my_q": "2+2?", "my_a": "4"})
    export_selection(place, ["trl"], False, "prompt=my_q,reply=my_a")
    assert roles_and_texts(written_rows(place, "trl", tmp_path)) == [
        [("user", "2+2?"), ("assistant", "4")]
    ]


def test_what_cannot_be_exported_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match="--export: 'unsloth' is unknown; choose from llamafactory"
    ):
        read_formats("trl,unsloth")
    with pytest.raises(InputError, match=r"no selected\.jsonl here; give the folder of a"):
        export_selection(epath.Path(tmp_path), ["trl"], False, "")
    place = selection(tmp_path, *ROWS)
    write(Path(place), {"id": "a"}, name="selection.jsonl")
    with pytest.raises(InputError, match=r"3 rows in selected\.jsonl and 1 in selection\.jsonl"):
        export_selection(place, ["trl"], True, "")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r'needs the extra \[data\]: pip install -e "\.\[data'):
        read_formats("datasets")
