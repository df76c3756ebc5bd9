"""Runs at constant pressure: what they sample, what they log, what they refuse, and how they go on."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import read, write
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from scipy.integrate import quad
from scipy.special import iv, ive
from typer.testing import CliRunner

from ase_uq import CommitteeUncertainty, InputError, UQCalculator, WeightedBaseline, read_log, reweight_log, save
from ase_uq.cli import app
from ase_uq.dynamics import integrators
from ase_uq.dynamics.driver import run_md
from ase_uq.dynamics.restart import read_restart, state_path
from ase_uq.dynamics.settings import BAROSTATS, MDSettings
from ase_uq.log.ase_format import read_ase_uq
from ase_uq.log.definition import definition_of
from ase_uq.models.members import MemberUncertainty
from ase_uq.uncertainty.prediction import Prediction
from tests.made import argon
from tests.made.potentials import shallow

STATE = {"temperature_K": 40.0, "pressure_GPa": 0.1}


def settings(**changes):
    return MDSettings(**{**STATE, "steps": 20, "timestep_fs": 4.0, "ensemble": "npt", "barostat_fs": 300.0, **changes})


def calculator(**options):
    return UQCalculator(argon.PairMembers(), **options)


# ---------------------------------------------------------------------------------------------------------------------
# What is sampled
# ---------------------------------------------------------------------------------------------------------------------


class Rippled:
    """U(V) = K_i (V - V0)^2 / 2 and A sum over pairs of 3 - sum_k cos(2 pi (s_k - s'_k)), in coordinates s of the cell.

    The second part moves atoms and never the cell, and adds the same to every volume: of N atoms the volume has the
    density V^N exp(-(P V + U(V)) / kT), however few they are.
    """

    implemented_properties = ("energy", "free_energy", "forces", "stress", "energy_members", "forces_members")
    description = model_hash = "rippled"
    looks_at_structure_alone = True
    stiffness = np.array([0.9, 1.0, 1.1]) * 2e-4  # eV/Å^6
    volume, depth = 64.0, 0.02

    def predict(self, atoms, properties):
        edge = atoms.cell.lengths()[0]
        d = 2 * np.pi * (atoms.positions[:, None] - atoms.positions) / edge
        ripples = 0.5 * self.depth * (1.0 - np.cos(d)).sum()
        forces = -self.depth * np.sin(d).sum(axis=1) * 2 * np.pi / edge
        stretch = atoms.get_volume() - self.volume
        stress = np.zeros((3, 6))
        stress[:, :3] = (self.stiffness * stretch)[:, None]
        energies = ripples + 0.5 * self.stiffness * stretch**2
        return Prediction.from_members(energies=energies, forces=[forces] * 3, stresses=stress)


def cosine(atoms):
    """Mean over pairs and axes."""
    d, n = 2 * np.pi * (atoms.positions[:, None] - atoms.positions) / atoms.cell.lengths()[0], len(atoms)
    return float((np.cos(d).sum() / 3 - n) / (n * (n - 1)))


def mean_cosine(a, n):
    """For n rotors with the energy -a kT sum over pairs of cosines: (1/n(n-1)) (<m^2> - n), with the sum m of rotors.

    By the density of m^2: exp(a m^2 / 2) = int d^2x exp(-x^2 / 2a + x m) / (2 pi a).
    """

    def log_z(a):
        def integrand(x):
            return x * np.exp(-((x - n * a) ** 2) / (2 * a)) * ive(0, x) ** n

        return n * n * a / 2 - n * a / 2 - np.log(a) + np.log(quad(integrand, 0, n * a + 12 * np.sqrt(a) + 10)[0])

    return (log_z(a + 1e-4) - log_z(a - 1e-4)) / 2e-4 / (n * (n - 1) / 2)


def of_the_motion_about_the_drift(atoms):
    """Temperature, K."""
    momenta, masses = atoms.get_momenta(), atoms.get_masses()[:, None]
    v = momenta / masses - momenta.sum(axis=0) / masses.sum()
    return float((masses * v**2).sum() / (3 * (len(atoms) - 1) * units.kB))


def test_the_closed_form_of_two_rotors():
    assert mean_cosine(0.77, 2) == pytest.approx(iv(1, 0.77) / iv(0, 0.77), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("barostat", "drift"), [("mtk", 0.0), ("mtk", 3.0), ("langevin", 0.0)])
def test_few_atoms_have_their_density(tmp_path, barostat, drift):
    """So few that N, N + 1 and N - 1 are far apart, from starts without a drift, or with a wild one."""
    pressure, kelvin, n_atoms = 1.0, 300.0, 6
    kT, p = units.kB * kelvin, pressure * units.GPa
    rng = np.random.default_rng(0)
    atoms = Atoms(f"Ar{n_atoms}", positions=4 * rng.random((n_atoms, 3)), cell=[4, 4, 4], pbc=True)
    momenta = rng.normal(size=(n_atoms, 3)) * np.sqrt(40.0 * kT)
    atoms.set_momenta(momenta - momenta.mean(axis=0) + drift * np.sqrt(40.0 * kT / n_atoms))
    made = MDSettings(
        temperature_K=kelvin,
        steps=6_000,
        timestep_fs=4.0,
        ensemble="npt",
        barostat=barostat,
        pressure_GPa=pressure,
        barostat_fs=150.0,
        interval=4,
        equilibration_steps=500,
    )
    observables = {"cosine": (cosine, "1"), "internal": (of_the_motion_about_the_drift, "K")}
    run_md(atoms, UQCalculator(Rippled()), made, log=tmp_path / "run.h5", observables=observables)

    def density(v):
        return np.exp(n_atoms * np.log(v / 64) - (p * (v - 64) + 1e-4 * (v - 64) ** 2) / kT)

    whole = quad(density, 1, 400)[0]
    mean, square = (quad(lambda v, k=k: v**k * density(v), 1, 400)[0] / whole for k in (1, 2))
    expected = {"volume": mean, "pressure_GPa": pressure, "temperature_K": kelvin, "internal": kelvin}
    expected["cosine"] = mean_cosine(Rippled.depth / kT, n_atoms)
    for name, result in reweight_log(tmp_path / "run.h5", list(expected)).items():
        assert abs(result.mean - expected[name]) < 4.0 * result.std_sampling, name
        # It is a test only where the bar is short.
        assert result.std_sampling < 0.05 * expected[name], name
    assert read_log(tmp_path / "run.h5").volume.var() == pytest.approx(square - mean**2, rel=0.4)


# From `python -m tests.made.argon`: Monte Carlo, Å^3.
REFERENCE = {(40.0, 0.1): (1270.04, 0.34), (140.0, 0.1): (1940.5, 4.8)}


@pytest.mark.slow
@pytest.mark.parametrize("barostat", BAROSTATS)
@pytest.mark.parametrize("state", argon.STATES)
def test_volume_of_argon_is_that_of_monte_carlo(tmp_path, barostat, state):
    argon.run(tmp_path / "run.h5", 6000, *state, barostat=barostat)
    found = reweight_log(tmp_path / "run.h5", ["volume", "pressure_GPa"])
    volume, pressure = found["volume"], found["pressure_GPa"]
    mean, error = REFERENCE[state]
    assert abs(volume.mean - mean) < 4.0 * np.hypot(volume.std_sampling, error)
    assert volume.std_sampling < 0.03 * mean
    assert abs(pressure.mean - state[1]) < 4.0 * pressure.std_sampling
    assert pressure.std_sampling < 0.02


def test_the_committee_of_argon_is_that_of_ase():
    atoms = argon.crystal()
    atoms.rattle(0.2, seed=0)
    members = zip(argon.SIGMA, argon.EPSILON, strict=True)
    of_ase = CommitteeUncertainty([LennardJones(sigma=s, epsilon=e, rc=argon.CUTOFF) for s, e in members])
    found, expected = argon.PairMembers().predict(atoms, []), of_ase.predict(atoms, [])
    for name in ("energy_members", "forces_members", "stress_members"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-13)


# ---------------------------------------------------------------------------------------------------------------------
# What drives the cell
# ---------------------------------------------------------------------------------------------------------------------


class Ideal(Calculator):
    """A wide well for every atom about the lattice it is told of; a baseline whose stress is its own."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        volume = self.atoms.get_volume()
        pull = -20.0 / volume + 0.02  # of E = -20 ln V + 0.02 V
        self.results = {
            "energy": -20.0 * np.log(volume) + 0.02 * volume,
            "forces": np.zeros((len(self.atoms), 3)),
            "stress": np.array([pull, pull, pull, 0.0, 0.0, 0.0]),
        }


def blended():
    # Half model, half baseline at the start, and less of the model the more its members differ.
    inner, atoms = calculator(), argon.crystal()
    zero = inner.model.predict(atoms, []).energy - Ideal().get_potential_energy(atoms)
    return WeightedBaseline(inner, Ideal(), sigma_baseline=0.05, offsets={"Ar": zero / len(atoms)})


@pytest.mark.parametrize("edge", [5.2, 5.35, 5.5])
def test_stress_blended_with_a_baseline_is_the_derivative_of_its_energy(edge):
    atoms = argon.crystal(a=edge)
    atoms.rattle(0.1, seed=1)
    atoms.calc = blended()
    stress = atoms.get_stress()
    assert 0.05 < atoms.calc.results["weight"] < 0.95
    cell, volume = atoms.cell.array.copy(), atoms.get_volume()
    slopes = []
    for axis in range(3):
        energies = []
        for strain in (1e-5, -1e-5):
            moved = atoms.copy()
            moved.set_cell(cell @ (np.eye(3) + strain * np.diag(np.eye(3)[axis])), scale_atoms=True)
            moved.calc = atoms.calc
            energies.append(moved.get_potential_energy())
        slopes.append((energies[0] - energies[1]) / 2e-5 / volume)
    np.testing.assert_allclose(stress[:3], slopes, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [calculator, blended])
def test_a_barostat_conserves_what_it_should(make):
    """Energy of atoms, chains and cell, of the members and of a blend: forces and stress are derivatives."""
    atoms = argon.crystal()
    atoms.calc = make()
    spread = np.sqrt(atoms.get_masses() * units.kB * 40.0)[:, None]
    atoms.set_momenta(np.random.default_rng(0).normal(size=(32, 3)) * spread)
    times = {"tdamp": 50 * units.fs, "pdamp": 100 * units.fs}
    dyn = IsotropicMTKNPT(atoms, 0.5 * units.fs, temperature_K=40.0, pressure_au=0.1 * units.GPa, **times)
    found = [(dyn.get_conserved_energy(), atoms.get_kinetic_energy()) for _ in dyn.irun(300)]
    conserved, kinetic = np.ptp(found, axis=0)
    assert conserved < 0.02 * kinetic


# ---------------------------------------------------------------------------------------------------------------------
# What is logged, and how runs go on
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("barostat", BAROSTATS)
def test_the_log_says_what_was_held(tmp_path, barostat):
    averages = run_md(
        argon.crystal(), calculator(), settings(barostat=barostat), log=tmp_path / "run.h5", observables={}
    )
    run = read_log(tmp_path / "run.h5")
    assert run.attributes["ensemble"] == "npt"
    assert run.attributes["pressure_GPa"] == pytest.approx(0.1)
    assert run.units["pressure_GPa"] == "GPa"
    assert np.ptp(run.volume) > 0
    assert averages["pressure_GPa"].mean == pytest.approx(run.observables["pressure_GPa"][::10].mean())
    told = json.loads(run.attributes["definition"])["dynamics"]
    assert told["pressure_GPa"] == pytest.approx(0.1)
    assert told["barostat_fs"] == pytest.approx(300.0)
    assert told["thermostat_fs"] == pytest.approx(100.0)


@pytest.mark.parametrize("barostat", BAROSTATS)
def test_parts_are_the_whole(tmp_path, barostat):
    for name, ends in (("whole", (23,)), ("parts", (4, 11, 23))):
        for i, end in enumerate(ends):
            made = settings(barostat=barostat, steps=end, interval=3)
            options = {"log": tmp_path / f"{name}.h5", "observables": {}, "restart": i > 0}
            run_md(argon.crystal(), calculator(), made, **options)
    whole, parts = read_log(tmp_path / "whole.h5"), read_log(tmp_path / "parts.h5")
    for name in ("step", "energy", "kinetic_energy", "volume", "energy_members_minus_energy"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), err_msg=name)
    one, other = (read_restart(state_path(tmp_path / f"{name}.h5")) for name in ("whole", "parts"))
    for name, value in one.integrator.items():
        np.testing.assert_array_equal(other.integrator[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"pressure_GPa": 0.2}, r"dynamics.pressure_GPa \(0.1 there, 0.2 here\)"),
        ({"barostat_fs": 400.0}, r"dynamics.barostat_fs \(300"),
        ({"thermostat_fs": 150.0}, r"dynamics.thermostat_fs \(100"),
        ({"barostat": "langevin"}, "dynamics.class"),
        ({"temperature_K": 41.0}, "dynamics.temperature_K"),
        ({"equilibration_steps": 5}, r"schedule.equilibration_steps \(0 there, 5 here\)"),
        ({"temperature_end_K": 60.0}, r"schedule.temperature_end_K \(None there, 60.0 here\)"),
    ],
)
def test_another_run_is_refused_by_name(tmp_path, changes, name):
    options = {"log": tmp_path / "run.h5", "observables": {}}
    run_md(argon.crystal(), calculator(), settings(steps=5), **options)
    with pytest.raises(InputError, match=f"`restart` needs what the run .* was started with, it differs in .*{name}"):
        run_md(argon.crystal(), calculator(), settings(steps=9, **changes), restart=True, **options)


