"""A look into the files of a config before a run: what their rows are read as, and their tokens."""

import dataclasses
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.files import RowReader, counted, reading_lines
from g2is_jax.data.shown import marked_text
from g2is_jax.model.config_file import read_raw_config
from g2is_jax.model.families import read_fields
from g2is_jax.model.hub import resolve_checkpoint
from g2is_jax.pipeline.datasets import Dataset, read_dataset, target_files
from g2is_jax.pipeline.fields import BUILT_IN, file_names
from g2is_jax.pipeline.input_checks import check_vocabulary
from g2is_jax.pipeline.inputs import check_columns, read_chat
from g2is_jax.pipeline.model_limits import lowered, within_limits
from g2is_jax.pipeline.settings import DataSettings, check_settings
from g2is_jax.runs.errors import InputError
from g2is_jax.skills.world import BASE_FOLDER, write_world

QUANTILES = {"least": 0.0, "10 %": 0.1, "half": 0.5, "90 %": 0.9, "most": 1.0}
SHOWN = 3  # rows as the model sees them
MOST_SOURCES = 12


@dataclass
class Look:
    """Holds what was found in a file; `error` says why it cannot be used, if so.

    role: pool, validation, test or shots. tokens, learned: of a usable row, by quantile. rows: good
    ones; without_learned: those of them that have no learned token within model.max_length.
    """

    file: str
    role: str
    error: str = ""
    rows: int = 0
    shapes: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    repeated_ids: int = 0
    bad: list[dict] = field(default_factory=list)
    usable: int = 0
    without_learned: int = 0
    cut: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    learned: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    shown: list[dict] = field(default_factory=list)


def run(config: ConfigDict) -> list[Look]:
    """Looks into every file that the config names, and prints what there is.

    Needs the checkpoint's tokenizer and its config.json, and of the files those that are named.
    """
    if not config.data.pool:
        raise InputError("data.pool is empty; give a file of rows, or skills")
    named = config.model.checkpoint
    folder = BASE_FOLDER
    if named != BUILT_IN:
        folder = resolve_checkpoint(named, config.model.revision, weights=False)
    decoder, notes = read_fields(read_raw_config(folder), str(folder / "config.json"))
    whole = within_limits(check_settings(config, "cpu"), decoder.max_position_embeddings)
    settings = whole.data
    for line in (*notes, *lowered(config, whole)):
        print(line)
    chat = read_chat(folder, settings)
    looks, by_hand = [], []
    with tempfile.TemporaryDirectory() as world:
        for role, reader in _readers(config, settings, epath.Path(world)):
            found = look(role, reader, settings, chat, decoder.vocab_size, folder)
            print("\n".join([*lines(found, settings.max_length), ""]), flush=True)
            looks.append(found)
            by_hand.append(reader.by_hand)
    check_columns(settings.columns, by_hand)
    for line in chat.summary():
        print(line)
    return looks


def _readers(
    config: ConfigDict, settings: DataSettings, world: epath.Path
) -> Iterator[tuple[str, RowReader]]:
    """The files of the config, each with what it is for."""
    files: dict[str, Sequence[epath.PathLike]] = {
        "pool": [settings.pool],
        "validation": settings.validation,
        "test": settings.test,
        "shots": tuple(filter(None, file_names(config.evaluate.shots_files))),
    }
    if settings.pool == BUILT_IN:
        write_world(world, settings.world)
        pool, files["validation"], files["test"] = target_files(settings, lambda: world)
        files["pool"] = [pool]
    for role, named in files.items():
        for file in named:
            yield role, RowReader(file, need_answer=role == "test", columns=settings.columns)


