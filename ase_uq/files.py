"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ase_uq.errors import InputError

# Of a name, in bytes, on every file system in use.
_LONGEST_NAME = 255


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a name beside `path` to write to; rename it to `path` on success, remove it on failure.

    A symbolic link stays one: the file it points to is replaced.

    Raises
    ------
    InputError
        If the folder does not exist, or the name cannot be one of a file.
    """
    target = followed(path)
    aside = aside_of(target, f"{os.getpid()}.part")
    try:
        yield aside
        os.replace(aside, target)  # noqa: PTH105 - the atomic rename is the point
    finally:
        # A folder that cannot be written to has said so already.
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def followed(path: str | os.PathLike[str]) -> Path:
    """Return the file that `path` means, behind all symbolic links; it need not exist, its folder must.

    Raises
    ------
    InputError
        If the folder does not exist, or the name is too long, a folder, or a link to itself.
    """
    try:
        target = Path(path).resolve()
        is_folder = target.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        # In the words of the system: too long, a loop of links, a null character.
        raise InputError(f"`{path}` cannot be the name of a file: {error}; choose another.") from error
    if not target.parent.is_dir():
        raise InputError(f"the folder of `{path}` does not exist; create {target.parent} first.")
    if is_folder:
        raise InputError(f"`{path}` must be the name of a file, it is a folder; add a name.")
    if len(os.fsencode(target.name)) > _LONGEST_NAME:
        raise InputError(f"`{path}` must have a name of at most {_LONGEST_NAME} bytes; choose a shorter one.")
    return target


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
        As for `followed`; for a folder that cannot be written to, and a name that is taken.
    """
    target = followed(path)
    check_stays(path, inputs)
    # A link to nowhere is somebody's, too.
    if os.path.lexists(path):
        if target.exists() and not target.is_file():
            raise InputError(f"`{path}` must be an ordinary file, and is a device or a pipe; choose another name.")
        if not overwrite:
            raise InputError(f"`{path}` exists already; choose another name, or replace it with overwrite=True.")
    aside = aside_of(target, f"{os.getpid()}.part")
    try:
        aside.touch()
        aside.unlink()
    except OSError as e:
        raise InputError(f"`{path}` cannot be written ({e.strerror}); choose another place or name.") from e


def check_stays(path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """Refuse to write over a file that is read, by whatever name it is called.

    Parameters
    ----------
    path
        The file to be written.
    inputs
        Files that are read; `None` and files that do not exist are passed over.

    Raises
    ------
    InputError
        As for `followed`, and for a file that is read.
    """
    target = followed(path)
    if target.exists() and any(each is not None and Path(each).exists() and target.samefile(each) for each in inputs):
        raise InputError(f"`{path}` is also read here, and must stay; choose another name for what is written.")


def check_folder(path: str | os.PathLike[str]) -> None:
    """Check that a file could be written at `path`; ask before the work whose result it is to hold.

    Raises
    ------
    InputError
        As for `followed`.
    """
    followed(path)


def aside_of(path: Path, ending: str) -> Path:
    """Return the hidden name beside `path` that a file has while it is written; it is never too long.

    Examples
    --------
    >>> aside_of(Path("run.h5"), "part").name
    '.run.h5.part'
    >>> len(aside_of(Path("x" * 255), "part").name)
    38
    """
    name = f".{path.name}.{ending}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.{ending}"
    return path.with_name(name)
