"""The relaxation time of a thermostat, from ASE's dynamics and from a log."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.andersen import Andersen
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet

from ase_uq.reweighting.thermostat import relaxation_frames, thermostat_time_fs


def argon():
    atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]])
    atoms.set_momenta(np.ones((2, 3)))
    return atoms


@pytest.mark.parametrize(
    ("dynamics", "settings"),
    [
        (Langevin, {"friction": 0.01 / units.fs, "fixcm": False}),
        (Langevin, {"friction": np.array([0.05, 0.01]) / units.fs, "fixcm": False}),
        (Bussi, {"taut": 100.0 * units.fs}),
        (NoseHooverChainNVT, {"tdamp": 100.0 * units.fs}),
        (Andersen, {"andersen_prob": 0.02, "fixcm": False}),
    ],
)
def test_the_time_of_a_thermostat(dynamics, settings):
    dyn = dynamics(argon(), 2.0 * units.fs, temperature_K=80.0, **settings)
    assert thermostat_time_fs(dyn) == pytest.approx(100.0)


@pytest.mark.parametrize("dyn", [None, VelocityVerlet(argon(), units.fs)])
def test_without_a_thermostat_there_is_none(dyn):
    assert thermostat_time_fs(dyn) == 0.0


def test_frames_of_a_log():
    time = 5.0 * np.arange(101)
    assert relaxation_frames({"thermostat_time_fs": 100.0}, time) == pytest.approx(20.0)
    assert relaxation_frames({}, time) == 0.0
    assert relaxation_frames({"thermostat_time_fs": 100.0}, time[:1]) == 0.0