def test_of_the_langevin_barostat_too(tmp_path):
    options = {"log": tmp_path / "run.h5", "observables": {}}
    run_md(argon.crystal(), calculator(), settings(steps=5, barostat="langevin"), **options)
    for changes, name in (
        ({"pressure_GPa": 0.2}, "dynamics.pressure_GPa"),
        ({"barostat_fs": 400.0}, "dynamics.barostat_fs"),
        ({"friction_per_ps": 5.0}, "dynamics.thermostat_fs"),
    ):
        made = settings(steps=9, barostat="langevin", **changes)
        with pytest.raises(InputError, match=name):
            run_md(argon.crystal(), calculator(), made, restart=True, **options)


def test_a_state_without_the_variables_of_its_barostat_is_refused(tmp_path):
    options = {"log": tmp_path / "run.h5", "observables": {}}
    run_md(argon.crystal(), calculator(), settings(steps=5), **options)
    state = tmp_path / "run.h5.restart"
    with np.load(state) as old:
        kept = {name: old[name] for name in old if name != "integrator/_p_eps"}
    with state.open("wb") as file:
        np.savez(file, **kept)
    with pytest.raises(InputError, match="the state of the run lacks _p_eps of MTKWithDrift"):
        run_md(argon.crystal(), calculator(), settings(steps=9), restart=True, **options)


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------


