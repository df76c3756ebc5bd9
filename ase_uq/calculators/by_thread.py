"""What keeps threads apart that share a calculator: one at a time at work, and results for each of them.

An ASE calculator keeps one structure and its results. Two threads that move structures of their own would read each
other's. Here a thread finds those of the atoms that it asked for last; a thread that has asked for none finds the
latest of all. Threads that ask for one and the same `Atoms` object share its results.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from ase import Atoms

from ase_uq.uncertainty.prediction import Prediction


class OneAtATime:
    """A lock that the thread holding it may take again; a copy, a pickle and a fork have one of their own."""

    def __init__(self) -> None:
        self._lock, self._process = threading.RLock(), os.getpid()

    def __enter__(self) -> None:
        if self._process != os.getpid():
            # Whoever held it when the process was forked is not here to let it go.
            self._lock, self._process = threading.RLock(), os.getpid()
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


@dataclass
class Evaluated:
    """A structure and what was computed for it."""

    atoms: Atoms | None = None
    results: dict[str, Any] = field(default_factory=dict)
    prediction: Prediction | None = None


class _Desk:
    """Where the results for one `Atoms` object of a caller lie."""

    def __init__(self, atoms: Atoms | None, evaluated: Evaluated) -> None:
        self.of = None if atoms is None else weakref.ref(atoms)
        self.evaluated = evaluated

    def is_for(self, atoms: Atoms) -> bool:
        return self.of is not None and self.of() is atoms


class ByThread:
    """The results that each thread finds, see the module.

    Parameters
    ----------
    evaluated
        What every thread finds at first.
    """

    def __init__(self, evaluated: Evaluated | None = None) -> None:
        self.forget(evaluated)

    @property
    def present(self) -> Evaluated:
        """What this thread finds."""
        desk: _Desk = getattr(self._own, "desk", self._latest)
        return desk.evaluated

    def begin(self, atoms: Atoms) -> None:
        """Turn to an `Atoms` object of the caller; results are then those of whoever works on the same one."""
        desk: _Desk | None = getattr(self._own, "desk", None)
        if desk is None or not desk.is_for(atoms):
            # A desk lives as long as a thread sits at it.
            desk = next((each for each in list(self._desks) if each.is_for(atoms)), None) or _Desk(atoms, Evaluated())
        self._sit(desk)

    def leave(self) -> None:
        """Have no results in this thread; those of the others stay."""
        self._sit(_Desk(None, Evaluated()))

    def forget(self, evaluated: Evaluated | None = None) -> None:
        """Have no results in any thread, or the given ones in all of them."""
        self._own = threading.local()
        self._latest = _Desk(None, evaluated or Evaluated())
        self._desks: weakref.WeakSet[_Desk] = weakref.WeakSet()

    def __reduce__(self) -> tuple[Any, ...]:
        present = self.present
        return type(self), (Evaluated(present.atoms, dict(present.results), present.prediction),)

    def _sit(self, desk: _Desk) -> None:
        self._own.desk = self._latest = desk
        self._desks.add(desk)
