"""The sizes of a folder's files, by which a file that was cut short or is gone is noticed.

Looks at no file's bytes. Many files are looked at side by side, as an object store answers slowly.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from etils import epath

AT_ONCE = 32

_found_whole: set[str] = set()  # folders, by this process


def file_sizes(folder: epath.Path) -> dict[str, int]:
    """Returns the bytes of each file in the folder and those below it, by its path within it."""
    places = sorted(place / name for place, _, names in folder.walk() for name in names)
    sizes = _sizes(places)
    inside = len(folder.parts)
    return {
        "/".join(place.parts[inside:]): size
        for place, size in zip(places, sizes, strict=True)
        if size is not None
    }


def difference(folder: epath.Path, expected: dict[str, int]) -> str | None:
    """Names the first of these files that is gone or of another size; None where there is none.

    A folder is looked at once in each process, unless something was wrong.
    """
    if os.fspath(folder) in _found_whole:
        return None
    for name, size in zip(expected, _sizes([folder / name for name in expected]), strict=True):
        if size is None:
            return f"{folder / name}: the file is gone"
        if size != expected[name]:
            return f"{folder / name}: {size:,} bytes of {expected[name]:,}"
    _found_whole.add(os.fspath(folder))
    return None


def _sizes(places: Iterable[epath.Path]) -> list[int | None]:
    """Returns the bytes of each; None for what is no file."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(_size, places))


def _size(place: epath.Path) -> int | None:
    try:
        found = place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if found.is_directory else found.length