def without_stress():
    class Wells(Calculator):
        implemented_properties = ("energy", "forces")

        def __init__(self, k):
            super().__init__()
            self.k = k

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            x = self.atoms.positions
            self.results = {"energy": 0.5 * self.k * (x**2).sum(), "forces": -self.k * x}

    return UQCalculator(CommitteeUncertainty([Wells(1.0), Wells(1.00001)]))


def slab():
    atoms = bulk("Ar", cubic=True)
    atoms.pbc = (True, True, False)
    return atoms


def fixed():
    atoms = argon.crystal()
    atoms.set_constraint(FixAtoms([0]))
    return atoms


@pytest.mark.parametrize("barostat", BAROSTATS)
@pytest.mark.parametrize(
    ("atoms", "made", "rule"),
    [
        (lambda: molecule("H2O"), calculator, r"periodic in three directions, got pbc \[False, False, False\]"),
        (slab, calculator, r"periodic in three directions, got pbc \[True, True, False\]"),
        (
            argon.crystal,
            without_stress,
            "a `calculator` with a stress, UQCalculator of CommitteeUncertainty gives",
        ),
        (fixed, calculator, "without constraints, got FixAtoms"),
    ],
)
def test_what_has_no_pressure_is_refused(tmp_path, barostat, atoms, made, rule):
    with pytest.raises(InputError, match=f"`ensemble` 'npt' needs .*{rule}"):
        run_md(atoms(), made(), settings(barostat=barostat), log=tmp_path / "run.h5", observables={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"ensemble": "nvt", "barostat_fs": None}, "`pressure_GPa` is of ensemble='npt', got 0.1 with 'nvt'"),
        ({"ensemble": "nve", "pressure_GPa": None}, "`barostat_fs` is of ensemble='npt'"),
        ({"barostat": "berendsen"}, "`barostat` must be one of mtk, langevin"),
        ({"barostat_fs": 20.0}, "`barostat_fs` must be at least 10 time steps of 4 fs, got 20"),
        ({"thermostat_fs": 5.0}, "`thermostat_fs` must be at least 10 time steps"),
        ({"barostat": "langevin", "thermostat_fs": 100.0}, "`thermostat_fs` is of barostat='mtk'"),
        ({"pressure_GPa": float("inf")}, "`pressure_GPa` must be a finite number"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, rule):
    with pytest.raises(InputError, match=rule):
        settings(**changes)


