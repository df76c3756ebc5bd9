"""`Observing`: values of observables along a run, where one that fails costs its value and not the run.

==============================================  ==============================================================
what a function does                            what comes of it
==============================================  ==============================================================
raises, or returns nothing or no number         NaN for this frame, counted in `missing`, and said
the same at the first frame, by a mistake of    refused by name: nothing has been run yet
its definition
returns another shape than before               refused by name
changes the atoms or what they carry            refused by name; the atoms are put back
==============================================  ==============================================================
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.observables.observable import Observable

logger = logging.getLogger(__name__)

# At the first frame these are mistakes of whoever wrote the function; later they may be those of a rare frame.
_MISTAKES = (InputError, NameError, AttributeError, TypeError, ImportError)
_SAID_AGAIN = 10  # times as many failures as when it was said last


class Observing:
    """Observables of one run.

    Parameters
    ----------
    observables
        By name.

    Attributes
    ----------
    missing
        Name to the number of frames without a value so far.
    shapes
        Name to the shape of the values, of those that have had any.
    """

    def __init__(self, observables: Mapping[str, Observable]) -> None:
        self.observables = dict(observables)
        self.missing = dict.fromkeys(observables, 0)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._n_frames = 0

    def values(self, atoms: Atoms, where: str = "") -> dict[str, Array]:
        """Return the value of every observable; NaN of its shape for one that has none for these atoms.

        Parameters
        ----------
        atoms
            The frame.
        where
            What the frame is called in messages, as "step 40".

        Raises
        ------
        InputError
            See the table of the module.
        """
        where = where or f"frame {self._n_frames}"
        found = {name: self._value(name, atoms, where) for name in self.observables}
        self._n_frames += 1
        return found

    def _value(self, name: str, atoms: Atoms, where: str) -> Array:
        observable, before = self.observables[name], _Before(atoms)
        failed: str | None = None
        try:
            value = observable(atoms)
        except Exception as e:
            if self._n_frames == 0 and isinstance(e, _MISTAKES):
                raise InputError(
                    f"`observables[{name!r}]` must have a value at the first frame, it failed with "
                    f"{type(e).__name__}: {e}; check its function."
                ) from e
            value, failed = None, f"{type(e).__name__}: {e}"
        before.check(atoms, name)
        array = _numbers(value)
        if array is None and failed is None:
            failed = f"it returned {_shown(value)}"
            if self._n_frames == 0 and value is not None:
                raise InputError(
                    f"`observables[{name!r}]` must return a number or an array of numbers, got {_shown(value)}; check "
                    "its function."
                )
        if array is None:
            array = np.full(self._shape(name, atoms), np.nan)
        elif (known := self.shapes.setdefault(name, array.shape)) != array.shape:
            raise InputError(
                f"`observables[{name!r}]` must keep its shape {known} along the run, got {array.shape} at {where}; "
                "return an array of always the same shape, with nan where there is nothing."
            )
        if not np.isfinite(array).all():
            self._say(name, where, failed or f"it returned {array[~np.isfinite(array)].flat[0]}")
        return array

    def _shape(self, name: str, atoms: Atoms) -> tuple[int, ...]:
        """Shape of a value that is not there, as well as it is known."""
        if name in self.shapes:
            return self.shapes[name]
        observable = self.observables[name]
        if observable.axis is not None:
            return (len(observable.axis.centres),)
        if observable.of_members:
            return (int(getattr(getattr(atoms.calc, "prediction", None), "n_members", None) or 0),)
        return ()

    def _say(self, name: str, where: str, why: str) -> None:
        self.missing[name] += 1
        n = self.missing[name]
        if n == _SAID_AGAIN ** (len(str(n)) - 1):
            logger.warning(
                "observable %r has no value at %s, the %s so far: %s; averages leave such frames out",
                name,
                where,
                "first" if n == 1 else f"{n}th",
                why,
            )


class _Before:
    """The atoms as they were, to tell what has changed them."""

    def __init__(self, atoms: Atoms) -> None:
        self.arrays = {name: values.copy() for name, values in atoms.arrays.items()}
        self.cell, self.pbc, self.calc = atoms.cell.array.copy(), atoms.pbc.copy(), atoms.calc
        self.results = None if self.calc is None else self.calc.results

    def check(self, atoms: Atoms, name: str) -> None:
        changed = self._changed(atoms)
        if not changed:
            return
        atoms.arrays = self.arrays
        atoms.cell.array[:], atoms.pbc, atoms.calc = self.cell, self.pbc, self.calc
        raise InputError(
            f"`observables[{name!r}]` must leave the atoms as they are, it changed {', '.join(changed)}; let it work "
            "on atoms.copy(), with a calculator of its own if it needs one."
        )

    def _changed(self, atoms: Atoms) -> list[str]:
        names = [*self.arrays, *(name for name in atoms.arrays if name not in self.arrays)]
        found = [name for name in names if not _alike(self.arrays.get(name), atoms.arrays.get(name))]
        found += ["cell"] * (not _alike(self.cell, atoms.cell.array)) + ["pbc"] * (not _alike(self.pbc, atoms.pbc))
        if atoms.calc is not self.calc:
            return [*found, "calc"]
        # Another structure was evaluated with the calculator of the run.
        moved = self.calc is not None and self.results and not found and _was_used(self.calc, atoms)
        return [*found, "results of calc"] if moved else found


def _was_used(calculator: Any, atoms: Atoms) -> bool:
    return bool(getattr(calculator, "atoms", None) is not None and calculator.check_state(atoms))


def _alike(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return False
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(one.tobytes() == other.tobytes() if not one.dtype.hasobject else (one == other).all())


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.60}"
    except ValueError:  # an integer with thousands of digits
        return f"an object of {type(value).__name__}"


def _numbers(value: Any) -> Array | None:
    try:
        plain = value is not None and not np.iscomplexobj(value) and np.asarray(value).dtype.kind not in "MmV"
        found = np.array(value, dtype=np.float64) if plain else None
        if isinstance(value, np.ma.MaskedArray) and found is not None:
            found[np.ma.getmaskarray(value)] = np.nan  # what lies below a mask is no value
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return found if found is not None and found.size else None
