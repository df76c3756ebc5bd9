"""Averages under the members of a model from one run: everything here takes arrays.

================  =====================================================================================
`trajectory`      `reweight`, for arrays; runs that go on, or lie in logs: `ase_uq.averages`
`frames`          what it is given, checked
`result`          `ReweightResult`, intervals, and arithmetic between results
`columns`         how an observable becomes columns
`frame_blocks`    sums over frames, in one pass
`estimators`      averages under every member from sums
`question`        what is asked of the sums: observables with members, functions of averages
`sampling`        sampling errors; `jackknife`
`error_bars`      all of it together
`gates`           when not to believe a result; `diagnosis` has their numbers, `pareto` one of them
================  =====================================================================================
"""

from ase_uq.reweighting.columns import METHODS, check_method
from ase_uq.reweighting.error_bars import MIN_FRAMES
from ase_uq.reweighting.frames import inverse_temperature
from ase_uq.reweighting.result import ReweightResult, combine, difference
from ase_uq.reweighting.trajectory import check_relaxation, reweight

__all__ = [
    "METHODS",
    "MIN_FRAMES",
    "ReweightResult",
    "check_method",
    "check_relaxation",
    "combine",
    "difference",
    "inverse_temperature",
    "reweight",
]