def test_an_older_ase_without_the_langevin_barostat_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(integrators, "LangevinBAOAB", None)
    with pytest.raises(InputError, match="`barostat` 'langevin' needs ASE 3.27 or later"):
        run_md(argon.crystal(), calculator(), settings(barostat="langevin"), log=tmp_path / "run.h5", observables={})


def test_a_stress_with_several_components_is_told_as_one():
    class Held:
        externalstress, dt, nsteps = np.diag([-0.1, -0.2, -0.3]), 1.0, 0

    atoms = argon.crystal()
    atoms.calc = calculator()
    told = definition_of(atoms, Held(), {})["dynamics"]
    assert np.shape(told["stress_GPa"]) == (3, 3)


def test_positions_are_stored_with_their_cell(tmp_path):
    made = settings(steps=5)
    options = {"log": tmp_path / "run.h5", "observables": {}, "store": ("positions",)}
    run_md(argon.crystal(), calculator(), made, **options)
    run = read_log(tmp_path / "run.h5")
    np.testing.assert_allclose(np.linalg.det(run.cell), run.volume, rtol=1e-6)
    frames = read_ase_uq(tmp_path / "run.h5", slice(None))
    np.testing.assert_allclose([frame.get_volume() for frame in frames], run.volume, rtol=1e-6)


