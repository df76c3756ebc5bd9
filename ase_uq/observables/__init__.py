"""Observables of one frame: functions of `ase.Atoms` that give a number, or one number for each bin or member.

`geometric` and `scalar` give numbers; `radial`, `coordination` and `angles` count neighbours with what `pairs` finds;
`histogram` bins a number; `member_values` reads what each member has predicted; `texts` turns the words of the command
line into any of them.

Everything with bins has `unit` (of the values), `centres` (K,), `axis_name` and `axis_unit`; what gives one value for
each member has `members = True`, and an indicator of bins `is_histogram = True`.
"""

from ase_uq.observables.angles import AngleDistribution
from ase_uq.observables.binned import Binned
from ase_uq.observables.coordination import CoordinationNumber
from ase_uq.observables.geometric import angle, dihedral, distance, umbrella
from ase_uq.observables.histogram import Histogram
from ase_uq.observables.member_values import MemberEnergies, MemberPressures
from ase_uq.observables.parse import Observable, parse_observables
from ase_uq.observables.radial import RadialDistribution
from ase_uq.observables.scalar import density, potential_energy, pressure, pressure_gpa, volume

__all__ = [
    "AngleDistribution",
    "Binned",
    "CoordinationNumber",
    "Histogram",
    "MemberEnergies",
    "MemberPressures",
    "Observable",
    "RadialDistribution",
    "angle",
    "density",
    "dihedral",
    "distance",
    "parse_observables",
    "potential_energy",
    "pressure",
    "pressure_gpa",
    "umbrella",
    "volume",
]
