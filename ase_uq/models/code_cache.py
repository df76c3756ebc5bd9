"""Packages of machine code on disk, of which none is run that anybody else could have put there.

A package is a shared library: to load it is to run it. So it is taken only from a folder that no other user can write
to, along the whole path, as a plain file of our own, and only if its content has the hash that is in its name. What is
not so is built again; where the folder itself is not so, in one that this process has for itself.

=====================================  =================================================================
name of a file                         `<key>-<SHA-256 of its content>.pt2`
=====================================  =================================================================
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class CodeCache:
    """Packages in a folder, by key.

    Parameters
    ----------
    folder
        Where they are kept; it is made, for this user alone, when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own: Path | None = None

    def path(self, key: str, build: Callable[[Path], Path]) -> Path:
        """Return the file of a package that may be run, built if there is none.

        Parameters
        ----------
        key
            Of the package.
        build
            Makes it somewhere within a folder, and returns the file.
        """
        folder = self._safe_folder()
        for path in sorted(folder.glob(f"{key}-*.pt2")):
            with contextlib.suppress(FileNotFoundError):  # removed by another process meanwhile
                if _is_own(path) and path.name == _name(key, path):
                    return path
            logger.warning("%s is not what was built here, it is built again", path)
            with contextlib.suppress(OSError):  # another process has removed it, or it is a folder and stays
                path.unlink()
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            built = build(Path(aside))
            built.chmod(stat.S_IRUSR | stat.S_IWUSR)
            return built.replace(folder / _name(key, built))

    def _safe_folder(self) -> Path:
        if self._own is not None:
            return self._own
        try:
            self.folder.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
            why = why_not_safe(self.folder)
            with tempfile.TemporaryFile(dir=self.folder):
                pass  # it can be written to
        except OSError as e:
            why = str(e)
        if why is None:
            return self.folder
        logger.warning(
            "compiled models are not kept: %s; make the folder your own (chmod go-w), or set XDG_CACHE_HOME to another",
            why,
        )
        self._own = Path(tempfile.mkdtemp(prefix="ase_uq-"))  # for this user alone
        weakref.finalize(self, shutil.rmtree, self._own, ignore_errors=True)
        return self._own


def why_not_safe(folder: Path) -> str | None:
    """Return who else could put a file into a folder, or `None` for nobody.

    Every folder on the way, with links and without, must belong to this user or to root, and not be open for others to
    write; on the way, not at its end, it may be one like /tmp where others can write but not replace what is ours.
    """
    if not hasattr(os, "getuid"):
        return None  # Windows gives each user folders of its own
    real = folder.resolve()
    for path in dict.fromkeys([real, *real.parents, folder.absolute(), *folder.absolute().parents]):
        found = path.stat()
        if found.st_uid not in (os.getuid(), 0):
            return f"{path} belongs to another user"
        shared = path not in (real, folder.absolute()) and found.st_mode & stat.S_ISVTX
        if found.st_mode & _OTHERS_WRITE and not shared:
            return f"others can write to {path}"
    return None


def _is_own(path: Path) -> bool:
    found = path.lstat()
    mine = not hasattr(os, "getuid") or (found.st_uid in (os.getuid(), 0) and not found.st_mode & _OTHERS_WRITE)
    return stat.S_ISREG(found.st_mode) and mine


def _name(key: str, path: Path) -> str:
    with path.open("rb") as file:
        return f"{key}-{hashlib.file_digest(file, 'sha256').hexdigest()}.pt2"
