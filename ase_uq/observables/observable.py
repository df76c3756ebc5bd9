"""`Observable`: what can be averaged over a run, and the one place that makes it of what users pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ase import Atoms

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.reweighting.axis import Axis


class Observable:
    """A function of a structure, with what a reader needs to know of its values.

    The logger, the observer of running averages, averages from logs, the report and the command line all take it. A
    kind of its own is a dataclass derived from this one, with `__call__` and what is known of its values.

    Parameters
    ----------
    function
        Gives one number for `ase.Atoms`, or an array of always the same shape.
    unit
        Of the values; "1" for a pure number, "" where it is not known.
    axis
        What the entries (n_bins,) of a vector stand for.
    is_histogram
        Whether the values are 1 for the bin that a number falls into, and 0 for the others.
    of_members
        Whether it is a function of a structure *and* a member of the model: the first axis of its values, (M,) or
        (M, ...), is then that of the members.
    period
        Of values on a circle, such as 360 for a torsion in degrees: their average is that on the circle.

    Raises
    ------
    InputError
        If `function` cannot be called, `unit` is no text, `axis` no `Axis` or `period` not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from ase.build import molecule
    >>> heights = Observable(lambda atoms: atoms.positions[:, 2], "Å", axis=Axis(np.arange(3.0), "atom"))
    >>> heights(molecule("H2O")).shape, heights.unit, heights.axis.name
    ((3,), 'Å', 'atom')
    """

    unit: str = ""
    axis: Axis | None = None
    is_histogram: bool = False
    of_members: bool = False
    period: float | None = None

    def __init__(
        self,
        function: Callable[[Atoms], Any],
        unit: str = "",
        *,
        axis: Axis | None = None,
        is_histogram: bool = False,
        of_members: bool = False,
        period: float | None = None,
    ) -> None:
        if not callable(function):
            raise InputError(f"`function` must be a function of the atoms, got {function!r}; pass a lambda.")
        if not isinstance(unit, str):
            raise InputError(f"`unit` must be a text, got {unit!r}; write for example 'Å', or '1' for a pure number.")
        if not (axis is None or isinstance(axis, Axis)):
            raise InputError(f"`axis` must be an `Axis`, got {axis!r}; pass Axis(centres, name, unit).")
        if period is not None and not 0.0 < period < float("inf"):
            raise InputError(f"`period` must be a positive number, got {period!r}; a torsion in degrees has 360.")
        self.function = function
        self.unit, self.axis = unit, axis
        self.is_histogram, self.of_members = is_histogram, of_members
        self.period = None if period is None else float(period)

    def __call__(self, atoms: Atoms) -> Any:
        """Return the value for a structure: a number or an array."""
        return self.function(atoms)

    @property
    def centres(self) -> Array:
        """Middles of the bins, (n_bins,).

        Raises
        ------
        InputError
            Without an axis.
        """
        if self.axis is None:
            raise InputError("`centres` needs an observable with an axis, this one has none; pass `axis`.")
        return self.axis.centres


ObservableLike = Observable | Callable[[Atoms], Any] | tuple[Callable[[Atoms], Any], str]
"""What users pass: an observable, a function of the atoms, or a pair of either and a unit."""


def named_observables(given: Mapping[str, ObservableLike], argument: str = "observables") -> dict[str, Observable]:
    """Make observables of what users pass, by name.

    Raises
    ------
    InputError
        For anything else, naming it as an entry of `argument`.
    """
    return {name: _observable(value, f"{argument}[{name!r}]") for name, value in given.items()}


def _observable(value: Any, argument: str) -> Observable:
    if isinstance(value, Observable):
        return value
    function, unit = value if isinstance(value, tuple) and len(value) == 2 else (value, "")
    if not callable(function) or not isinstance(unit, str):
        raise InputError(
            f"`{argument}` must be a function of the atoms, (function, unit) or an `Observable`, got {value!r}; write "
            "for example (lambda atoms: atoms.get_distance(0, 1), 'Å')."
        )
    if isinstance(function, Observable):
        return Observable(
            function,
            unit,
            axis=function.axis,
            is_histogram=function.is_histogram,
            of_members=function.of_members,
            period=function.period,
        )
    return Observable(function, unit)
