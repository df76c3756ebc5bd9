"""A run that explodes stops and says so; one that is hot, relaxes, reacts or is pulled goes on."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, Hookean

from ase_uq import CommitteeUncertainty, UQCalculator, read_log, reweight_log
from ase_uq.dynamics.driver import run_md
from ase_uq.dynamics.settings import MDSettings
from ase_uq.errors import InputError, RunError
from ase_uq.log.continuation import exploded_in
from ase_uq.log.explosion import LIMIT, exploded
from tests.made.bonds import bound

OBSERVABLES = {"d": (lambda atoms: atoms.get_distance(0, -1), "Å")}


def pair(distance=1.1, symbols="N2", **at):
    return Atoms(symbols, positions=[[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], **at)


def moving(atoms, *velocities):
    """Velocities along x, Å/fs."""
    atoms.set_velocities(np.outer(velocities, [1.0, 0.0, 0.0]) / units.fs)
    return atoms


def argon(n=1, **options):
    atoms = bulk("Ar", cubic=True) * (n, n, n)
    return atoms, UQCalculator(
        CommitteeUncertainty([LennardJones(sigma=s, epsilon=0.0104, rc=5.0) for s in (3.38, 3.42)], **options)
    )


def overlapping():
    atoms, calculator = argon()
    atoms.positions[1] += 0.45 * (atoms.positions[0] - atoms.positions[1])
    return atoms, calculator


def copper():
    return bulk("Cu", cubic=True), UQCalculator(CommitteeUncertainty([EMT(), EMT()]))


def held(constraint, distance=1.1):
    return pair(distance, constraint=constraint), bound()


def single():
    return Atoms("Ar", positions=[[1.0, 0.0, 0.0]], constraint=Hookean(0, (0.0, 0.0, 0.0), 1.0, rt=0.0)), bound()


def go(path, system, **settings):
    atoms, calculator = system
    chosen = {"temperature_K": 300.0, "timestep_fs": 0.5, "steps": 400, "seed": 1} | settings
    options = {name: chosen.pop(name) for name in ("restart", "overwrite") if name in chosen}
    return run_md(atoms, calculator, MDSettings(**chosen), log=path, observables=OBSERVABLES, **options)


# ---------------------------------------------------------------------------------------------------------------------
# Runs that are as they should be
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        pytest.param(lambda: (pair(), bound()), {}, id="two atoms"),
        pytest.param(
            lambda: (pair(), bound()), {"temperature_K": 5000.0, "timestep_fs": 0.2}, id="5000 K, bonds break"
        ),
        pytest.param(lambda: (pair(0.85), bound()), {"ensemble": "nve"}, id="a bond far too short, nve"),
        pytest.param(lambda: (pair(0.8), bound()), {"timestep_fs": 0.2}, id="a bond far too short"),
        pytest.param(
            lambda: (moving(pair(4.0), 0.01, -0.01), bound()), {"ensemble": "nve", "steps": 800}, id="atoms recombine"
        ),
        pytest.param(
            lambda: (moving(pair(6.0), 1.0, 0.0), bound()), {"ensemble": "nve", "timestep_fs": 0.05}, id="bombardment"
        ),
        pytest.param(lambda: (molecule("CH4"), bound()), {"temperature_K": 2000.0, "timestep_fs": 0.1}, id="hot start"),
        pytest.param(
            lambda: (moving(pair(), 0.0, 0.0), bound()),
            {"temperature_K": 1000.0, "friction_per_ps": 100.0},
            id="cold start",
        ),
        pytest.param(overlapping, {"temperature_K": 60.0, "timestep_fs": 1.0}, id="a bad start relaxes"),
        pytest.param(lambda: argon(), {"temperature_K": 600.0, "timestep_fs": 2.0}, id="a gas"),
        pytest.param(lambda: (pair(), bound(depth=0.02)), {"temperature_K": 900.0}, id="a cluster evaporates"),
        pytest.param(lambda: held(Hookean(0, 1, 20.0, rt=3.0)), {"steps": 200}, id="a spring that does not pull"),
        pytest.param(
            lambda: held([FixAtoms([0]), Hookean(1, (6.0, 0.0, 0.0), 2.0, rt=0.0)]), {}, id="a bond is pulled apart"
        ),
        pytest.param(lambda: held(FixAtoms([0])), {}, id="one atom moves"),
        pytest.param(lambda: held(FixAtoms([0, 1])), {}, id="nothing moves"),
        pytest.param(single, {"ensemble": "nve"}, id="one atom on a spring"),
        pytest.param(copper, {"temperature_K": 1200.0, "timestep_fs": 5.0, "steps": 60}, id="a hot metal"),
    ],
)
def test_a_sound_run_is_not_stopped(tmp_path, make, settings):
    go(tmp_path / "run.h5", make(), **settings)
    run = read_log(tmp_path / "run.h5")
    assert run.step[-1] == settings.get("steps", 400)
    assert exploded(run) == ""


@pytest.mark.parametrize("ramp", [{"temperature_end_K": 6000.0}, {"temperature_start_K": 6000.0}])
def test_a_ramp_is_not_stopped(tmp_path, ramp):
    if "temperature_start_K" in ramp:
        ramp = {**ramp, "equilibration_steps": 200}
    options = {"temperature_K": 10.0, "friction_per_ps": 50.0, "timestep_fs": 0.2}
    go(tmp_path / "run.h5", (molecule("CH4"), bound()), **options, **ramp)
    run = read_log(tmp_path / "run.h5")
    assert exploded(run) == ""
    assert max(run.temperature_K[-100:].mean(), run.temperature_K[:10].mean()) > 1000.0


# ---------------------------------------------------------------------------------------------------------------------
# Runs that explode
# ---------------------------------------------------------------------------------------------------------------------

EXPLODING = [
    pytest.param(lambda: (pair(), bound()), {"timestep_fs": 12.0}, "temperature is", id="two atoms"),
    pytest.param(lambda: (pair(), bound()), {"timestep_fs": 12.0, "ensemble": "nve"}, "risen by", id="two atoms, nve"),
    pytest.param(lambda: (molecule("CH4"), bound()), {"timestep_fs": 4.0}, "risen by", id="a molecule"),
    pytest.param(
        lambda: (pair(0.74, "H2"), bound(depth=0.05, length=0.74)),
        {"timestep_fs": 100.0},
        "in one step",
        id="apart in one step",
    ),
    pytest.param(lambda: argon(), {"temperature_K": 60.0, "timestep_fs": 300.0}, "risen by|one step", id="argon"),
    pytest.param(lambda: argon(2), {"temperature_K": 60.0, "timestep_fs": 300.0}, "risen by|one step", id="32 argon"),
    pytest.param(copper, {"timestep_fs": 80.0}, "risen by|one step", id="a metal"),
    pytest.param(lambda: (pair(), bound(hole=1.09)), {"timestep_fs": 0.2}, "apart, 0.|has fallen", id="a hole"),
    pytest.param(lambda: (pair(), bound(sound_for=40)), {}, "after step .* not finite", id="not a number"),
]


@pytest.mark.parametrize(("make", "settings", "words"), EXPLODING)
def test_an_explosion_ends_the_run(tmp_path, make, settings, words):
    path = tmp_path / "run.h5"
    with pytest.raises(RunError, match=f"^the run exploded: .*({words}).*`timestep_fs`"):
        go(path, make(), **settings)
    run = read_log(path)
    assert run.damage == ()
    assert exploded_in(path)
    # What was done is there, the frame that shows it included.
    assert run.n_frames > 0
    assert np.all(np.diff(run.step) == 1)
    with pytest.raises(InputError, match="`restart` needs a run that is sound.*exploded"):
        go(path, make(), restart=True, **settings)
    assert read_log(path).n_frames == run.n_frames


def test_it_can_be_switched_off_and_averages_say_it_still(tmp_path):
    path, settings = tmp_path / "run.h5", {"timestep_fs": 12.0, "explosion_limit": 0.0}
    averages = go(path, (pair(), bound()), **settings)
    assert exploded_in(path) == ""
    assert any(w.startswith("the run exploded: in frame") for w in averages["d"].warnings)
    assert any(w.startswith("the run exploded: at step") for w in reweight_log(path, ["d"])["d"].warnings)


def test_the_limit_can_be_set(tmp_path):
    settings = {"timestep_fs": 4.0, "steps": 30}
    go(tmp_path / "run.h5", (molecule("CH4"), bound()), explosion_limit=1e6, **settings)
    assert MDSettings(temperature_K=300.0, steps=1).explosion_limit == LIMIT


def test_a_run_that_goes_on_is_compared_with_its_start(tmp_path):
    """Heat that came before a restart is not forgotten, nor is the mark of a run that went on all the same."""
    path, settings = tmp_path / "run.h5", {"timestep_fs": 12.0, "explosion_limit": 0.0, "steps": 60, "ensemble": "nve"}
    go(path, (pair(), bound()), **settings)
    with pytest.raises(RunError, match="exploded: at step 6[01]"):
        go(path, (pair(), bound()), **settings | {"steps": 90, "explosion_limit": LIMIT}, restart=True)
    go(path, (pair(), bound()), **settings | {"steps": 90}, restart=True)
    assert read_log(path).attributes["exploded"].startswith("at step 6")
