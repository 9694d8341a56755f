"""The cost of a run, reported before anything of it is done: `run_all --dry_run`.

Rows are counted in the config's files and tokens measured on a sample of them with the config's
tokenizer; where that is not there, each row counts as long as model.max_length. For a slice of TPU
chips the run's programs are compiled. Nothing is written or trained, and nothing downloaded but the
data sets of the hub that the config names.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.chat import ChatFormat, Written
from g2is_jax.data.files import read_records, read_rows
from g2is_jax.data.hub_sets import Place
from g2is_jax.data.records import Record, Records
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.evaluation.evaluate import encode_prompts
from g2is_jax.evaluation.tasks.table import make_eval_set
from g2is_jax.model.build import build_model
from g2is_jax.pipeline.datasets import target_files
from g2is_jax.pipeline.model_limits import within_limits
from g2is_jax.pipeline.settings import DataSettings, Settings, read_settings
from g2is_jax.planning.base_models import decoder, place_of
from g2is_jax.planning.chips import CHIPS
from g2is_jax.planning.compile_ahead import print_programs, write_overrides
from g2is_jax.planning.cost_table import ALL, UTILISATION, cost_table
from g2is_jax.planning.plan import BACKEND, Plan, RunRows
from g2is_jax.planning.slices.topology import (
    INSTALL,
    SHAPES,
    chips_of,
    has_compiler,
    hosts_of,
    slice_name,
)
from g2is_jax.planning.slices.walks import PoolSize
from g2is_jax.planning.token_counts import RowCounts
from g2is_jax.runs.errors import InputError
from g2is_jax.skills.world import write_world

NAMES = (*CHIPS, ALL)
SAMPLE = 4000  # rows of a file that are tokenised, at most


@dataclass(frozen=True)
class Asked:
    """The flags of a dry run; None and False are what nobody asked for.

    topology: a slice by its name, which is in place of chip and devices. largest: whether to look
    for the largest batches that fit; overrides: the file for them.
    """

    chip: str | None = None
    devices: int | None = None
    topology: str | None = None
    compile: bool = True
    largest: bool = False
    overrides: str | None = None

    def __post_init__(self):
        if self.chip not in (*NAMES, None):
            raise InputError(f"--chip={self.chip} is unknown; choose from {', '.join(NAMES)}")
        if self.devices is not None and self.devices < 1:
            raise InputError(f"--devices={self.devices}; it must be at least 1")
        if self.topology and (self.chip or self.devices):
            raise InputError("--topology names chip and devices; leave --chip and --devices out")

    @property
    def slice(self) -> str | None:
        """The slice to compile for; None where the chips are no TPU's or not of one kind."""
        if self.topology or self.chip not in SHAPES:
            return self.topology
        return slice_name(self.chip, self.devices or 1)

    @property
    def chips(self) -> tuple[str, int]:
        """The kind of chip, or ALL, and their number."""
        if self.topology:
            return chips_of(self.topology)
        return self.chip or ALL, self.devices or 1


def instead(config: ConfigDict, dry: bool, asked: Asked) -> bool:
    """Prints what a run will cost if a dry run is asked for, and returns whether it is."""
    if not dry:
        for flag, value in vars(asked).items():
            if value != Asked.__dataclass_fields__[flag].default:
                raise InputError(
                    f"--{flag} is read with --dry_run alone; add that, or leave it out"
                )
        return False
    chip, devices = asked.chips
    plan, tokens = read_plan(config, devices, hosts_of(chip, devices) if asked.slice else 1)
    print(cost_table(plan, chip, UTILISATION, tokens))
    if asked.slice and asked.compile:
        _compile(plan, asked.slice, asked)
    return True