def look(
    role: str,
    reader: RowReader,
    settings: DataSettings,
    chat: ChatFormat,
    vocabulary: int,
    folder: epath.Path,
) -> Look:
    """Reads a file as a run does; what was found until an error is there too."""
    found = Look(os.fspath(reader.path), role)
    policy = settings.bad_rows if role == "pool" else "stop"
    try:
        dataset = read_dataset(reader, policy, chat, settings.max_length)
        check_vocabulary([dataset], vocabulary, folder)
    except InputError as error:
        found.error = error.args[-1]
        if policy == "stop" and len(reader.bad):
            found.error = f"{len(reader.bad):,} bad rows; mend them"
    else:
        _add_tokens(found, dataset, chat)
    found.file = os.fspath(reader.path)  # with the commit of a hub's data set
    found.rows = sum(reader.shapes.values())
    found.shapes, found.notes = dict(reader.shapes), dict(reader.notes)
    found.unread = dict(reader.unread)
    found.repeated_ids = reader.repeated_ids
    found.bad = [dataclasses.asdict(reason) for reason in reader.bad.reasons]
    return found


def _add_tokens(found: Look, dataset: Dataset, chat: ChatFormat) -> None:
    encoded, count = dataset.encoded, len(dataset.encoded)
    found.usable, found.without_learned, found.cut = count, dataset.dropped, dataset.truncated
    found.tokens = _quantiles(encoded.lengths_N)
    found.learned = _quantiles(encoded.supervised_N)
    found.sources = dict(Counter(dataset.sources).most_common())
    for place in sorted({0, count // 2, count - 1})[:SHOWN]:
        found.shown.append(
            dataset.records.known(place)
            | {"tokens": int(encoded.lengths_N[place]), "learned": int(encoded.supervised_N[place])}
            | {"text": marked_text(chat, encoded[place])}
        )


def _quantiles(values_N: np.ndarray) -> dict[str, int]:
    shares = np.quantile(values_N, [*QUANTILES.values()], method="nearest").tolist()
    return {**dict(zip(QUANTILES, shares, strict=True)), "together": int(values_N.sum())}


def lines(found: Look, max_length: int) -> list[str]:
    """The lines that say what was found in a file."""
    name = f"{found.file} ({found.role})"
    first, *more = reading_lines(found.shapes, found.notes, found.unread, found.repeated_ids)
    text = [f"{name}: {first}", *(f"    {line}" for line in more)]
    for reason in found.bad:
        places = ", ".join(f"{line:,}" for line in reason["lines"])
        rest = ", ..." if reason["rows"] > len(reason["lines"]) else ""
        text.append(f"    {reason['rows']:,} bad rows (line {places}{rest}): {reason['message']}")
    if found.error:
        return [*text, f"    CANNOT BE USED: {found.error}"]
    text.append(
        f"    {found.usable:,} rows can be used; {found.without_learned:,} have no learned token "
        f"within {max_length:,} and are left out; {found.cut:,} are cut there"
    )
    text += [f"    {line}" for line in token_lines(found.tokens, found.learned)]
    named = {source: count for source, count in found.sources.items() if source}
    if named:
        text.append(f"    sources: {counted(named, MOST_SOURCES)}")
    for row in found.shown:
        tokens = f"{row['tokens']:,} tokens, the {row['learned']:,} learned ones in [[ ]]"
        text.append(f'    row {row["row"]} (id "{row["id"]}"), {tokens}:')
        text += [f"        {line}" for line in row["text"].split("\n")]
    return text


def token_lines(tokens: dict[str, int], learned: dict[str, int]) -> list[str]:
    """The tokens of a row by quantile, in all and learned ones."""
    return [
        f"{kind} of a row: " + ", ".join(f"{name} {count:,}" for name, count in found.items())
        for kind, found in (("tokens", tokens), ("learned tokens", learned))
    ]


def short_lines(dataset: Dataset) -> list[str]:
    """The tokens of a file's rows, for the lines that a run prints before its first stage."""
    encoded = dataset.encoded
    found = token_lines(_quantiles(encoded.lengths_N), _quantiles(encoded.supervised_N))
    return [f"{dataset.path}: {line}" for line in found]


def check_usable(looks: Sequence[Look]) -> None:
    """Check that every file can be used."""
    refused = [found.file for found in looks if found.error]
    if refused:
        raise InputError(
            f"{len(refused)} of {len(looks)} files cannot be used: {', '.join(refused)}; "
            "the lines above say why"
        )
