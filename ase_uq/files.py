"""Files appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
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
    check_folder(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        os.replace(aside, path)  # noqa: PTH105 - the atomic rename is the point
    finally:
        aside.unlink(missing_ok=True)


def check_folder(path: str | Path) -> None:
    """Check that a file could be written at `path`; ask before the work whose result it is to hold.

    Raises
    ------
    InputError
        If the folder does not exist.
    """
    folder = Path(path).parent
    if not folder.is_dir():
        raise InputError(f"the folder of `{path}` does not exist; create {folder} first.")
