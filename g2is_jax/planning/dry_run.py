"""The cost of a run, reported before anything of it is done: `run_all --dry_run`.

Rows are counted in the config's files and tokens measured on a sample of them with the config's
tokenizer; where that is not there, each row counts as long as model.max_length. Nothing is
written, downloaded or trained.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.files import Record, read_records
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.evaluation.evaluate import encode_prompts
from g2is_jax.evaluation.tasks.table import make_eval_set
from g2is_jax.model.build import build_model
from g2is_jax.model.config import DecoderConfig
from g2is_jax.model.families import read_config
from g2is_jax.model.hub import downloaded
from g2is_jax.pipeline.datasets import target_files
from g2is_jax.pipeline.fields import BUILT_IN
from g2is_jax.pipeline.settings import Settings, read_settings
from g2is_jax.planning.base_models import BASE_MODELS, known_decoder
from g2is_jax.planning.chips import CHIPS
from g2is_jax.planning.cost_table import ALL, UTILISATION, cost_table
from g2is_jax.planning.plan import BACKEND, Plan, RunRows
from g2is_jax.planning.token_counts import RowCounts
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import in_object_store
from g2is_jax.skills.world import BASE_FOLDER, write_world

NAMES = (*CHIPS, ALL)
SAMPLE = 4000  # rows of a file that are tokenised, at most


def instead(config: ConfigDict, asked: bool, chip: str | None, devices: int | None) -> bool:
    """Prints the table if a dry run is asked for, and returns whether it is."""
    if asked:
        print(run(config, chip or ALL, devices))
    for flag, value in (("chip", chip), ("devices", devices)):
        if value is not None and not asked:
            raise InputError(f"--{flag} is read with --dry_run alone; add that, or leave it out")
    return asked


def run(config: ConfigDict, chip: str, devices: int | None) -> str:
    """Returns the table of a chip's stages, or a line for each chip."""
    if chip not in NAMES:
        raise InputError(f"--chip={chip} is unknown; choose from {', '.join(NAMES)}")
    if devices is not None and devices < 1:
        raise InputError(f"--devices={devices}; it must be at least 1")
    plan, tokens = read_plan(config, devices or 1)
    return cost_table(plan, chip, UTILISATION, tokens)


def read_plan(config: ConfigDict, devices: int) -> tuple[Plan, str]:
    """Returns the plan of a config, and a clause on the tokens of its rows."""
    settings = read_settings(config, BACKEND)
    place = _folder(config.model.checkpoint, config.model.revision)
    model = build_model(decoder(config.model.checkpoint, place), settings.lora, settings.base.model)
    with tempfile.TemporaryDirectory() as folder:

        def world() -> epath.Path:
            write_world(epath.Path(folder), settings.data.world)
            return epath.Path(folder)

        pool, validations, tests = target_files(settings.data, world)
        files = Files(pool, validations, tests)
        try:
            if place is None:
                raise InputError(f"{config.model.checkpoint} is not here")
            chat = ChatFormat(load_tokenizer(place), config.model.chat_template)
        except InputError as error:
            rows = _counted(files, config.model.max_length)
            tokens = (
                f"tokens not measured ({str(error).split(';')[0]}): "
                f"{config.model.max_length:,} (model.max_length) each"
            )
        else:
            rows = _measured(files, config, settings, chat)
            parts = {
                name: getattr(rows, name) for name in ("pool", "validation", "test", "prompts")
            }
            means = ", ".join(f"{counts.tokens:,.0f} ({name})" for name, counts in parts.items())
            tokens = f"mean tokens as measured: {means}"
    return Plan(config, settings, model, rows, devices), tokens


def decoder(checkpoint: str, place: epath.Path | None = None) -> DecoderConfig:
    """Returns the shapes of a folder, of the built-in base, or of a hub id that is known here."""
    place = place or _folder(checkpoint, "")
    if place is not None:
        return read_config(place)
    if checkpoint not in BASE_MODELS:
        raise InputError(
            f"model.checkpoint = {checkpoint!r} is neither a folder nor one of "
            f"{', '.join(BASE_MODELS)}; a folder with its config.json alone is enough"
        )
    return known_decoder(checkpoint)


def _folder(checkpoint: str, revision: str) -> epath.Path | None:
    """Returns the place of a checkpoint, or of a part of it; None if it has to be downloaded."""
    if checkpoint == BUILT_IN:
        return BASE_FOLDER
    if in_object_store(checkpoint) or (checkpoint and epath.Path(checkpoint).is_dir()):
        return epath.Path(checkpoint)
    return downloaded(checkpoint, revision or None)


@dataclass(frozen=True)
class Files:
    """The files of a config; one of validation and one of test for each target."""

    pool: epath.Path
    validations: Sequence[epath.Path]
    tests: Sequence[epath.Path]


def _counted(files: Files, max_length: int) -> RunRows:
    """Returns the rows of all files, each as long as it may be."""

    def rows(paths: Sequence[epath.Path]) -> RowCounts:
        return RowCounts(sum(len(read_records(path)) for path in paths), max_length, max_length)

    test = rows(files.tests)
    return RunRows(rows([files.pool]), rows(files.validations), test, test)


def _measured(files: Files, config: ConfigDict, settings: Settings, chat: ChatFormat) -> RunRows:
    """Returns the rows of all files, as long as a sample of each file's is."""
    length = config.model.max_length
    pool, _ = _measured_rows([files.pool], chat, length)
    validation, _ = _measured_rows(files.validations, chat, length)
    test, longest = _measured_rows(files.tests, chat, length)
    lengths_S = _prompts(files, settings, chat, length)
    prompts = RowCounts(test.count, float(lengths_S.mean()), 1.0, lengths_S)
    return RunRows(pool, validation, test, prompts, longest)


def _measured_rows(
    paths: Sequence[epath.Path], chat: ChatFormat, length: int
) -> tuple[RowCounts, int]:
    """Returns the usable rows of some files, and the most supervised tokens of a row."""
    count, tokens, supervised = 0, [], []
    for path in paths:
        records = read_records(path)
        encoded = chat.encode_all(sample(records), length)
        usable = [example for example in encoded if example.supervised_T.any()]
        if not usable:
            raise InputError(
                f"{path}: no row of a sample has a supervised token within {length} tokens; "
                "raise model.max_length or check the assistant messages"
            )
        count += round(len(records) * len(usable) / len(encoded))
        tokens += [len(example.tokens_T) for example in usable]
        supervised += [int(example.supervised_T.sum()) for example in usable]
    mean, learned = float(np.mean(tokens)), float(np.mean(supervised))
    return RowCounts(count, mean, learned, np.array(tokens)), max(supervised)


def _prompts(files: Files, settings: Settings, chat: ChatFormat, length: int) -> np.ndarray:
    """Returns the tokens of the prompt of each test row in a sample, worked rows included."""
    found: list[int] = []
    targets = zip(
        files.tests,
        files.validations,
        settings.evaluation.tasks,
        settings.evaluation.shots_files,
        strict=True,
    )
    for test, validation, task, named in targets:
        shots_file = named or validation
        shown = read_records(shots_file) if task.shots else []
        records = sample(read_records(test, need_answer=True))
        eval_set = make_eval_set(task, records, test, shown, shots_file)
        new_tokens = 0 if task.letters else settings.evaluation.evaluate.new_tokens
        found += map(len, encode_prompts(chat, eval_set, length, new_tokens)[0])
    return np.array(found)


def sample(records: Sequence[Record]) -> list[Record]:
    """Returns rows from all over a file, at most SAMPLE of them."""
    return list(records[:: -(-len(records) // SAMPLE)])
