"""`StateFolder`: what is kept of a training until its model is written.

It holds the states of the parts (`*.pt`), what makes the training this one (`training.json`, see `identity`) and the
lock of the process that works on it. Whatever ends a training, what was trained stays there, and the message says so.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ase_uq.errors import InputError, Interrupted, RunError
from ase_uq.files import replacing
from ase_uq.locks import Lock, check_free
from ase_uq.training.identity import check_identity
from ase_uq.training.state_file import IDENTITY

_LOCK = "lock"


class StateFolder:
    """A folder of states.

    Parameters
    ----------
    path
        The folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._what = f"the training with its states in `{self.path}`"

    @property
    def is_begun(self) -> bool:
        """Whether there is anything to go on with."""
        return self.path.is_dir() and {each.name for each in self.path.iterdir()} != {_LOCK}

    @property
    def has_states(self) -> bool:
        """Whether the state of a part has been written."""
        return self.path.is_dir() and any(self.path.glob("[!.]*.pt"))

    def check(self, *, resume: bool) -> None:
        """Refuse to begin where another training is under way, or was interrupted and is not to be gone on with.

        Raises
        ------
        InputError
            In these cases, and where the folder is none.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"`{self.path}` must be a folder, for states of the training, and is a file; move it.")
        check_free(self.path / _LOCK, self._what)
        if self.is_begun and not resume:
            raise InputError(
                f"an earlier training was interrupted, its states are in {self.path}; go on with "
                "resume=True, or delete that folder to start again."
            )

    @contextmanager
    def held(self, identity: Callable[[], Mapping[str, Any]], *, resume: bool) -> Iterator[None]:
        """Keep others away, compare with what was interrupted, and tell whoever is interrupted what is kept.

        Parameters
        ----------
        identity
            Returns what must be the same on resuming, see `ase_uq.training.identity`.
        resume
            Go on with the states in the folder.

        Raises
        ------
        InputError
            As `check`, and for states of another training.
        RunError
            If a file cannot be written.
        Interrupted
            When asked to end.
        """
        self.check(resume=resume)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with Lock(self.path / _LOCK, self._what), _ended_by_signals():
                self._begin(identity(), resume=resume)
                yield
        except BrokenPipeError:
            raise  # whoever reads the output has seen enough
        except OSError as e:
            raise RunError(f"{e.strerror or e} ({e.filename or self.path}); {self._kept()}") from e
        except KeyboardInterrupt as e:
            raise Interrupted(f"interrupted; {self._kept()}") from e
        finally:
            self._tidy()

    def _begin(self, identity: Mapping[str, Any], *, resume: bool) -> None:
        """Compare with the training in the folder, or note down the one that begins."""
        path = self.path / IDENTITY
        if resume and path.exists():
            check_identity(_read(path), identity, self.path)
        elif self.has_states:
            raise InputError(
                f"the states in {self.path} do not say what they are of, an earlier version wrote them; delete that "
                "folder, and train without resume=True."
            )
        else:
            with replacing(path) as aside:
                aside.write_text(json.dumps(identity, indent=1), encoding="utf-8")

    def clear(self) -> None:
        """Remove the states: what they were kept for is done."""
        if not self.path.is_dir():
            return
        for each in self.path.iterdir():
            if each.name not in (_LOCK, IDENTITY):
                shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
        (self.path / IDENTITY).unlink(missing_ok=True)
        self._remove_empty()

    def _kept(self) -> str:
        if self.has_states:
            return f"what was trained is kept in {self.path}: go on with resume=True."
        return "no epoch was finished, and nothing is kept: start again."

    def _tidy(self) -> None:
        """Leave no folder behind in which there is nothing to go on with."""
        if self.path.is_dir() and not self.has_states and not (self.path / _LOCK).exists():
            (self.path / IDENTITY).unlink(missing_ok=True)
        self._remove_empty()

    def _remove_empty(self) -> None:
        try:
            self.path.rmdir()
        except OSError:
            return  # not empty, or not there


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if {"version", "method", "architecture", "start", "options", "frames"} - set(found):
            raise ValueError("entries are missing")
    except (OSError, TypeError, ValueError) as e:
        raise InputError(f"`{path}` could not be read; delete {path.parent}, and train without resume=True.") from e
    return dict(found)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Treat a request to end (a queue at its time limit, a terminal that closes) as Ctrl-C, where nobody else does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise KeyboardInterrupt(signal.Signals(number).name)
