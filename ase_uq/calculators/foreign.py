"""What is known of an ASE calculator of another package while it is used here.

It does one thing at a time, whoever asks: results and scratch files of most calculators are one per object. And it may
look at more of the atoms than positions and cell (`atoms.info["charge"]`, tags, an array of its own), or at something
outside of them (its own `check_state`), so that results are only good as long as none of that has changed.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes

from ase_uq.calculators.by_thread import OneAtATime

# Compared by themselves, or different at every step of a dynamics.
_COMPARED = {"positions", "numbers", "initial_charges", "initial_magmoms"}
_NOT_SEEN = {"momenta"}
INFO = "info"


class Foreign:
    """What was last seen of one calculator.

    Attributes
    ----------
    turn
        Held by whoever evaluates it.
    seen
        The structure it has evaluated last.
    """

    def __init__(self) -> None:
        self.turn = OneAtATime()
        self.seen: Atoms | None = None
        self._remembers = False

    def evaluated(self, calculator: BaseCalculator, atoms: Atoms) -> None:
        """Note that it has evaluated a structure."""
        self.seen = keeping_info(atoms)
        # One that finds a change in what it has just evaluated does not remember it.
        self._remembers = _has_own_check(calculator) and not calculator.check_state(atoms)

    def own_changes(self, calculator: BaseCalculator, atoms: Atoms) -> list[str]:
        """Return what the calculator says has changed beside what is compared anyway."""
        if not self._remembers:
            return []
        with self.turn:
            return [str(name) for name in calculator.check_state(atoms) if name not in (*all_changes, INFO)]


# By object: it lasts as long as the calculator does.
_known: weakref.WeakKeyDictionary[BaseCalculator, Foreign] = weakref.WeakKeyDictionary()
_turn = OneAtATime()


def foreign(calculator: BaseCalculator) -> Foreign:
    """Return what is known of a calculator in this process."""
    with _turn:
        try:
            found = _known.get(calculator)
            if found is None:
                found = _known[calculator] = Foreign()
            return found
        except TypeError:  # it cannot be a key: nothing is remembered
            return Foreign()


def own_changes(calculator: BaseCalculator, atoms: Atoms) -> list[str]:
    """Return what a calculator says by its own `check_state`, beside what is compared anyway."""
    return foreign(calculator).own_changes(calculator, atoms)


def further_changes(old: Atoms, new: Atoms, *, leave_out: Collection[str] = ()) -> list[str]:
    """Return the names of what differs beside what every model depends on: "info", and arrays such as "tags"."""
    left_out = {*_COMPARED, *_NOT_SEEN, *leave_out}
    names = [*old.arrays, *(name for name in new.arrays if name not in old.arrays)]
    found = [name for name in names if name not in left_out and not _same(old.arrays.get(name), new.arrays.get(name))]
    infos = [{key: value for key, value in atoms.info.items() if key not in left_out} for atoms in (old, new)]
    return found if _same(*infos) else [*found, INFO]


def keeping_info(atoms: Atoms) -> Atoms:
    """Return a copy whose `info` stays what it is while that of the original changes, in place or not."""
    own: Atoms = atoms.copy()
    if own.info:
        own.info = copy.deepcopy(own.info)
    return own


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        a, b = np.asarray(one), np.asarray(other)
        alike = a.dtype == b.dtype and a.shape == b.shape and not a.dtype.hasobject
        return alike and a.tobytes() == b.tobytes()
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # an object that cannot be compared is never known to be the same
        return False


def _has_own_check(calculator: BaseCalculator) -> bool:
    own = getattr(type(calculator), "check_state", None)
    return own is not None and own not in (Calculator.check_state, BaseCalculator.check_state)
