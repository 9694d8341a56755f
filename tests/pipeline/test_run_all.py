"""The whole run, in small: what it writes, what it reuses, and what a second run leaves alone."""

import json
from pathlib import Path

import pytest
from etils import epath

from experiments import run_all
from g2is_jax.pipeline import report_page
from g2is_jax.runs.errors import InputError
from tests.support.small import stages
from tests.support.small_job import changed, small_config

METHODS = ("none", "full", "random", "length", "less", "less_rr", "g2is_paper", "g2is")
SEEDS = (0, 1)
TARGETS = ("plus", "pick")


def stamps(workdir: Path) -> dict[str, int]:
    """When each file of the stages was written last."""
    files = (workdir / "stages").rglob("*")
    return {str(f.relative_to(workdir)): f.stat().st_mtime_ns for f in files if f.is_file()}


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def every_config(base, files, tmp_path_factory):
    """On a pool whose last row is a bad one."""
    pool = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    pool.write_bytes((files / "pool.jsonl").read_bytes() + b'{"prompt": "a", "completion": ""}\n')
    return changed(
        small_config(base),
        data__pool=str(pool),
        data__validation=f"{files / 'val_plus.jsonl'},{files / 'val_pick.jsonl.gz'}",
        data__test=f"{files / 'test_plus.jsonl'},{files / 'test_pick.jsonl'}",
        run__methods=",".join(METHODS),
        run__seeds="0,1",
    )


@pytest.fixture(scope="module")
def finished(every_config, tmp_path_factory) -> tuple[Path, list[dict]]:
    """Work folder and scores of a run of every method, for two seeds and two targets."""
    workdir = tmp_path_factory.mktemp("every") / "work"
    return workdir, run_all.run(every_config, epath.Path(workdir))


def test_scores_of_every_method_target_and_seed(finished):
    _, scores = finished
    found = [(score["method"], score["target"], score["seed"]) for score in scores]
    assert sorted(found) == sorted((m, t, s) for m in METHODS for t in TARGETS for s in SEEDS)
    for score in scores:
        assert 0 < score["metrics"]["answer_loss"] < 20
        assert 0 <= score["metrics"]["exact_match"] <= 1
        rows = {"none": 0, "full": 40}.get(score["method"], 8)
        assert score["rows"] == rows
        assert (score["tokens"] > 0) == (score["seconds"] > 0) == (rows > 0)


def test_report(finished):
    workdir, scores = finished
    bare = [{name: of for name, of in score.items() if name != "per_row"} for score in scores]
    assert json.loads((workdir / "report" / "scores.json").read_text()) == bare
    against = json.loads((workdir / "report" / "against.json").read_text())
    assert {one["rival"] for one in against} == {"random", "less"} & set(METHODS)
    assert all(one["low"] <= one["mean"] <= one["high"] for one in against)
    cells = json.loads((workdir / "report" / "results.json").read_text())
    assert len(cells) == len(METHODS) * len(TARGETS) * 2
    for cell in cells:
        of_cell = [
            score["metrics"][cell["metric"]]
            for score in scores
            if (score["method"], score["target"]) == (cell["method"], cell["target"])
        ]
        assert cell["seeds"] == len(of_cell) == 2
        assert cell["mean"] == pytest.approx(sum(of_cell) / 2)
        assert (cell["gain"] is None) == (cell["method"] == "random")
    table = (workdir / "report" / "results.md").read_text()
    assert all(f"| {method} |" in table for method in METHODS)
    assert (workdir / "report" / "results.png").stat().st_size > 1000
    told = json.loads((workdir / "report" / "composition.json").read_text())["targets"]
    for target in TARGETS:
        found = {line["method"]: line for line in told[target]["methods"]}
        assert list(found) == [method for method in METHODS if method != "none"]
        for method, line in found.items():
            tokens = [s["tokens"] for s in scores if (s["method"], s["target"]) == (method, target)]
            assert line["tokens"] == sum(tokens) / 2


def test_bad_rows_stand_on_the_page_and_in_manifests(finished):
    """43 is the line: the file has an empty one too."""
    workdir, _ = finished
    reason = '"completion" is empty; fill it or leave the row out'
    assert f"| 43 | 1 | {reason} |" in (workdir / "report" / "report.md").read_text()
    manifests = [
        json.loads(file.read_text()) for file in workdir.glob("stages/features-*/manifest.json")
    ]
    bad = [m["counts"]["bad_rows"] for m in manifests if m["counts"]["bad"]]
    assert bad == [[{"reason": reason, "first_line": 43, "rows": 1}]] * len(bad)
    assert len(bad) >= 2


