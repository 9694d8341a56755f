"""Data sets of the Hugging Face hub as sources of rows: hf://owner/name?config=main&split=train."""

import dataclasses
import os
import re
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from etils import epath

from g2is_jax.data.optional import import_optional
from g2is_jax.runs.errors import InputError

PREFIX = "hf://"
FORM = "hf://owner/name?config=CONFIG&split=SPLIT, with @REVISION behind the name where needed"
URI = re.compile(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)(?:@([^?]+))?(?:\?(.*))?", re.ASCII)
PARTS = ("config", "split")
COMMIT = re.compile("[0-9a-f]{40}")
CONFIGS = re.compile(r"available configs: \[(.*?)\]")  # in the library's error


@dataclass(frozen=True)
class HubSet:
    """A data set of the hub; what is None is not named. `os.fspath` gives its URI."""

    id: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None

    def __fspath__(self) -> str:
        named = {name: getattr(self, name) for name in PARTS}
        query = "&".join(f"{name}={value}" for name, value in named.items() if value)
        at = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.id}{at}{'?' if query else ''}{query}"

    def __str__(self) -> str:
        return os.fspath(self)

    @property
    def name(self) -> str:
        """Its name without the owner, and its config where it has one."""
        return "-".join(filter(None, [self.id.partition("/")[2], self.config]))


Place: TypeAlias = epath.Path | HubSet  # where rows are


def place_of_rows(text: epath.PathLike) -> Place:
    """Returns the path that a text is, or the data set of the hub; InputError for a wrong URI."""
    if isinstance(text, HubSet):
        return text
    if not os.fspath(text).startswith(PREFIX):
        return epath.Path(text)
    found = URI.fullmatch(os.fspath(text))
    parts = dict(parse_qsl(found[3] or "", keep_blank_values=True)) if found else {}
    if found is None or parts.keys() - PARTS or not all(parts.values()):
        raise InputError(f"{os.fspath(text)}: no data set of the hub is named so; write {FORM}")
    return HubSet(found[1], found[2], parts.get("config"), parts.get("split"))


def load_hub_set(wanted: HubSet) -> tuple[HubSet, Any]:
    """Returns a data set with its commit, config and split named, and its rows, memory-mapped.

    It is downloaded once, to the cache of `datasets`. Code that it may bring is never run.
    """
    datasets = import_optional("datasets", f"{wanted}: a data set of the hub")
    if os.path.isdir(wanted.id):
        raise InputError(
            f"{wanted}: a folder {wanted.id} is here, which would be read in its place; run the "
            "command in another folder"
        )
    try:
        builder = datasets.load_dataset_builder(wanted.id, wanted.config, revision=wanted.revision)
        builder.download_and_prepare()
    except Exception as error:
        raise InputError(f"{wanted}: {_refusal(wanted, error)}") from error
    if wanted.revision and COMMIT.fullmatch(wanted.revision) and builder.hash != wanted.revision:
        raise InputError(
            f"{wanted}: only the commit {builder.hash} is in the cache, and the hub cannot be "
            "reached; name that one, or run the same command with network"
        )
    splits = list(builder.info.splits)
    split = wanted.split or (splits[0] if len(splits) == 1 else None)
    if split is None or split.partition("[")[0] not in splits:
        named = f"has no split {split!r}" if split else "has several splits and none is named"
        raise InputError(
            f"{wanted}: {named}; choose of {', '.join(splits)}, as in "
            f"{dataclasses.replace(wanted, split=splits[0])}"
        )
    try:
        rows = builder.as_dataset(split=split)
    except ValueError as error:
        raise InputError(f"{wanted}: {_refusal(wanted, error)}") from error
    config = builder.config.name if builder.config.name != "default" else None
    return dataclasses.replace(wanted, revision=builder.hash, config=config, split=split), rows


def _refusal(wanted: HubSet, error: Exception) -> str:
    """Says in one line why a data set cannot be had, and the way out."""
    reason = " ".join(str(error.__cause__ or error).split())
    if configs := CONFIGS.search(reason):
        names = configs[1].replace("'", "").split(", ")
        return (
            f"has several configs and none is named; choose of {', '.join(names)}, as in "
            f"{dataclasses.replace(wanted, config=names[0])}"
        )
    return (
        f"the data set cannot be loaded from the hub ({type(error).__name__}: {reason}); write "
        f"{FORM}; HF_TOKEN opens private and gated ones"
    )
