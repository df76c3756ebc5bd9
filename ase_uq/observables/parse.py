"""The short texts by which the command line names observables.

================================  =======  ===================================================================
text                              unit     value
================================  =======  ===================================================================
distance:0,1                      Å        length of 0-1
angle:1,0,2                       °        angle at 0
dihedral:0,1,2,3                  °        torsion about 1-2, 0 to 360, averaged on its circle
umbrella:0,1,2,3                  °        mean angle between the bonds 0-1, 0-2, 0-3 and the normal of the
                                           plane 1-2-3, 0 to 180; 90 is planar, inversion reflects it at 90
coordination:O-H,1.25             1        mean number of H closer than 1.25 Å to an O
density                           g/cm^3   mass density
volume                            Å^3      volume of the cell
pressure                          eV/Å^3   pressure, with its kinetic part
pressure_GPa                      GPa      the same in GPa
potential_energy                  eV       potential energy
rdf:O-O                           1        g(r), 100 values; r_max from the start structure
rdf:O-O,6.0 or rdf:O-O,6.0,100    1        the same with r_max (Å) and the number of bins
angles:H-O-H,1.3                  1/°      density of the angles between arms shorter than 1.3 Å, 90 values
angles:H-O-H,1.3,90               1/°      the same with the number of bins
histogram:TEXT,0.8,1.4,40                  indicator of 40 bins from 0.8 to 1.4 of a number, as in
                                           histogram:distance:0,1,0.8,1.4,40
================================  =======  ===================================================================

A name may be put in front: `r_NH=distance:0,1`. Elements may be `*`, any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from ase_uq.errors import InputError
from ase_uq.observables.angles import AngleDistribution
from ase_uq.observables.coordination import CoordinationNumber
from ase_uq.observables.geometric import angle, dihedral, distance, umbrella
from ase_uq.observables.histogram import Histogram
from ase_uq.observables.observable import Observable
from ase_uq.observables.radial import RadialDistribution, default_r_max
from ase_uq.observables.scalar import density, potential_energy, pressure, pressure_gpa, volume

_GEOMETRIC: dict[str, tuple[Callable[..., float], int, str]] = {
    "distance": (distance, 2, "Å"),
    "angle": (angle, 3, "°"),
    "dihedral": (dihedral, 4, "°"),
    "umbrella": (umbrella, 4, "°"),
}
_PERIODS = {"dihedral": 360.0}
_SCALAR: dict[str, Observable] = {
    "density": density,
    "volume": volume,
    "pressure": pressure,
    "pressure_GPa": pressure_gpa,
    "potential_energy": potential_energy,
}


class _Form(NamedTuple):
    """What follows the colon: elements joined by "-", then a length and perhaps a number of bins."""

    n_elements: int
    n_numbers: range
    takes: str
    example: str


_OF_ELEMENTS = {
    "coordination": _Form(2, range(1, 2), "two elements and a cut-off", "coordination:O-H,1.25"),
    "rdf": _Form(2, range(3), "two elements and, if wanted, r_max and a number of bins", "rdf:O-O,6.0,100"),
    "angles": _Form(
        3, range(1, 3), "three elements, a cut-off and, if wanted, a number of bins", "angles:H-O-H,1.3,90"
    ),
}
KINDS = (*_GEOMETRIC, *_SCALAR, *_OF_ELEMENTS, "histogram")


def parse_observables(texts: Sequence[str], atoms: Atoms) -> dict[str, Observable]:
    """Turn texts such as "distance:0,1" into name -> observable.

    Parameters
    ----------
    texts
        See the table above.
    atoms
        The start structure. Whatever needs only a structure is tried on it, so that a run does not stop at its first
        frame.

    Raises
    ------
    InputError
        For an unknown kind, wrong numbers, an element or index the structure does not have, a cell too small for a
        cut-off, or a name given twice.

    Examples
    --------
    >>> from ase.build import molecule
    >>> water = molecule("H2O")
    >>> found = parse_observables(["r=distance:0,1", "coordination:O-H,1.25"], water)
    >>> [(name, float(round(each(water), 3)), each.unit) for name, each in found.items()]
    [('r', 0.969, 'Å'), ('coordination:O-H,1.25', 2.0, '1')]
    """
    parsed: dict[str, Observable] = {}
    for text in texts:
        name, _, definition = text.rpartition("=")
        name = name or definition.replace("/", "_")
        if name in parsed:
            raise InputError(f"`observable` names must differ, got {name!r} twice; write NAME=KIND:ATOMS.")
        parsed[name] = _parse(definition, atoms)
    return parsed


def _parse(definition: str, atoms: Atoms) -> Observable:
    kind, _, rest = definition.partition(":")
    if kind in _GEOMETRIC:
        return _geometric(kind, rest, len(atoms))
    if kind in _OF_ELEMENTS:
        return _of_elements(kind, rest, atoms)
    if kind == "histogram":
        return _histogram(rest, atoms)
    if kind not in _SCALAR:
        raise InputError(
            f"`observable` must be one of {', '.join(KINDS)}, got {kind!r}; write for example distance:0,1."
        )
    if definition != kind:
        raise InputError(f"`observable` {kind} takes nothing after its name, got {rest!r}; write {kind}.")
    if kind in ("density", "volume"):
        _SCALAR[kind](atoms)
    return _SCALAR[kind]


def _geometric(kind: str, numbers: str, n_atoms: int) -> Observable:
    function, n_indices, unit = _GEOMETRIC[kind]
    try:
        indices = [int(number) for number in numbers.split(",")]
    except ValueError:
        indices = []
    if len(indices) != n_indices or len(set(indices)) != n_indices or not all(0 <= i < n_atoms for i in indices):
        raise InputError(
            f"`observable` {kind} takes {n_indices} different atom indices from 0 to {n_atoms - 1}, got {numbers!r}; "
            f"write for example {kind}:{','.join(map(str, range(n_indices)))}."
        )
    return Observable(lambda atoms: function(atoms, *indices), unit, period=_PERIODS.get(kind))


def _of_elements(kind: str, text: str, atoms: Atoms) -> Observable:
    form = _OF_ELEMENTS[kind]
    joined, *numbers = text.split(",")
    elements = joined.split("-")
    try:
        values = [convert(number) for convert, number in zip((float, int), numbers, strict=False)]
    except ValueError:
        values = []
    if len(elements) != form.n_elements or len(numbers) not in form.n_numbers or len(values) != len(numbers):
        raise InputError(f"`observable` {kind} takes {form.takes}, got {text!r}; write for example {form.example}.")
    bins: dict[str, Any] = {"n_bins": values[1]} if len(values) > 1 else {}
    observable: Observable
    if kind == "coordination":
        observable = CoordinationNumber(elements[0], elements[1], values[0])
    elif kind == "rdf":
        r_max = values[0] if values else default_r_max(atoms)
        observable = RadialDistribution(elements[0], elements[1], r_max=r_max, **bins)
    else:
        observable = AngleDistribution(elements[0], elements[1], elements[2], cutoff=values[0], **bins)
    observable(atoms)
    return observable


def _histogram(text: str, atoms: Atoms) -> Observable:
    definition, *numbers = text.rsplit(",", 3)
    try:
        low, high, n_bins = float(numbers[0]), float(numbers[1]), int(numbers[2])
    except (ValueError, IndexError):
        low, high, n_bins = 0.0, 0.0, 0
    kind = definition.partition(":")[0]
    if kind not in (*_GEOMETRIC, *_SCALAR, "coordination") or not (low < high and n_bins > 0):
        raise InputError(
            "`observable` histogram takes the text of one number, then low < high and a number of bins, got "
            f"{text!r}; write for example histogram:distance:0,1,0.8,1.4,40."
        )
    number = _parse(definition, atoms)
    return Histogram(number, np.linspace(low, high, n_bins + 1), axis_name=definition, axis_unit=number.unit)
