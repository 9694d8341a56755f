"""Finds a checkpoint: a folder, or a model of the Hugging Face hub, downloaded once."""

import re

from etils import epath

from g2is_jax.model.config_file import adapter_way_out, is_adapter
from g2is_jax.model.weight_files import INDEX, SINGLE, weight_files
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import in_object_store, naming_failures

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
READ = ("*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja")
# Subfolders hold other layouts of the weights; consolidated.safetensors is a second copy of them.
UNREAD = ("*/*", "consolidated*.safetensors")
WEIGHTS = (SINGLE, INDEX)


def resolve_checkpoint(
    name: str, revision: str | None, weights: bool = True, field: str = "model.checkpoint"
) -> epath.Path:
    """Returns the checkpoint's folder; a hub id is downloaded to the hub's cache first.

    name: a folder, a URL of one (gs://...), or a hub id (owner/name); a folder wins over a hub id.
    revision: branch, tag or commit of a hub id; empty for its main branch. weights: whether they
    are needed, else config and tokenizer are enough. field: the config's field that names it. As
    everywhere, HF_TOKEN opens private and gated models and HF_HUB_OFFLINE leaves only what was
    downloaded before.
    """
    try:
        place = epath.Path(name)
    except KeyError as error:
        raise InputError(
            f"{name}: {error.args[0]} is not read; give a folder, gs:// or a hub id (owner/name)"
        ) from error
    if in_object_store(name) or (name and place.is_dir()):
        if revision:
            raise InputError(
                f"model.revision is for hub ids, and {name} is a folder; "
                f"leave it empty instead of {revision!r}"
            )
        return place
    if name and place.exists():
        raise InputError(f"{name}: is a file; give the folder that holds it")
    if not HUB_ID.fullmatch(name):
        raise InputError(
            f"{name or repr(name)}: no such folder, and not of a hub id's form (owner/name); "
            f"set {field} to either"
        )
    return _download(name, revision or None, weights, field)


def downloaded(name: str, revision: str | None) -> epath.Path | None:
    """Returns the folder of a model in the hub's cache, or None; never uses the network."""
    if not HUB_ID.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = epath.Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if (folder / "config.json").exists() else None


def _download(name: str, revision: str | None, weights: bool, field: str) -> epath.Path:
    """Returns the folder of the hub's cache that holds a model, after downloading it."""
    # Slow to import: a folder should not have to wait for it.
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError

    unread = UNREAD if weights else (*UNREAD, "*.safetensors")
    try:
        with naming_failures(constants.HF_HUB_CACHE):
            folder = snapshot_download(
                name, revision=revision, allow_patterns=[*READ], ignore_patterns=[*unread]
            )
    except (HTTPError, HFValidationError, OSError) as error:
        raise InputError(f"{name}: {_refusal(name, revision, field, error)}") from error
    place = epath.Path(folder)
    if is_adapter(place) and not (place / "config.json").exists():
        raise InputError(f"{name}: {adapter_way_out(place)}")
    if weights and not any(place.glob("*.safetensors")):
        raise InputError(
            f"{name}: has no safetensors weights ({folder} holds neither {' nor '.join(WEIGHTS)}); "
            "choose a model or model.revision that has them, or give a folder of converted ones"
        )
    if weights and not any((place / file).exists() for file in WEIGHTS):
        weight_files(place)  # raises where they are not numbered through
    return place


def _refusal(name: str, revision: str | None, field: str, error: BaseException) -> str:
    """Returns the reason that a download failed, and the way out."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # why the cache was looked into
    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    asked = f"{name} at revision {revision}" if revision else name
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"the model has no revision {revision!r}; set model.revision to a branch, tag or "
            f"commit listed on {hub}/{name}/commits, or leave it empty"
        )
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return (
            f"access is refused; ask for it on {hub}/{name} and set HF_TOKEN to a token "
            "of the account that has it"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"neither a folder here nor a model on {hub}; correct {field}, "
            "or set HF_TOKEN to a token that may read it if it is private"
        )
    if status == 401:
        return f"{hub} does not accept the token; set HF_TOKEN to a valid one, or unset it"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"not a folder here, {asked} is not (or not whole) in {cache}, and HF_HUB_OFFLINE "
            "is set; unset it to download once with network, or give a folder"
        )
    if isinstance(error, errors.HFValidationError):
        return f"neither a folder here nor a valid hub id; correct {field}"
    reason = f"{type(error).__name__}: {error}".split("\n")[0]
    return (
        f"not a folder here, and {asked} could not be downloaded from {hub} to {cache} ({reason}); "
        "run the same command again with network, or give a folder"
    )
