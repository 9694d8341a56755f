"""Composition of selections by source, their overlap, and the two files that tell of them."""

import json

import pytest
from etils import epath

from g2is_jax.report.composition import STABLE, composition, jaccard, markdown, write_composition

SOURCES = ["sums"] * 4 + ["rhymes"] * 2 + ["maps"] * 2  # of 8 rows


def entry(method, rows, seed=0, target="sums", tokens=100, seconds=2.0) -> dict:
    return {
        "method": method,
        "target": target,
        "seed": seed,
        "rows": rows,
        "tokens": tokens,
        "seconds": seconds,
    }


def test_shares_are_means_over_seeds():
    """All of it from sums at one seed, half of it at the other; ties of size go by name."""
    composed = composition(
        [entry("g2is", [0, 1]), entry("g2is", [2, 6], seed=3, tokens=300, seconds=4.0)], SOURCES
    )
    assert composed["pool"] == {"rows": 8, "shares": {"sums": 0.5, "maps": 0.25, "rhymes": 0.25}}
    assert list(composed["pool"]["shares"]) == ["sums", "maps", "rhymes"]
    (found,) = composed["targets"]["sums"]["methods"]
    assert found == {
        "method": "g2is",
        "seeds": 2,
        "rows": 2.0,
        "tokens": 200.0,
        "seconds": 3.0,
        "shares": {"sums": 0.75, "maps": 0.25, "rhymes": 0.0},
    }


def test_overlap_is_over_shared_seeds():
    """1/3 at seed 0, 1 at seed 1; the method of seed 9 alone shares no seed with the others."""
    composed = composition(
        [
            *[entry("one", [0, 1]), entry("other", [1, 2]), entry("late", [1], seed=9)],
            *[entry("one", [3], seed=1), entry("other", [3], seed=1)],
        ],
        SOURCES,
    )
    third = pytest.approx((1 / 3 + 1) / 2)
    assert composed["targets"]["sums"]["overlap"] == [
        [1.0, third, None],
        [third, 1.0, None],
        [None, None, 1.0],
    ]


def test_stability_is_over_pairs_of_seeds():
    """1/3, 1 and 1/3 between three seeds; a method of one seed has none, and no table if alone."""
    chosen = {0: [0, 1], 1: [1, 2], 3: [0, 1]}
    entries = [entry("g2is", rows, seed) for seed, rows in chosen.items()]
    composed = composition([*entries, entry("less", [0])], SOURCES)
    assert composed["targets"]["sums"]["stability"] == [pytest.approx(5 / 9), None]
    assert "| g2is | 0.56 |" in markdown(composed)
    assert STABLE not in markdown(composition([entry("less", [0])], SOURCES))


def test_jaccard():
    assert jaccard([1, 2, 3], [3, 4]) == 0.25
    assert jaccard([1], []) == 0
    assert jaccard([], []) == 1


def test_targets_stay_apart():
    composed = composition([entry("g2is", [0]), entry("g2is", [4, 5], target="rhymes")], SOURCES)
    assert [found["methods"][0]["rows"] for found in composed["targets"].values()] == [1, 2]
    assert composed["targets"]["rhymes"]["methods"][0]["shares"]["rhymes"] == 1


def test_written_files(tmp_path):
    folder = epath.Path(tmp_path / "report")
    entries = [entry("g2is", [0, 1, 2, 6]), entry("less", [4, 6])]
    text = write_composition(entries, SOURCES, folder)
    assert (folder / "composition.md").read_text() == text
    assert json.loads((folder / "composition.json").read_text()) == composition(entries, SOURCES)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["method", "rows", "tokens", "seconds", "sums", "maps", "rhymes"] in rows
    assert ["(the pool)", "8", "", "", "50.0%", "25.0%", "25.0%"] in rows
    assert ["g2is", "4", "100", "2.0", "75.0% (×1.5)", "25.0% (×1.0)", "0.0% (×0.0)"] in rows
    assert ["less", "0.20", "1.00"] in rows


def test_small_sources_share_a_column():
    """13 sources: those of the selection and the largest others, 11 in all, and the rest summed."""
    sources = [f"s{i:02}" for i in range(13) for _ in range(20 - i)]
    rows = [sources.index("s00"), sources.index("s11"), sources.index("s12")]
    composed = composition([entry("g2is", rows)], sources)
    assert len(composed["targets"]["sums"]["methods"][0]["shares"]) == 13
    text = markdown(composed)
    assert "| s08 | s11 | s12 | others |" in text
    assert "s09" not in text
    assert "s10" not in text
    assert f"{(11 + 10) / len(sources):.1%} |" in text
    assert "others" not in markdown(composition([entry("g2is", [0])], sources[:-8]))


def test_names_cannot_break_the_table():
    composed = composition([entry("g2is", [0])], ["a|b\nc"])
    lines = markdown(composed).splitlines()
    assert "| method | rows | tokens | seconds | a\\|b c |" in lines


def test_a_selection_without_rows():
    composed = composition([entry("g2is", [])], SOURCES)
    (found,) = composed["targets"]["sums"]["methods"]
    assert found["rows"] == 0
    assert set(found["shares"].values()) == {0.0}
    assert "| g2is | 0 |" in markdown(composed)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("g2is", [0]), entry("g2is", [1])], "given twice"),
        ([entry("g2is", [3, 3])], "a row twice"),
        ([entry("g2is", [8])], "outside the pool of 8"),
        ([entry("g2is", [-1])], "outside the pool of 8"),
    ],
)
def test_wrong_entries(entries, message):
    with pytest.raises(ValueError, match=message):
        composition(entries, SOURCES)
