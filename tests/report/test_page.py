"""The page as a whole: it stands alone, text stays text, and both ways of writing say the same."""

import json
import re

import pytest
from etils import epath

from g2is_jax.report.page import results
from g2is_jax.report.page.blocks import Page
from g2is_jax.report.page.html import html
from g2is_jax.report.page.markdown import escaped, markdown
from g2is_jax.report.results_table import NOT_RUN, write_report
from tests.support.page_data import ODD, page, read, scores

SECTIONS = (
    *("What was run", "Results", "Cost", "Learning curves", "Core directions"),
    *("Similarities and conflicts", "Composition and overlap", "Map of the walk"),
    "Why each row was chosen",
)


@pytest.fixture(scope="module")
def odd() -> Page:
    """A page with a mean text wherever a user's text may stand."""
    return page(ODD)


@pytest.fixture(scope="module")
def plain() -> Page:
    """A page with names as most are."""
    return page("names & more")


def test_every_section_in_order(plain):
    assert [section.title for section in plain.sections] == list(SECTIONS)


def test_stands_alone(plain):
    """No address, no other file, no program."""
    text = html(plain)
    assert not re.search(r"https?:|//\w|@import|<script|<link|<iframe|<img|\bsrc=", text)
    found = read(text)
    ids = [of["id"] for _, of in found.tags if "id" in of]
    assert len(ids) == len(set(ids)) > 0
    pointed = re.findall(r'href="([^"]*)"|url\(([^)]*)\)', text)
    assert pointed
    assert {target or other for target, other in pointed} <= {f"#{name}" for name in ids}


def test_text_stays_text(odd):
    found = read(html(odd))
    assert "script" not in {tag for tag, _ in found.tags}
    assert f"Selection for {ODD}" in found.titles[0]
    cells = [cell for table in found.tables for line in table for cell in line]
    assert any(cell.startswith(f"{ODD} 0 long") for cell in cells)  # a prompt
    assert f"{ODD}0" in cells  # an id
    assert ODD in cells  # a source
    drawn = re.findall(r"<text.*?</text>", html(odd), flags=re.DOTALL)
    assert ODD in {read(text).text for text in drawn}  # a name in a drawing is no formula


def test_tags_are_balanced(plain, odd):
    for whole in (plain, odd):
        found = read(html(whole))
        assert (found.wrong, found.open) == ([], [])
        for tag, of in found.tags:
            if tag == "svg":
                assert of["role"] == "img"


def test_no_tag_in_markdown(odd):
    """Markdown may hold HTML: each `<` of a text is escaped."""
    assert not re.search(r"(?<!\\)<", markdown(odd))
    assert ODD in _plain(markdown(odd))


def test_no_link_in_markdown():
    text = "[a](https://b.c) <https://b.c> http://b.c WWW.b.c ![a](b) time: 3:10"
    assert not re.search(r"(?<!\\)(\[|<|://)|www\.", escaped(text), re.IGNORECASE)
    assert _plain(escaped(text)) == text


def _plain(text: str) -> str:
    """Returns escaped text as a reader of Markdown shows it."""
    return re.sub(r"\\([\\`*\[\]<>&~|_:.])", r"\1", text)


def _markdown_tables(text: str) -> list[list[list[str]]]:
    tables: list[list[list[str]]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                tables.append([])
            cells = re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))
            cells = [re.sub(r"^\*\*(.*)\*\*$", r"\1", cell) for cell in cells]
            tables[-1].append([_plain(cell) for cell in cells])
        before = line
    return tables


def test_both_hold_the_same_tables(plain):
    """Empty cells and marked ones included; spaces are as wide as they are."""
    in_html = [
        [[" ".join(cell.split()) for cell in line] for line in table]
        for table in read(html(plain)).tables
    ]
    in_markdown = [
        [line for line in table if set("".join(line)) not in ({"-"}, set())]
        for table in _markdown_tables(markdown(plain))
    ]
    assert in_html == in_markdown
    assert len(in_html) == 1 + 2 + 2 + 1 + 2 + 1 + 3


def test_numbers_of_the_results(tmp_path):
    """The table's means, errors and gains are those of results.json."""
    own = scores(("sums", "maps"))
    write_report(own, epath.Path(tmp_path))
    cells = json.loads((tmp_path / "results.json").read_text())
    tables = read(html(Page("p", [results.section(own, {})]))).tables
    assert len(tables) == 3
    for table, target in zip(tables, ("sums", "maps"), strict=False):
        head, *lines = table
        for line in lines:
            if line[1] == NOT_RUN:
                continue
            for column, metric in ((4, "answer_loss"), (6, "exact_match")):
                keys = {"method": line[0], "target": target, "metric": metric}
                (found,) = [c for c in cells if c.items() >= keys.items()]
                mean, error = map(float, line[column].split(" ± "))
                assert (mean, error) == (round(found["mean"], 3), round(found["stderr"], 3))
                if found["gain"] is None:
                    assert line[column + 1] == ""
                else:
                    assert float(line[column + 1].split(" ± ")[0]) == round(found["gain"], 3)
                assert float(line[1]) == found["rows"]
        assert head[4].startswith("answer loss")


def test_without_a_walk():
    """One method that walks nowhere: no section speaks of walks, and no table is empty."""
    whole = page(methods=("random",), walked=False)
    left_out = {*SECTIONS[4:6], *SECTIONS[7:]}
    assert [s.title for s in whole.sections] == [s for s in SECTIONS if s not in left_out]
    assert "g2is" not in html(whole)
    assert all(len(table) > 1 for table in read(html(whole)).tables[1:])
