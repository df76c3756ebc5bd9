"""`OwnedLog`: the path of a log that one writer has for itself, and what happens when it is taken from under it.

A lock beside the log, `NAME.lock`, says who writes it. It keeps other writers of this package away and cannot keep
anybody from deleting or moving the file. That is noticed when frames are written: the file that is still open is then
copied, with every frame, to the name that has become free, or to another where a different file is there by now.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType

from ase_uq.errors import InputError, RunError
from ase_uq.files import replacing
from ase_uq.locks import Lock, check_free
from ase_uq.log.companions import beside

_CHUNK = 1 << 20


class LogTakenError(RunError):
    """The log was deleted, moved or replaced while it was written; `kept` is where its frames are now."""

    def __init__(self, message: str, kept: Path) -> None:
        super().__init__(message)
        self.kept = kept


class OwnedLog(os.PathLike[str]):
    """The path of a log, with its lock; use it with `with`, or `take` and `release`.

    `UncertaintyLogger` makes one of a path, and takes one that the caller holds already.

    Parameters
    ----------
    path
        Of the log; it need not exist.

    Raises
    ------
    InputError
        When taken: another process, or another writer in this one, has it, or its folder cannot be written to.

    Attributes
    ----------
    path, place
        As given, for messages, and from the root: a calculator or an observable may change the working folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self.path = Path(os.fsdecode(path))
            self.place = self.path.absolute()
            other = self.path.exists() and not (self.path.is_file() or self.path.is_dir())
            self._lock = Lock(beside(self.path, ".lock"), f"the run that writes `{self.path}`")
        except (OSError, TypeError, ValueError) as error:
            # In the words of the system: too long, a null character.
            raise InputError(f"`path` must be the name of a file, {path!r} is not: {error}; choose another.") from error
        if other:
            raise InputError(f"`path` must be an ordinary file, {self.path} is a device or a pipe; choose another.")
        self._taken = False

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def taken(self) -> bool:
        """Whether this object has the log."""
        return self._taken

    @property
    def of_this_process(self) -> bool:
        """Whether this process took the log, and was not forked from the one that did."""
        return self._lock.of_this_process

    def check_process(self) -> None:
        """Refuse to write in a forked process."""
        if not self.of_this_process:
            raise InputError(
                f"`log` must be written by the process that began it, {self.path} was begun before this one was forked"
                " from it; make the logger where the dynamics runs."
            )

    def check_free(self) -> None:
        """Refuse a log that somebody writes, without becoming its writer."""
        check_free(self._lock.path, self._lock.what)

    def take(self) -> None:
        """Become the writer of the log."""
        try:
            self._lock.__enter__()
        except OSError as error:
            raise InputError(
                f"`path` must be writable, {self.path.parent} is not: {error.strerror}; choose another folder."
            ) from error
        self._taken = True

    def release(self) -> None:
        """Let others write the log; more than once does nothing."""
        if self.of_this_process:
            self._lock.__exit__(None, None, None)
            self._taken = False

    def __enter__(self) -> OwnedLog:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def check_there(self, descriptor: int) -> None:
        """Refuse to go on when the path is no longer the file that is being written; its frames are kept.

        Parameters
        ----------
        descriptor
            Of the open file, with all frames flushed.

        Raises
        ------
        LogTakenError
            Naming the file that holds the frames now.
        """
        own = os.fstat(descriptor)
        try:
            found = os.stat(self.place)  # noqa: PTH116 - the same call as for the descriptor
        except (FileNotFoundError, NotADirectoryError):
            found = None
        except OSError:
            return  # a file system that does not answer; the file is open, and will be looked for again
        if found is not None and (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
            return
        kept = Path(os.path.realpath(self.place)) if found is None else free_name(self.place)
        kept = _kept(descriptor, own.st_size, kept, free_name(Path(tempfile.gettempdir()) / self.place.name))
        happened = "deleted or moved" if found is None else "replaced by another file"
        raise LogTakenError(
            f"{self.path} was {happened} while the run wrote it, so the run has stopped; all its frames are in {kept}; "
            "go on with that log by append=True.",
            kept,
        )


def free_name(path: Path) -> Path:
    """Return a name beside a log for what is kept of it."""
    real = Path(os.path.realpath(path))
    stem = real.with_suffix("") if real.suffix in (".h5", ".hdf5") else real
    for number in range(1, 1000):
        kept = beside(stem, f".recovered{'' if number == 1 else number}.h5")
        if not os.path.lexists(kept):
            return kept
    raise RunError(f"{path} was replaced while the run wrote it, and no name beside it is free; remove old copies.")


def _kept(descriptor: int, size: int, path: Path, instead: Path) -> Path:
    """Copy an open file to `path`, or where that cannot be, to `instead`; return which."""
    for place in (path, instead):
        try:
            _copy(descriptor, size, place)
        except (InputError, OSError) as error:
            reason = error
        else:
            return place
    raise RunError(
        f"{path} was deleted or replaced while the run wrote it, and its frames could not be kept beside it nor as "
        f"{instead}: {reason}; make room, and restart from an earlier copy."
    )


def _copy(descriptor: int, size: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside, aside.open("wb") as file:
        for start in range(0, size, _CHUNK):
            file.write(os.pread(descriptor, min(_CHUNK, size - start), start))


def signature_of(path: Path) -> tuple[int, ...]:
    """Return what changes when somebody writes to a file."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