def test_the_shell_runs_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(MemberUncertainty(shallow(elements=("H", "O"), cutoff=3.0)), "model.pt")
    water = molecule("H2O")
    water.set_cell([3.2, 3.3, 3.4])
    water.pbc = True
    write("start.xyz", water)
    call = ["md", "model.pt", "start.xyz", "--temperature", 300, "--timestep", 0.2, "--log", "run.h5", "--steps", 30]
    call += ["--ensemble", "npt", "--pressure", 0.5, "--barostat", "mtk", "--barostat-time", 200, "--traj", "run.traj"]
    call += ["--equilibration", 5, "--temperature-start", 100, "--json"]
    done = CliRunner().invoke(app, list(map(str, call)))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["averages"].keys() == {"pressure_GPa"}
    run = read_log("run.h5")
    assert (run.n_frames, len(read("run.traj", ":"))) == (31, 31)
    told = json.loads(run.attributes["definition"])
    assert told["schedule"]["equilibration_steps"] == 5
    assert told["dynamics"]["barostat_fs"] == pytest.approx(200.0)
    call = ["reweight", "run.h5", "--observable", "pressure_GPa", "--json"]
    assert json.loads(CliRunner().invoke(app, call).stdout)["n_frames"] == 31
    assert CliRunner().invoke(app, ["report", "run.h5", "--out", "report.html"]).exit_code == 0
    assert "0.5 GPa target" in Path("report.html").read_text()


def test_the_shell_names_its_options(tmp_path):
    call = ["md", "model.pt", "start.xyz", "--temperature", "300", "--steps", "5", "--log", str(tmp_path / "x.h5")]
    found = CliRunner().invoke(app, [*call, "--pressure", "1"])
    assert "`--pressure` is of --ensemble npt" in str(found.exception)


# ---------------------------------------------------------------------------------------------------------------------
# Models of the package in cells that move
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("barostat", BAROSTATS)
def test_neighbours_and_random_variances_follow_the_cell(tmp_path, barostat):
    model = MemberUncertainty(shallow(elements=("H", "O"), cutoff=3.0))
    water = molecule("H2O")
    water.set_cell([3.2, 3.3, 3.4])
    water.pbc = True
    made = {"temperature_K": 300.0, "timestep_fs": 0.2, "pressure_GPa": 5.0, "barostat_fs": 4.0, "seed": 3}
    made |= {"thermostat_fs": 20.0} if barostat == "mtk" else {}
    log = {}
    for name, ends in (("whole", (24,)), ("parts", (7, 13, 24))):
        for i, end in enumerate(ends):
            path, calc = tmp_path / f"{name}.h5", UQCalculator(model, forces_var="stochastic", every=3)
            chosen = MDSettings(**made, steps=end, ensemble="npt", barostat=barostat)
            atoms = water.copy()
            run_md(atoms, calc, chosen, log=path, observables={}, restart=i > 0)
        log[name] = read_log(path)
    for name in ("energy", "volume", "energy_var", "force_std_max"):
        np.testing.assert_array_equal(getattr(log["parts"], name), getattr(log["whole"], name), err_msg=name)
    assert np.ptp(log["whole"].volume) > 0.01 * log["whole"].volume[0]
    # Whoever sees the last frame first finds the same: nothing of earlier cells is left.
    fresh = UQCalculator(MemberUncertainty(shallow(elements=("H", "O"), cutoff=3.0)))
    fresh.calculate(atoms)
    assert fresh.results["energy"] == pytest.approx(log["whole"].energy[-1], rel=1e-10)
    np.testing.assert_allclose(fresh.results["stress"], calc.results["stress"], rtol=1e-8, atol=1e-12)
