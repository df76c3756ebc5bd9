"""Averages of values that come round again."""

import numpy as np
import pytest
from ase import Atoms

from ase_uq import InputError, OnlineReweighter, reweight, reweight_log
from ase_uq.observables import Observable, parse_observables
from tests.made.logged_runs import oscillator, record

RNG = np.random.default_rng(3)
N = 600


def averaged(values, members, **options):
    online = OnlineReweighter(Atoms("H"), temperature_K=300.0, observables={"x": Observable(len, "°", **options)})
    for value, energies in zip(values, members, strict=True):
        online.update(0.0, energies, {"x": value})
    return online.results()["x"]


@pytest.mark.parametrize("centre", [0.0, 3.0, 90.0, 180.0, 357.0])
@pytest.mark.parametrize("low", [0.0, -180.0])
def test_the_average_does_not_know_where_zero_is(centre, low):
    deviations, members = RNG.normal(scale=20.0, size=N), 0.01 * RNG.normal(size=(N, 4))
    line = reweight(deviations, energy_members=members, energy_reference=np.zeros(N), temperature_K=300.0)
    found = averaged(np.mod(centre + deviations - low, 360.0) + low, members, period=360.0)
    difference = np.mod(found.mean - centre - line.mean + 180.0, 360.0) - 180.0
    assert abs(difference) < 1e-9
    assert low <= found.mean < low + 360.0
    assert found.std_sampling == pytest.approx(line.std_sampling, rel=1e-6)
    assert found.std_model == pytest.approx(line.std_model, rel=1e-6)
    assert not any("circle" in each for each in found.warnings)
    # The average on a circle by sines and cosines, whose bias is far below.
    angles = np.radians(centre + deviations)
    circular = np.degrees(np.arctan2(np.sin(angles).mean(), np.cos(angles).mean()))
    assert abs(np.mod(found.mean - circular + 180.0, 360.0) - 180.0) < 1.0


def test_values_that_go_round_have_no_average():
    members = 0.01 * RNG.normal(size=(N, 4))
    found = averaged(RNG.uniform(0.0, 360.0, size=N), members, period=360.0)
    assert any("lie on the far side of their circle" in each for each in found.warnings)


def test_values_that_look_like_angles_and_do_not_say_so():
    members = 0.01 * RNG.normal(size=(N, 4))
    values = np.mod(RNG.normal(scale=20.0, size=N), 360.0)
    assert any("period=360" in each for each in averaged(values, members).warnings)
    # A line in the same unit, and a large but honest range.
    for line in (RNG.normal(100.0, 20.0, size=N), np.linspace(0.0, 360.0, N)):
        assert not any("period" in each for each in averaged(line, members).warnings)


def test_a_torsion_of_the_command_line_and_of_a_log(tmp_path):
    atoms, dyn = oscillator()
    n = [0]

    def torsion(_):
        n[0] += 1
        return (355.0 + 20.0 * np.sin(0.37 * n[0])) % 360.0

    functions = {"phi": Observable(torsion, "°", period=360.0), "psi": (lambda a: torsion(a), "°")}
    record(tmp_path / "run.h5", atoms, dyn, 200, observables=functions)
    found = reweight_log(tmp_path / "run.h5")
    assert found["phi"].mean == pytest.approx(355.0, abs=1.0)
    assert any("period=360" in each for each in found["psi"].warnings)
    assert not any("period" in each for each in found["phi"].warnings)
    chain = Atoms("H4", positions=[[0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]])
    assert parse_observables(["dihedral:0,1,2,3"], chain)["dihedral:0,1,2,3"].period == 360.0
    with pytest.raises(InputError, match="`period` must be a positive number, got -1"):
        Observable(len, period=-1)
