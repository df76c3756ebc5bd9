"""Observables of one frame: functions of `ase.Atoms` that give a number, or one number for each bin or member.

`observable` has the one type that everything takes, `Observable`, and makes it of the functions that users pass.
`geometric` are functions of atoms by number, `scalar` numbers of a whole frame; `radial`, `coordination` and `angles`
count neighbours with what `pairs` finds; `histogram` bins a number; `member_values` reads what each member has
predicted; `parse` turns the words of the command line into any of them.
"""

from ase_uq.observables.angles import AngleDistribution
from ase_uq.observables.coordination import CoordinationNumber
from ase_uq.observables.geometric import angle, dihedral, distance, umbrella
from ase_uq.observables.histogram import Histogram
from ase_uq.observables.member_values import MemberEnergies, MemberPressures
from ase_uq.observables.observable import Observable, ObservableLike, named_observables
from ase_uq.observables.parse import parse_observables
from ase_uq.observables.radial import RadialDistribution
from ase_uq.observables.scalar import density, potential_energy, pressure, pressure_gpa, volume
from ase_uq.reweighting.axis import Axis

__all__ = [
    "AngleDistribution",
    "Axis",
    "CoordinationNumber",
    "Histogram",
    "MemberEnergies",
    "MemberPressures",
    "Observable",
    "ObservableLike",
    "RadialDistribution",
    "angle",
    "density",
    "dihedral",
    "distance",
    "named_observables",
    "parse_observables",
    "potential_energy",
    "pressure",
    "pressure_gpa",
    "umbrella",
    "volume",
]
