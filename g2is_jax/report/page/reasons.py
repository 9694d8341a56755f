"""The reasons for which a walk chose each row, in words."""

from collections.abc import Sequence

from g2is_jax.report.page.blocks import Block, Folded, Section, Table, Text
from g2is_jax.report.page.finished_walk import Walk
from g2is_jax.selection.walk.rules import WalkConfig

MOST_DIRECTIONS, MOST_ROWS = 60, 15  # listed; selection.jsonl has them all
PROMPT_CHARACTERS = 160

# {aim}: what the walk looks for; {coherent}: what makes a neighbour the best; both see the rules.
WORDS = {
    "anchor": "the first row of the walk: of the whole pool, {aim}",
    "reanchor": ("a new start, as no row was valid any more: of all rows not chosen yet, {aim}"),
    "neighbour": "of the valid rows near to the row before it, {coherent}",
    "fallback": "no stored neighbour of the row before it was valid: of the whole pool, {aim}",
    "relaxed conflict": (
        "kept although it conflicts with an earlier row (cosine {smallest}), as no row kept all "
        "rules"
    ),
    "relaxed consistency": (
        "kept although it turns the sum of the rows away from the target, as no other row was "
        "left that keeps the rules"
    ),
    "relaxed similarity": (
        "kept although it is nearly a copy of an earlier row, as no other row was left"
    ),
    "worth a conflict": (
        "kept although it conflicts with an earlier row (cosine {smallest}), because the best row "
        "without a conflict was worth less than {worth} as much"
    ),
}


def sentence(pick: dict, config: WalkConfig) -> str:
    """Says why a row was chosen: the reason, and the cosines that go with it."""
    aim = _aim(config)
    smallest = _number(pick["cos_smallest"])
    text = WORDS[pick["reason"]].format(
        aim=aim,
        coherent=_coherent(config, aim),
        smallest=smallest,
        worth=f"{config.conflict_worth:.0%}",
    )
    cosines = [f"cosine {_number(pick['cos_component'])} to this direction"]
    if pick["cos_previous"] is not None:
        cosines.append(f"{_number(pick['cos_previous'])} to the row before")
    if pick["cos_smallest"] is not None and smallest not in text:
        cosines.append(f"at least {smallest} to all before")
    return f"{text[0].upper()}{text[1:]} ({', '.join(cosines)}; score {_number(pick['score'])})."


def _aim(config: WalkConfig) -> str:
    if config.order == "components":
        return "the one closest to this direction"
    if config.fairness == 0:
        return "the one that gives most to all directions together"
    return "the one that gives most to the directions, those served least so far counting most"


def _coherent(config: WalkConfig, aim: str) -> str:
    """Says what a neighbour's score rewards."""
    similar = "the one most similar to it"
    if config.drift and config.order == "together":
        aim += ", less what it has in common with the rows before beside the target"
    if config.pull in (0, 1):
        return aim if config.pull else similar
    return f"the best by {config.pull:.0%} of being {aim}, and the rest of being {similar}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def section(walks: Sequence[Walk]) -> Section | None:
    """Makes a folded list for each direction of each walk; None without a walk."""
    walks = [walk for walk in walks if walk.picks]
    if not walks:
        return None
    return Section("Why each row was chosen", [Section(w.title, _listed(w)) for w in walks])


def _listed(walk: Walk) -> list[Block]:
    by_direction: dict[int, list[int]] = {}
    for place, pick in enumerate(walk.picks):
        by_direction.setdefault(pick["component"], []).append(place)
    shown = sorted(by_direction)[:MOST_DIRECTIONS]
    note = (
        f"{len(walk.picks):,} rows for {len(by_direction)} directions, the first "
        f"{MOST_ROWS} of each; all are in {walk.listing}."
    )
    blocks: list[Block] = [Text(note), _counts(walk)]
    for direction in shown:
        places = by_direction[direction]
        count = f"{len(places)} row{'s' * (len(places) > 1)}"
        title = f"{count} for direction {direction}, {walk.directions_C[direction]}"
        blocks.append(Folded(title, [_table(walk, places[:MOST_ROWS])]))
    if len(by_direction) > len(shown):
        blocks.append(Text(f"{len(by_direction) - len(shown)} more directions are not listed."))
    return blocks


def _counts(walk: Walk) -> Table:
    """Counts how often each reason decided."""
    reasons = [pick["reason"] for pick in walk.picks]
    lines = [[name, f"{reasons.count(name):,}"] for name in WORDS if name in reasons]
    return Table(["reason", "rows"], lines)


def _table(walk: Walk, places: Sequence[int]) -> Table:
    lines = [
        [
            str(walk.picks[place]["order"] + 1),
            walk.picks[place]["id"],
            walk.picks[place]["source"],
            sentence(walk.picks[place], walk.config),
            shortened(walk.prompts_K[place]),
        ]
        for place in places
    ]
    head = ["order", "row", "source", "why", "prompt"]
    return Table(head, lines, prose=frozenset({3, 4}))


def shortened(prompt: str) -> str:
    """Returns the beginning of a prompt, on one line."""
    line = " ".join(prompt.split())
    return line if len(line) <= PROMPT_CHARACTERS else f"{line[:PROMPT_CHARACTERS]}…"
