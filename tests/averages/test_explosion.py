"""A log of a run that exploded is recognised by its columns, wherever it is averaged."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.units import kB
from scipy.stats import gamma

from ase_uq import OnlineReweighter, UncertaintyLogger, read_log, reweight, reweight_log
from ase_uq.averages import free_energy_of_run
from ase_uq.averages.run_checks import run_gates
from ase_uq.log.explosion import Explosion, exploded
from ase_uq.report.build import write_report
from tests.made.bonds import bound
from tests.made.synthetic_runs import synthetic_run

SAYS = "the run exploded: "


def says(result):
    return [warning for warning in result.warnings if warning.startswith(SAYS)]


@pytest.fixture(scope="module", params=[12.0, 14.0])
def run(request, tmp_path_factory):
    """Dynamics of ASE alone, with our observers: nothing stops them."""
    path = tmp_path_factory.mktemp("run") / "run.h5"
    atoms = Atoms("N2", positions=[[0.0, 0.0, 0.0], [1.1, 0.0, 0.0]])
    atoms.calc = bound()
    rng = np.random.default_rng(0)
    timestep = request.param * units.fs
    dyn = Langevin(atoms, timestep, temperature_K=300.0, friction=0.01 / units.fs, fixcm=False, rng=rng)
    observables = {"d": lambda atoms: atoms.get_distance(0, 1)}
    online = OnlineReweighter(atoms, temperature_K=300.0, observables=observables, dyn=dyn)
    with UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=300.0, observables=observables) as log:
        dyn.attach(log)
        dyn.attach(online)
        dyn.run(120)
        # As dynamics are gone on with: the frame between counts once for both.
        dyn.run(120)
    return path, online


def test_every_road_to_an_average_says_it(run):
    path, online = run
    assert says(reweight_log(path, ["d"])["d"])
    run = read_log(path)
    assert says(reweight_log(run, ["d"])["d"])
    options = {"energy_reference": run.energy[20:], "temperature_K": 300.0}
    plain = pickle.loads(pickle.dumps(run.energy_members))[20:]
    assert says(reweight(run.observables["d"][20:], energy_members=plain, **options))
    assert says(free_energy_of_run(path, "d", bins=4)[1])
    assert says(online.results()["d"])
    assert online.n_frames == read_log(path).n_frames == 241


def test_leaving_out_its_moment_leaves_an_exploded_run(run):
    path, _ = run
    late = 100 * read_log(path).attributes["timestep_fs"]
    run = read_log(path)
    assert run.after(late).attributes["exploded"] == exploded(run) != ""
    assert says(reweight_log(path, ["d"], skip_fs=late)["d"])


def test_the_report_says_it(run, tmp_path):
    path, _ = run
    page = tmp_path / "report.html"
    write_report(path, page, skip_fs=0.0)
    assert "he run exploded: " in page.read_text()


def test_a_moment_is_not_forgotten_when_the_stream_is_thinned_out():
    found = synthetic_run(baseline=False, n_frames=20_000)
    hot = 7777
    energies = found.energy.copy(), found.kinetic_energy.copy()
    for each in energies:
        each[hot] += 100.0
    run = replace(found, energy=energies[0], kinetic_energy=energies[1])
    assert exploded(run).startswith(f"at step {run.step[hot]} its temperature is")
    online = OnlineReweighter(Atoms(), temperature_K=300.0, observables={"bond_length": lambda atoms: 0.0})
    online.take_logged(run, np.arange(run.n_frames))
    assert says(online.results()["bond_length"]) == [
        f"{SAYS}in frame {hot} {exploded(run).partition(f'step {run.step[hot]} ')[2]}; " + says_rest(run)
    ]


def says_rest(run):
    (sentence,) = [gate.sentence for gate in run_gates(run) if gate.name == "run that exploded"]
    return sentence.partition("; ")[2]


@pytest.mark.parametrize("degrees", [1, 3, 6, 12, 300])
def test_canonical_energies_are_sound(degrees):
    rng, thermal = np.random.default_rng(degrees), kB * 300.0
    kinetic, potential = gamma.rvs(degrees / 2, scale=thermal, size=(2, 20_000), random_state=rng)
    watch = Explosion(300.0)
    kelvin = 2 * kinetic / (degrees * kB)
    found = [watch.see(*row) for row in zip(potential, kinetic, kelvin, strict=True)]
    assert set(found) == {""}
    # And ten times as hot they are not, unless that was asked for.
    hot = next(i for i in range(20_000) if kinetic[i] > 0.4 * degrees * thermal)
    many = 12.0 if degrees > 12 else 200.0
    assert watch.see(many * potential[hot], many * kinetic[hot], many * kelvin[hot])
    watch.warmed_to(many * 300.0)
    assert not watch.see(many * potential[hot], many * kinetic[hot], many * kelvin[hot])


def test_heat_that_was_there_is_no_explosion():
    """Potential energy of the start that becomes kinetic, and is then taken by a thermostat."""
    watch = Explosion(300.0)
    assert watch.see(500.0, 0.4, 300.0) == ""
    for kinetic in np.linspace(1.0, 480.0, 40):
        assert watch.see(500.0 - kinetic, kinetic, 700.0 * kinetic) == ""
    for kinetic in np.linspace(480.0, 0.4, 400):
        assert watch.see(10.0, kinetic, 700.0 * kinetic) == ""


def test_work_on_the_atoms_is_no_explosion():
    free, pulled = (Explosion(300.0, worked_on=worked_on) for worked_on in (False, True))
    for watch, says_something in ((free, True), (pulled, False)):
        assert not watch.see(0.0, 0.15, 290.0)
        assert bool(watch.see(9.0, 0.15, 290.0)) == says_something


def test_compression_by_a_barostat_is_no_explosion():
    for pressure, says_something in ((0.0, True), (0.1, False)):
        watch = Explosion(300.0, pressure=pressure)
        assert not watch.see(0.0, 0.15, 290.0, 1000.0)
        assert bool(watch.see(30.0, 0.15, 290.0, 700.0)) == says_something


def test_a_time_step_past_the_neighbours_is_seen_on_the_way():
    for timestep, mass, says_something in ((60.0, None, True), (0.5, None, False), (60.0, 100.0, False)):
        atoms = Atoms("H2", positions=[[0.0, 0.0, 0.0], [0.74, 0.0, 0.0]])
        atoms.set_masses([mass, mass])
        atoms.calc = bound(depth=0.05, length=0.74)
        atoms.get_forces()
        dyn = Langevin(atoms, timestep * units.fs, temperature_K=300.0, friction=0.01 / units.fs, fixcm=False)
        online = OnlineReweighter(atoms, temperature_K=300.0, observables={"d": lambda atoms: 1.0}, dyn=dyn)
        online()
        assert bool(says(online.results()["d"])) == says_something


def test_a_time_step_past_the_neighbours_needs_no_frames():
    run = synthetic_run(baseline=False, dynamics="Langevin", timestep_fs=60.0)
    assert "an atom of H flies" in exploded(run)
    heavy = '{"atoms": {"masses": [100.0]}}'.replace("[100.0]", str([100.0] * 24))
    assert exploded(replace(run, attributes=run.attributes | {"definition": heavy})) == ""
    # Frames of a trajectory that was evaluated again are as far apart as they are.
    assert exploded(replace(run, attributes=run.attributes | {"dynamics": ""})) == ""
