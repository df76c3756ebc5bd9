"""Files appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ase_uq.errors import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a name beside `path` to write to; rename it to `path` on success, remove it on failure.

    Raises
    ------
    InputError
        If the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"the folder of `{path}` does not exist; create {path.parent} first.")
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        os.replace(aside, path)  # noqa: PTH105 - the atomic rename is the point
    finally:
        aside.unlink(missing_ok=True)


def check_output(path: str | Path, *, overwrite: bool = False, inputs: Iterable[str | Path] = ()) -> None:
    """Refuse to begin what could not be written at its end, or would replace what nobody asked to replace.

    Parameters
    ----------
    path
        The file to be written.
    overwrite
        Whether an existing file may be replaced.
    inputs
        Files that are read, and must stay.

    Raises
    ------
    InputError
        For a folder that does not exist or cannot be written to, a name that is taken, or too long for a file.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"the folder of `{path}` does not exist; create {path.parent} first.")
    if os.path.isdir(path):  # noqa: PTH112 - no error for a name that is too long
        raise InputError(f"`{path}` must be the name of a file, and is a folder; name a file in it.")
    there = os.path.exists(path)  # noqa: PTH110 - likewise
    if there and any(Path(each).exists() and path.samefile(each) for each in inputs):
        raise InputError(f"`{path}` is also read here, and must stay; choose another name for what is written.")
    # os.path.lexists: a link to nowhere is somebody's, too.
    if os.path.lexists(path):
        if there and not path.is_file():
            raise InputError(f"`{path}` must be an ordinary file, and is a device or a pipe; choose another name.")
        if not overwrite:
            raise InputError(f"`{path}` exists already; choose another name, or replace it with --overwrite.")
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.touch()
        aside.unlink()
    except OSError as e:
        raise InputError(f"`{path}` cannot be written ({e.strerror}); choose another place or name.") from e
