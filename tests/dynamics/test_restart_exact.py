"""A restarted run is the uninterrupted one to the last bit, whatever its variances and its interval."""

import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.calculators.lj import LennardJones
from ase.md.langevin import Langevin

from ase_uq import CommitteeUncertainty, UQCalculator, WeightedBaseline, read_log, reweight_log
from ase_uq.averages.run_checks import run_gates
from ase_uq.calculators.bias import BiasedCalculator
from ase_uq.dynamics.driver import MDSettings, run_md
from ase_uq.errors import InputError
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.models.members import MemberUncertainty
from ase_uq.report.averages import averages
from tests.made.potentials import shallow

MODEL = MemberUncertainty(shallow(elements=("H", "O"), cutoff=3.0))
LJ = {"epsilon": 0.01, "sigma": 1.0}


def distance(atoms):
    return atoms.get_distance(0, 1)


def asking(atoms):
    """An observable that makes the calculator evaluate once more where variances are not due."""
    return float(atoms.calc.get_property("forces_var", atoms).sum())


def go(path, steps, make, *, restart=False, **settings):
    chosen = MDSettings(**{"temperature_K": 300.0, "timestep_fs": 0.2, "seed": 3, "steps": steps, **settings})
    observables = {"d": (distance, "Å")} | ({"asked": (asking, "")} if make is asked_for else {})
    run_md(molecule("H2O"), make(), chosen, log=path, observables=observables, restart=restart)
    return read_log(path)


def asked_for():
    return UQCalculator(MODEL, forces_var="stochastic", every=3)


def blended():
    return WeightedBaseline(asked_for(), LennardJones(**LJ), sigma_baseline=0.5, offsets={"H": 0.0, "O": 0.0})


MAKE = {
    "exact": lambda: UQCalculator(MODEL),
    "exact, every 3": lambda: UQCalculator(MODEL, every=3),
    "stochastic": lambda: UQCalculator(MODEL, forces_var="stochastic"),
    "stochastic, every 4": lambda: UQCalculator(MODEL, forces_var="stochastic", every=4),
    "low rank": lambda: UQCalculator(MODEL, forces_var="low_rank", every=2),
    "asked for between": asked_for,
    "baseline": blended,
    "bias": lambda: BiasedCalculator(asked_for(), LennardJones(**LJ)),
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize(("interval", "stops"), [(1, (10,)), (1, (7, 8)), (5, (11, 23)), (4, (3,))])
def test_parts_are_the_whole(tmp_path, kind, interval, stops):
    make = MAKE[kind]
    whole = go(tmp_path / "whole.h5", 30, make, interval=interval)
    for part, end in enumerate((*stops, 30)):
        parts = go(tmp_path / "parts.h5", end, make, interval=interval, restart=part > 0)
    np.testing.assert_array_equal(parts.step, np.arange(0, 31, interval))
    names = ("step", "energy", "energy_var", "force_std_max", "force_std_mean", "energy_members_minus_energy")
    for name in names:
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), err_msg=name)
    for name, values in whole.observables.items():
        np.testing.assert_array_equal(parts.observables[name], values, err_msg=name)


def test_a_restart_keeps_the_interval_of_its_log(tmp_path):
    go(tmp_path / "run.h5", 20, MAKE["exact"], interval=2)
    with pytest.raises(
        InputError, match="`interval` must be that of the log a restart continues.*every 2 steps, got 5"
    ):
        go(tmp_path / "run.h5", 40, MAKE["exact"], interval=5, restart=True)
    assert go(tmp_path / "run.h5", 25, MAKE["exact"], interval=2, restart=True).step[-1] == 24


def committee():
    return UQCalculator(CommitteeUncertainty([LennardJones(sigma=s, epsilon=0.01) for s in (0.9, 1.0, 1.1)]))


def append(path, atoms, *, steps, interval, **options):
    dyn = Langevin(atoms, 0.2 * units.fs, temperature_K=300.0, friction=0.01 / units.fs, fixcm=False)
    options = {"dyn": dyn, "temperature_K": 300.0, "observables": {"d": distance}, **options}
    with UncertaintyLogger(path, atoms, **options) as log:
        dyn.attach(log, interval=interval)
        dyn.run(steps)


def test_an_appended_part_keeps_the_interval_too(tmp_path):
    atoms, path = molecule("H2O"), tmp_path / "run.h5"
    atoms.calc = committee()
    append(path, atoms, steps=20, interval=2)
    append(path, atoms, steps=8, interval=2, append=True)
    with pytest.raises(InputError, match=r"differs in interval \(2 there, 5 here\)"):
        append(path, atoms, steps=20, interval=5, append=True)
    assert read_log(path).step.tolist() == [*range(0, 30, 2)]


def test_an_interval_that_the_dynamics_does_not_say_is_noticed_at_the_second_frame(tmp_path):
    atoms, path = molecule("H2O"), tmp_path / "run.h5"
    atoms.calc = committee()
    append(path, atoms, steps=20, interval=2)
    dyn = Langevin(atoms, 0.2 * units.fs, temperature_K=300.0, friction=0.01 / units.fs, fixcm=False)
    options = {"dyn": dyn, "temperature_K": 300.0, "observables": {"d": distance}, "append": True}
    with UncertaintyLogger(path, atoms, **options) as log:
        dyn.attach(lambda: log(), interval=5)
        with pytest.raises(InputError, match="continued with frames as far apart as before.*every 2 steps, got 5"):
            dyn.run(20)
    # What was right of that part is there: its first frame follows the last one of the log.
    assert read_log(path).step.tolist() == [*range(0, 22, 2), 25]


def uneven(path, steps):
    atoms = molecule("H2O")
    atoms.calc = committee()
    with UncertaintyLogger(path, atoms, temperature_K=300.0, timestep_fs=1.0, observables={"d": distance}) as log:
        for step in steps:
            atoms.rattle(0.01, seed=int(step))
            atoms.get_forces()
            log._n_calls = int(step)
            log()


@pytest.mark.parametrize("dense", [50, 400])
def test_frames_unevenly_spaced_are_not_averaged_alike(tmp_path, dense):
    path = tmp_path / "run.h5"
    uneven(path, [*range(dense), *range(dense, dense + 20 * 100, 20)])
    with pytest.raises(InputError, match="evenly spaced in time for averages, the steps between them are 1, 20"):
        reweight_log(path, ["d"])
    (average,) = averages(read_log(path))
    assert "evenly spaced" in average.problem
    assert reweight_log(path, ["d"], skip_fs=dense)["d"].n_frames == 100


def test_an_interruption_is_no_interval(tmp_path):
    path = tmp_path / "run.h5"
    uneven(path, [*range(0, 300, 10), 297, *range(307, 600, 10), *range(5000, 5300, 10)])
    assert reweight_log(path, ["d"])["d"].n_frames == 91


def test_a_state_of_an_earlier_version_is_read(tmp_path):
    go(tmp_path / "run.h5", 10, MAKE["exact"])
    state = tmp_path / "run.h5.restart"
    with np.load(state) as old:
        kept = {name: old[name] for name in old if name != "calculator"}
    with state.open("wb") as file:
        np.savez(file, **kept)
    assert go(tmp_path / "run.h5", 12, MAKE["exact"], restart=True).n_frames == 13
    assert run_gates(read_log(tmp_path / "run.h5"))
