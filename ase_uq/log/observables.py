"""Observables as they are logged: a function of the atoms, its unit, and what a reader needs to know of an array."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from ase_uq.errors import InputError
from ase_uq.log.writer import UNITS

ObservableLike = Callable[[Atoms], Any] | tuple[Callable[[Atoms], Any], str]


class Observable(NamedTuple):
    """A function of the atoms, one number or an array of always the same shape, and its unit."""

    function: Callable[[Atoms], Any]
    unit: str

    @property
    def attributes(self) -> dict[str, Any]:
        """What a reader needs to know of an array: its axis, and whether it has one value for each member."""
        function, centres = self.function, getattr(self.function, "centres", None)
        attributes: dict[str, Any] = {"members": True} if getattr(function, "members", False) else {}
        if centres is not None:
            attributes["axis"] = np.asarray(centres, dtype=np.float64)
            attributes["axis_name"] = getattr(function, "axis_name", "")
            attributes["axis_unit"] = getattr(function, "axis_unit", "")
        if getattr(function, "is_histogram", False):
            attributes["is_histogram"] = True
        return attributes


def named_observables(given: Mapping[str, ObservableLike]) -> dict[str, Observable]:
    """Bring observables given as functions, or pairs with a unit, into one form; refuse names that are taken."""
    observables = {}
    for name, value in given.items():
        observable = Observable(*value) if isinstance(value, tuple) and len(value) == 2 else Observable(value, "")
        if not name or "/" in name or name == "." or name in UNITS:
            raise InputError(
                f"`observables` must not use the name {name!r}, which is taken or no name of a dataset; choose another."
            )
        if not callable(observable.function) or not isinstance(observable.unit, str):
            raise InputError(
                f"`observables[{name!r}]` must be a function of the atoms or (function, unit), got {value!r}."
            )
        observables[name] = observable
    return observables
