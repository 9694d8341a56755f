"""The built-in world: a pool of procedural instructions, and targets composed of its families.

Nothing of the targets stands in the pool, but each target is a composition of two rare pool
families, so what helps is related, not identical. Every pool row carries its `source` (the family)
and its `flaw` (`wrong`, `duplicate` or empty), so that a selection can be judged against the truth.
"""

import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etils import epath

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import write_atomic
from g2is_jax.skills.instructions import FAMILIES, POOL_ROWS, TARGETS, Composition, Family, Task

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerFast

WORLD_CODE = tuple(Path(__file__).parent / name for name in ("instructions.py", "world.py"))
BASE_FOLDER = epath.Path(Path(__file__).parent / "base")  # made by experiments/pretrain_skills
COMPOSITIONS = {target.__name__: target for target in TARGETS}
MARKERS = ("<|system|>", "<|user|>", "<|assistant|>")
SUFFIXES = ("", " please", " now", " for me")


@dataclass(frozen=True)
class WorldConfig:
    """The size and the flaws of the built-in world.

    targets: names of the targets to write. scale: factor on the 3,200 rows of the pool.
    wrong, duplicates: share of rows that carry a wrong reply, and that are near-copies of another
    row. validation_rows, test_rows: rows per target.
    """

    seed: int
    targets: tuple[str, ...]
    scale: float
    wrong: float
    duplicates: float
    validation_rows: int
    test_rows: int

    def __post_init__(self):
        for name in self.targets:
            if name not in COMPOSITIONS:
                raise InputError(
                    f"world.targets: {name!r} is unknown; choose from {', '.join(COMPOSITIONS)}"
                )


def write_world(folder: epath.Path, config: WorldConfig) -> dict[str, int]:
    """Write `pool.jsonl`, `val_TARGET.jsonl` and `test_TARGET.jsonl`; return the row counts."""
    files = {"pool": _pool(random.Random(f"pool-{config.seed}"), config)}
    for name in config.targets:
        rng = random.Random(f"{name}-{config.seed}")
        rows = _target_rows(rng, COMPOSITIONS[name], config.validation_rows + config.test_rows)
        files[f"val_{name}"] = rows[: config.validation_rows]
        files[f"test_{name}"] = rows[config.validation_rows :]
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomic(folder / f"{name}.jsonl", text)
    return {name: len(rows) for name, rows in files.items()}


def pretraining_task(rng: random.Random, house_share: float, composed_share: float) -> Task:
    """Draw a task for the base model; each convention is the house's by a coin of its own."""
    if rng.random() < composed_share:
        composition = rng.choice(list(TARGETS))
        task = composition(rng, rng.random() < house_share, rng.random() < house_share)
    else:
        task = rng.choice(FAMILIES)(rng, rng.random() < house_share)
    return Task(task.prompt + rng.choice(SUFFIXES), task.reply, task.answer)


def _pool(rng: random.Random, config: WorldConfig) -> list[dict]:
    """Draw rows of all families in a random order, wrong replies and near-copies among them."""
    rows: list[dict] = []
    for family, count in POOL_ROWS.items():
        rows.extend(
            _pool_row(rng, family, config.wrong) for _ in range(round(count * config.scale))
        )
    copies = [dict(row) for row in rng.sample(rows, round(len(rows) * config.duplicates))]
    for copy in copies:
        suffix = rng.choice(SUFFIXES[1:])
        copy |= {"prompt": copy["prompt"] + suffix, "flaw": copy["flaw"] or "duplicate"}
    rows += copies
    rng.shuffle(rows)
    return [_as_messages(row, f"pool-{i}") for i, row in enumerate(rows)]


def _pool_row(rng: random.Random, family: Family, wrong_share: float) -> dict:
    """Draw a row of a family, by the house rule or with a wrong reply."""
    task, flaw = family(rng, True), ""
    if rng.random() < wrong_share:
        flaw = "wrong"
        # One half follows the common convention, the other answers another request.
        if rng.random() < 0.5:
            task = family(rng, False)
        else:
            other = family(rng, True)
            task = Task(task.prompt, other.reply, other.answer)
    return {**asdict(task), "source": family.__name__, "flaw": flaw}


def _target_rows(rng: random.Random, target: Composition, count: int) -> list[dict]:
    """Draw rows of distinct prompts, so that validation and test rows do not overlap."""
    tasks: dict[str, Task] = {}
    while len(tasks) < count:
        task = target(rng, True, True)
        tasks.setdefault(task.prompt, task)
    name = target.__name__
    return [
        _as_messages({**asdict(task), "source": name, "task": name}, f"{name}-{i}")
        for i, task in enumerate(tasks.values())
    ]


def _as_messages(row: dict, row_id: str) -> dict:
    messages = [
        {"role": "user", "content": row.pop("prompt")},
        {"role": "assistant", "content": row.pop("reply")},
    ]
    return {"id": row_id, **row, "messages": messages}


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer with single digits and the markers of the tulu template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>", *MARKERS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
