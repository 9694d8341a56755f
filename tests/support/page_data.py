"""Plain data for pages of every section, and a reader of what was written."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

import numpy as np

from g2is_jax.report.composition import composition
from g2is_jax.report.page import (
    cost_section,
    directions,
    learning_curves,
    overview,
    reasons,
    results,
    similarities,
    sources,
    walk_map,
)
from g2is_jax.report.page.blocks import Page
from g2is_jax.report.page.cost_section import AdapterCost, FinishedStage
from g2is_jax.report.page.finished_walk import Walk
from g2is_jax.report.page.learning_curves import Curve
from g2is_jax.selection.core import Core
from g2is_jax.selection.walk.choice import REASONS
from g2is_jax.selection.walk.rules import WalkConfig

ODD = "<script>alert('1 & 2')</script> $x$ a|b *c* _d_ \\ &amp; \"q\""
METHODS = ("random", "less", "g2is")
VOID = {"meta", "br", "hr", "img", "input", "link"}


def walk_config(**changes) -> WalkConfig:
    settings = {
        "delta": 0.8,
        "delta_reference": "current",
        "pull": 0.25,
        "conflict_tolerance": 0.0,
        "max_similarity": 1.0,
        "on_exhausted": "relax",
        "order": "components",
        "fairness": 0.0,
        "drift": 0.0,
        "conflict_worth": 0.7,
    }
    return WalkConfig(**settings | changes)


def pick(order: int, reason: str, name: str) -> dict:
    starts = reason in ("anchor", "reanchor")
    return {
        "id": f"{name}{order}",
        "source": name,
        "order": order,
        "component": order % 3,
        "reason": reason,
        "score": 0.5 + order / 100,
        "cos_component": 0.25 + order / 100,
        "cos_previous": None if starts else 0.125,
        "cos_smallest": None if starts else -0.375,
    }


def walk(target: str, name: str) -> Walk:
    """A walk with each reason once, among 30 rows of the pool."""
    draws = np.random.default_rng(0)

    def units(rows: int) -> np.ndarray:
        found = draws.normal(size=(rows, 8))
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    explained_C = np.array([0.5, 0.25, 0.125, 0.125])
    core = Core(np.eye(8)[:3], np.array([4, 2, 1]) / 7, explained_C, 3)
    # Each reason once.
    picks = [pick(order, reason, name) for order, reason in enumerate(dict.fromkeys(REASONS))]
    prompts = [f"{name} {order} {'long ' * 50}" for order in range(len(picks))]
    return Walk(
        method="g2is",
        target=target,
        seed=0,
        config=walk_config(),
        core=core,
        picks=picks,
        prompts_K=prompts,
        directions_C=[f"row {name}"] * 3,
        chosen_KP=units(len(picks)),
        sample_SP=units(30),
        validation_MP=units(4),
        listing="selections/g2is-0/selection.jsonl",
    )


def scores(targets=("sums",), methods=METHODS, seeds=3) -> list[dict]:
    draws = np.random.default_rng(1)
    return [
        {
            "method": method,
            "target": target,
            "seed": seed,
            "metrics": {"answer_loss": draws.uniform(1, 2), "exact_match": draws.uniform(0, 1)},
            "rows": 10,
            "tokens": 1000 + seed,
            "seconds": 2.5,
        }
        for target in targets
        for method in methods
        for seed in range(seeds)
    ]


def page(name: str = "sums", methods=METHODS, walked: bool = True) -> Page:
    """Every section, as far as there is data; `name` stands wherever a user's text may."""
    stage = FinishedStage(name, name, 2.0, 10**9, 1)
    fine_tunes = [Curve(m, name, 2, [3.0, 2.0, 1.0], [4, 4, 4], [(1, 2.0)]) for m in methods]
    chosen = [
        {"method": m, "target": name, "seed": 0, "rows": [0, 2], "tokens": 9, "seconds": 1.0}
        for m in methods
    ]
    walks = [walk(name, name)] if walked else []
    sections = [
        overview.section({"pool": name, "nothing": ""}),
        results.section(scores((name,), methods), {}),
        cost_section.section([AdapterCost(m, 2, 9, [stage]) for m in methods], [stage]),
        learning_curves.section(fine_tunes),
        directions.section(walks),
        similarities.section(walks),
        sources.section(composition(chosen, [name, "b", name])),
        walk_map.section(walks),
        reasons.section(walks),
    ]
    return Page(f"Selection for {name}", [section for section in sections if section])


@dataclass
class Read(HTMLParser):
    """Reads a page: tables, titles, tags with attributes, and the tags that are open."""

    tables: list[list[list[str]]] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag in ("h1", "h2", "h3", "summary"):
            self.titles.append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] in ("h1", "h2", "h3", "summary"):
            self.titles[-1] += data


def read(html: str) -> Read:
    found = Read()
    found.feed(html)
    found.close()
    return found