def test_selections_are_lines_of_the_pool(finished, files):
    """`row` and `position` count the file's rows and its usable ones; the budget is a fifth."""
    workdir, _ = finished
    lines = [line for line in (files / "pool.jsonl").read_bytes().split(b"\n") if line.strip()]
    usable = [i for i, line in enumerate(lines) if b"zebra" not in line]
    shown = sorted(str(f.relative_to(workdir)) for f in workdir.glob("selections/*/*"))
    assert shown == sorted(
        f"selections/{m}-{s}/{t}" for m in METHODS if m != "none" for s in SEEDS for t in TARGETS
    )
    for place in shown:
        picks = read(workdir / place / "selection.jsonl")
        selected = (workdir / place / "selected.jsonl").read_bytes().split(b"\n")
        assert selected[-1] == b""
        assert selected[:-1] == [lines[pick["row"]] for pick in picks]
        assert [usable[pick["position"]] for pick in picks] == [pick["row"] for pick in picks]
        assert [pick["order"] for pick in picks] == list(range(len(picks)))
        assert len({pick["row"] for pick in picks}) == len(picks) == (40 if "full" in place else 8)
        for pick in picks:
            row = json.loads(lines[pick["row"]])
            assert pick["id"] == row.get("id", pick["id"])
            assert pick["source"] == row["source"]
            assert pick["tokens"] > 0
            assert pick["reason"]


def test_page(every_config, finished):
    """Written again from the finished stages alone, and for some of the methods."""
    workdir, _ = finished
    before, file = stamps(workdir), workdir / "report" / "report.html"
    titles = ("Learning curves", "Core directions", "Why each row was chosen", "Map of the walk")
    written = file.read_text(), (workdir / "report" / "report.md").read_text()
    for text in written:
        assert all(title in text for title in titles)
        assert text.count("not recorded") <= 1  # the commit, where the code is in no checkout
    report_page.run(every_config, epath.Path(workdir))
    assert file.read_text() == written[0]
    report_page.run(changed(every_config, run__methods="random"), epath.Path(workdir))
    assert titles[0] in file.read_text()
    assert not any(title in file.read_text() for title in titles[1:])
    assert stamps(workdir) == before


def test_the_first_process_alone_writes_the_page(every_config, finished, monkeypatch):
    file = finished[0] / "report" / "report.html"
    before = file.stat().st_mtime_ns
    monkeypatch.setattr(report_page, "is_first", lambda: False)
    assert report_page.run(every_config, epath.Path(finished[0])) == file
    assert file.stat().st_mtime_ns == before


def test_page_of_an_unfinished_run(every_config, finished, tmp_path):
    workdir, _ = finished
    before = stages(workdir)
    with pytest.raises(InputError, match="finetune full plus seed 7 is not finished"):
        report_page.run(changed(every_config, run__seeds="7"), epath.Path(workdir))
    assert stages(workdir) == before
    assert not (workdir / "selections" / "full-7").exists()
    with pytest.raises(InputError, match="no run is here"):
        report_page.run(every_config, epath.Path(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def rows_of(workdir: Path, method: str, seed: int, target: str) -> list[int]:
    place = workdir / "selections" / f"{method}-{seed}" / target
    return [pick["row"] for pick in read(place / "selection.jsonl")]


def test_what_a_selection_depends_on(finished):
    workdir, _ = finished
    for method in ("full", "length"):
        rows = {tuple(rows_of(workdir, method, s, t)) for s in SEEDS for t in TARGETS}
        assert len(rows) == 1
    assert rows_of(workdir, "full", 0, "plus") == [n for n in range(41) if n != 7]
    drawn = [[rows_of(workdir, "random", s, t) for t in TARGETS] for s in SEEDS]
    assert drawn[0][0] == drawn[0][1] != drawn[1][0]
    for method in ("less", "less_rr", "g2is", "g2is_paper"):
        assert rows_of(workdir, method, 0, "plus") != rows_of(workdir, method, 0, "pick")


def test_stages_are_shared(finished):
    """What two methods or targets have in common is done once."""
    counts: dict[str, int] = {}
    for name in stages(finished[0]):
        counts[name.partition("-")[0]] = counts.get(name.partition("-")[0], 0) + 1
    chosen = 2 + 2 + 4 * 2 * 2  # full and length; random by seed; the others by target and seed
    trained = chosen + 2  # full and length start from another adapter at each seed
    assert counts == {
        "warmup": 2,
        "features": 2 * (2 + 2),  # adam and sgd of the pool, and two validation files, by seed
        "selection": chosen,
        "finetune": trained,
        "evaluate": 2 + 2 * 3 * 2 + 4 * 2 * 2,
    }


def test_second_run_reuses_every_stage(finished, every_config, capsys):
    workdir, scores = finished
    before = stamps(workdir)
    assert run_all.run(every_config, epath.Path(workdir)) == scores
    assert stamps(workdir) == before
    told = capsys.readouterr().out
    assert ": reused (" in told
    assert ": done in" not in told


def test_another_walk_reuses_warm_up_and_features(finished, every_config):
    workdir, _ = finished
    before = stamps(workdir)
    other = changed(every_config, walk__delta=0.0, walk__pull=0.3, run__replace=True)
    run_all.run(changed(other, run__methods="g2is", run__seeds="0"), epath.Path(workdir))
    after = stamps(workdir)
    assert {file: after[file] for file in before} == before
    new = {Path(file).parts[1].partition("-")[0] for file in after.keys() - before.keys()}
    assert new <= {"selection", "finetune", "evaluate"}
    assert "selection" in new
