"""`Lock`: a file that says which process is at work, so that a second one is refused.

The file holds process number, start of the process, host name and boot of the machine. A lock of a process that is
gone, by whatever death, is taken over; of one on another machine nothing is known, and it is respected. No file system
has to know locks of its own for that, only links or exclusive creation.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from ase_uq.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_TRIES = 20


@dataclass(frozen=True, slots=True)
class Owner:
    """A process: its number, when it started, on which machine, since which boot, and a word that is its lock's own."""

    pid: int
    started: str
    host: str
    boot: str
    since: str
    token: str

    @classmethod
    def this(cls) -> Owner:
        """Return the process that asks, with a new token."""
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(os.getpid(), _started(os.getpid()) or "", socket.gethostname(), _boot(), now, uuid.uuid4().hex)

    @property
    def alive(self) -> bool | None:
        """Whether the process is still there; `None` where that cannot be known."""
        if self.host != socket.gethostname():
            return None
        machine, _, space = self.boot.partition(" ")
        here, _, own_space = _boot().partition(" ")
        if machine != here:
            return False  # the machine has been started anew
        if space != own_space:
            return None  # a container beside this one
        started = _started(self.pid)
        return started is not None and (not self.started or started == self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class Lock:
    """One owner at a time; use it with `with`.

    Parameters
    ----------
    path
        The file of the lock; its folder exists.
    what
        What is locked, for messages: "the training of model.pt".

    Raises
    ------
    InputError
        When it is entered: another process, or another part of this one, is at work.
    """

    def __init__(self, path: str | Path, what: str) -> None:
        self.path, self.what = Path(path), what
        self._owner: Owner | None = None

    def __enter__(self) -> Lock:
        own = Owner.this()
        for _ in range(_TRIES):
            if _created(self.path, own):
                self._owner = own
                return self
            check_free(self.path, self.what)
            self._take_away()
        raise InputError(f"{self.what} could not be locked with `{self.path}`; others are starting it too: try again.")

    @property
    def of_this_process(self) -> bool:
        """Whether it is not one that a forked process has of its parent."""
        return self._owner is None or self._owner.pid == os.getpid()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.of_this_process:
            return
        with contextlib.suppress(InputError, OSError):  # its folder may be gone, and there is an error that says why
            if self._owner is not None and owner_of(self.path) == self._owner:
                self.path.unlink(missing_ok=True)
        self._owner = None

    def _take_away(self) -> None:
        """Remove the lock of a process that is gone, unless another one has replaced it by now."""
        with _alone(self.path.parent):
            owner = owner_of(self.path)
            if owner is not None and owner.alive is False:
                self.path.unlink(missing_ok=True)


def owner_of(path: str | Path) -> Owner | None:
    """Return who holds a lock; `None` where there is none.

    Raises
    ------
    InputError
        For a file that is no lock.
    """
    try:
        if os.path.lexists(path) and not Path(path).is_file():
            raise ValueError(path)  # a pipe would be waited for
        return Owner(**json.loads(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as e:
        raise InputError(f"the lock `{path}` could not be read; delete it if no process is at work there.") from e


def check_free(path: str | Path, what: str) -> None:
    """Refuse what a living process, or one of another machine, is at work on.

    Raises
    ------
    InputError
        With that process.
    """
    owner = owner_of(path)
    if owner is None or owner.alive is False:
        return
    known = "wait for it, or stop it" if owner.alive else f"if it is no longer there, delete `{path}`"
    raise InputError(f"{what} is under way in {owner}; {known}.")


def _created(path: Path, owner: Owner) -> bool:
    """Create the file with its content in one step; return whether it was not there."""
    aside = path.with_name(f".{owner.token}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            json.dump(asdict(owner), file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            return _created_exclusively(path, aside.read_text(encoding="utf-8"))
        return True
    finally:
        aside.unlink(missing_ok=True)


def _created_exclusively(path: Path, content: str) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others from taking over a lock of this folder meanwhile, where the file system can."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _started(pid: int) -> str | None:
    """Return when a process started, in whatever units; `None` if it is gone, be it that its parent has not noticed."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _boot() -> str:
    """Return what tells a boot of the machine, and its spaces of process numbers, from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
