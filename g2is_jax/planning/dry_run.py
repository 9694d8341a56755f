"""What a run will take, told before anything of it is done: `run_all --dry_run`.

Rows are counted in the config's files and tokens measured on a sample of them with the config's
tokenizer; where that is not there, each row counts as long as model.max_length. Nothing is
written, downloaded or trained.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
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
from g2is_jax.model.families import decoder_config, read_config
from g2is_jax.model.hub import downloaded
from g2is_jax.pipeline.datasets import target_files
from g2is_jax.pipeline.settings import BUILT_IN, Settings, read_settings
from g2is_jax.planning.base_models import BASE_MODELS
from g2is_jax.planning.chips import CHIPS
from g2is_jax.planning.layouts import Rows
from g2is_jax.planning.machines import ALL, UTILISATION, by_chip, published, table
from g2is_jax.planning.stage_costs import Plan, RowsOf, stages
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import in_object_store
from g2is_jax.skills.world import BASE_FOLDER, write_world

CPU = "cpu"  # this machine, measured
NAMES = (*CHIPS, ALL, CPU)
SAMPLE = 4000  # rows of a file that are tokenised, at most


def instead(config: ConfigDict, asked: bool, chip: str | None, devices: int | None) -> bool:
    """Print the table if a dry run is asked for; whether it is."""
    if asked:
        print(run(config, chip or CPU, devices))
    for flag, value in (("chip", chip), ("devices", devices)):
        if value is not None and not asked:
            raise InputError(f"--{flag} is read with --dry_run alone; add that, or leave it away")
    return asked


def run(config: ConfigDict, chip: str, devices: int | None) -> str:
    """The table of a chip's stages, or a line for each chip."""
    if chip not in NAMES:
        raise InputError(f"--chip={chip} is unknown; choose from {', '.join(NAMES)}")
    if devices is not None and (devices < 1 or (chip == CPU and devices > 1)):
        least = "1, as cpu is this machine" if chip == CPU else "at least 1"
        raise InputError(f"--devices={devices}; it must be {least}")
    plan, text_seconds, tokens = read_plan(config, devices or 1)
    found = stages(plan)
    if chip == ALL:
        return by_chip(plan, found, UTILISATION, tokens)
    if chip == CPU:
        from g2is_jax.planning.measured_chip import measured

        return table(plan, found, measured(plan, text_seconds), tokens)
    return table(plan, found, published(chip), tokens)


def read_plan(
    config: ConfigDict, devices: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[Plan, float, str]:
    """The plan of a config, seconds that a row takes to tokenise, and what is known of tokens."""
    settings = read_settings(config)
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
            rows, seconds = _counted(files, config.model.max_length), 0.0
            tokens = (
                f"tokens not measured ({str(error).split(';')[0]}): "
                f"{config.model.max_length:,} (model.max_length) each"
            )
        else:
            rows, seconds = _measured(files, config, settings, chat, clock)
            of = {name: getattr(rows, name) for name in ("pool", "validation", "test", "prompts")}
            means = ", ".join(f"{one.tokens:,.0f} ({name})" for name, one in of.items())
            tokens = f"mean tokens as measured: {means}"
    return Plan(config, settings, model, rows, devices), seconds, tokens


def decoder(checkpoint: str, place: epath.Path | None = None) -> DecoderConfig:
    """Of a folder, of the built-in base, or of a hub id whose shapes are known here."""
    place = place or _folder(checkpoint, "")
    if place is not None:
        return read_config(place)
    if checkpoint not in BASE_MODELS:
        raise InputError(
            f"model.checkpoint = {checkpoint!r} is neither a folder nor one of "
            f"{', '.join(BASE_MODELS)}; a folder with its config.json alone is enough"
        )
    return decoder_config(BASE_MODELS[checkpoint], f"configs/base_models.py: {checkpoint}")


def _folder(checkpoint: str, revision: str) -> epath.Path | None:
    """Where a checkpoint, or what there is of it, lies; None if it would have to be downloaded."""
    if checkpoint == BUILT_IN:
        return BASE_FOLDER
    if in_object_store(checkpoint) or (checkpoint and epath.Path(checkpoint).is_dir()):
        return epath.Path(checkpoint)
    return downloaded(checkpoint, revision or None)


@dataclass(frozen=True)
class Files:
    """The config's, one of validation and of test for each target."""

    pool: epath.Path
    validations: Sequence[epath.Path]
    tests: Sequence[epath.Path]


def _counted(files: Files, max_length: int) -> RowsOf:
    def rows(of: Sequence[epath.Path]) -> Rows:
        return Rows(sum(len(read_records(file)) for file in of), max_length, max_length)

    test = rows(files.tests)
    return RowsOf(rows([files.pool]), rows(files.validations), test, test)


def _measured(
    files: Files, config: ConfigDict, settings: Settings, chat: ChatFormat, clock: Callable
) -> tuple[RowsOf, float]:
    """The rows of all files, and seconds that a test row takes to tokenise."""
    length, seconds, longest = config.model.max_length, 0.0, 0

    def rows(named: Sequence[epath.Path]) -> Rows:
        nonlocal seconds, longest
        count, tokens, supervised = 0, [], []
        for file in named:
            records = read_records(file)
            began = clock()
            encoded = chat.encode_all(sample(records), length)
            seconds = (clock() - began) / len(encoded)
            usable = [one for one in encoded if one.supervised_T.any()]
            if not usable:
                raise InputError(
                    f"{file}: no row of a sample has a supervised token within {length} tokens; "
                    "raise model.max_length or check the assistant messages"
                )
            count += round(len(records) * len(usable) / len(encoded))
            tokens += [len(one.tokens_T) for one in usable]
            supervised += [int(one.supervised_T.sum()) for one in usable]
        longest = max(supervised)
        mean, learned = float(np.mean(tokens)), float(np.mean(supervised))
        return Rows(count, mean, learned, np.array(tokens))

    pool, validation, test = map(rows, ([files.pool], files.validations, files.tests))
    lengths = _prompts(files, settings, chat, length)
    prompts = Rows(test.count, float(lengths.mean()), 1.0, lengths)
    return RowsOf(pool, validation, test, prompts, longest), seconds


def _prompts(files: Files, settings: Settings, chat: ChatFormat, length: int) -> np.ndarray:
    """Tokens of what stands before the replies, worked rows included."""
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
    """Rows from all over a file."""
    return list(records[:: -(-len(records) // SAMPLE)])