def _compile(plan: Plan, name: str, asked: Asked) -> None:
    """Prints what the compiler says of the run's programs, where there is a compiler."""
    if not has_compiler():
        print(f"\nNot compiled for {name}, so bytes are the arithmetic of shapes: {INSTALL}.")
        return
    directions = max(plan.rows.validation.count // plan.targets, 1)
    pool, looks = PoolSize(plan.rows.pool.count, directions), asked.largest or asked.overrides
    found = print_programs(plan.settings, plan.model, name, pool, bool(looks))
    if asked.overrides:
        write_overrides(asked.overrides, name, found)


def read_plan(config: ConfigDict, devices: int, hosts: int = 1) -> tuple[Plan, str]:
    """Returns the plan of a config, and a clause on the tokens of its rows."""
    settings = read_settings(config, BACKEND)
    place = place_of(config.model.checkpoint, config.model.revision)
    shapes = decoder(config.model.checkpoint, place)
    settings = within_limits(settings, shapes.max_position_embeddings)
    model = build_model(shapes, settings.lora, settings.base.model)
    with tempfile.TemporaryDirectory() as folder:

        def world() -> epath.Path:
            write_world(epath.Path(folder), settings.data.world)
            return epath.Path(folder)

        pool, validations, tests = target_files(settings.data, world)
        files = Files(pool, validations, tests)
        try:
            if place is None:
                raise InputError(f"{config.model.checkpoint} is not here")
            today = settings.data.today
            chat = ChatFormat(load_tokenizer(place), config.model.chat_template, today)
        except InputError as error:
            rows = _counted(files, settings.data)
            tokens = (
                f"tokens not measured ({str(error).split(';')[0]}): "
                f"{settings.data.max_length:,} (model.max_length) each"
            )
        else:
            rows = _measured(files, settings, chat)
            parts = {
                name: getattr(rows, name) for name in ("pool", "validation", "test", "prompts")
            }
            means = ", ".join(f"{counts.tokens:,.0f} ({name})" for name, counts in parts.items())
            tokens = f"mean tokens as measured: {means}"
    return Plan(config, settings, model, rows, devices, hosts), tokens


@dataclass(frozen=True)
class Files:
    """The files of a config; one of validation and one of test for each target."""

    pool: Place
    validations: Sequence[Place]
    tests: Sequence[Place]


def _counted(files: Files, data: DataSettings) -> RunRows:
    """Returns the rows of all files, each as long as it may be."""

    def rows(paths: Sequence[Place], bad_rows: str) -> RowCounts:
        counts = [len(_read(path, bad_rows, data)) for path in paths]
        return RowCounts(sum(counts), data.max_length, data.max_length)

    test = rows(files.tests, "stop")
    return RunRows(rows([files.pool], data.bad_rows), rows(files.validations, "stop"), test, test)


def _measured(files: Files, settings: Settings, chat: ChatFormat) -> RunRows:
    """Returns the rows of all files, as long as a sample of each file's is."""
    length, data = settings.data.max_length, settings.data
    pool, _ = _measured_rows([files.pool], data.bad_rows, data, chat)
    validation, _ = _measured_rows(files.validations, "stop", data, chat)
    test, longest = _measured_rows(files.tests, "stop", data, chat)
    lengths_S = _prompts(files, settings, chat, length)
    prompts = RowCounts(test.count, float(lengths_S.mean()), 1.0, lengths_S)
    return RunRows(pool, validation, test, prompts, longest)


def _measured_rows(
    paths: Sequence[Place], bad_rows: str, data: DataSettings, chat: ChatFormat
) -> tuple[RowCounts, int]:
    """Returns the usable rows of some files, and the most supervised tokens of a row."""
    count, length, tokens, supervised = 0, data.max_length, [], []
    for path in paths:
        records = _read(path, bad_rows, data)
        taken = sample(records)
        encoded = chat.encode_written(_writable(taken, bad_rows, chat), length)
        usable = [example for example in encoded if example.supervised_T.any()]
        if not usable:
            raise InputError(
                f"{path}: no row of a sample has a supervised token within {length} tokens; "
                "raise model.max_length or check the assistant messages"
            )
        count += round(len(records) * len(usable) / len(taken))
        tokens += [len(example.tokens_T) for example in usable]
        supervised += [int(example.supervised_T.sum()) for example in usable]
    mean, learned = float(np.mean(tokens)), float(np.mean(supervised))
    return RowCounts(count, mean, learned, np.array(tokens)), max(supervised)


def _writable(records: Sequence[Record], bad_rows: str, chat: ChatFormat) -> list[Written]:
    """Returns the rows as the template writes them, without those that a run drops."""
    texts = []
    for record in records:
        try:
            texts.append(chat.written(record.messages))
        except InputError:
            if bad_rows == "stop":
                raise
    return texts


def _read(path: Place, bad_rows: str, data: DataSettings) -> Records:
    """Returns the good rows of a file, once it is printed how they were read."""
    rows = read_rows(path, bad_rows, columns=data.columns)
    print("\n".join(rows.summary()))
    return rows.records


def _prompts(files: Files, settings: Settings, chat: ChatFormat, length: int) -> np.ndarray:
    """Returns the tokens of the prompt of each test row in a sample, worked rows included."""
    found: list[int] = []
    columns = settings.data.columns
    targets = zip(
        files.tests,
        files.validations,
        settings.evaluation.tasks,
        settings.evaluation.shots_files,
        strict=True,
    )
    for test, validation, task, named in targets:
        shots_file = named or validation
        shown: list[Record] = []
        if task.shots and named:
            shown = list(_read(named, "stop", settings.data))
        elif task.shots:  # how it was read is printed already
            shown = read_records(validation, columns=columns)
        records = sample(read_records(test, need_answer=True, columns=columns))
        eval_set = make_eval_set(task, records, test, shown, shots_file)
        new_tokens = 0 if task.letters else settings.evaluation.evaluate.new_tokens
        found += map(len, encode_prompts(chat, eval_set, length, new_tokens)[0])
    return np.array(found)


def sample(records: Sequence[Record]) -> list[Record]:
    """Returns rows from all over a file, at most SAMPLE of them."""
    return list(records[:: -(-len(records) // SAMPLE)])
