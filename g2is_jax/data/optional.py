"""Imports the libraries of an extra where they are needed."""

import importlib
from typing import Any

from g2is_jax.runs.errors import InputError


def import_optional(library: str, what: str, extra: str = "data") -> Any:
    """Returns a library of the extra; where it is not there, InputError names what needs it."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise InputError(
            f'{what}, which needs the extra [{extra}]: pip install -e ".[{extra}]"'
        ) from error
