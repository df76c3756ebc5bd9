"""Whether a run sampled what reweighting takes it to have sampled."""

from dataclasses import replace

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.md.langevin import Langevin
from ase.md.nvtberendsen import NVTBerendsen

from ase_uq.averages.run_checks import run_gates
from ase_uq.calculators.calculator import UQCalculator
from ase_uq.calculators.committee import CommitteeUncertainty
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.log.reader import read_log
from ase_uq.reweighting.gate import sentences
from tests.made.synthetic_runs import synthetic_run


def warnings_of(run, **options):
    return sentences(run_gates(run, **options))


def test_a_sound_run_has_no_warning():
    assert warnings_of(synthetic_run(baseline=False)) == ()


def hot(run):
    return replace(run, temperature_K=run.temperature_K + 40.0)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (synthetic_run(baseline=False, alpha=1.0), "not calibrated"),
        (synthetic_run(baseline=False, ensemble="nve"), "constant energy"),
        (hot(synthetic_run(baseline=False)), "where 300 K was asked for"),
        (replace(synthetic_run(), weight=np.r_[np.full(400, 0.1), np.ones(3600)]), "in 10% of the frames"),
    ],
)
def test_every_gate_of_the_run_speaks_once(run, words):
    warnings = warnings_of(run)
    assert len(warnings) == 1
    assert words in warnings[0]


def test_the_temperature_of_a_run_at_constant_energy_is_nobodys_target():
    run = hot(synthetic_run(baseline=False, ensemble="nve"))
    assert not any("asked for" in warning for warning in warnings_of(run))


# ---------------------------------------------------------------------------------------------------------------------
# Thermostats, drift and bias
# ---------------------------------------------------------------------------------------------------------------------


def log_of(tmp_path, dynamics, *, steps=1500, observables=None, constraint=None, ensemble="nvt", **settings):
    atoms = bulk("Ar", cubic=True)
    atoms.calc = UQCalculator(
        CommitteeUncertainty([LennardJones(sigma=s, epsilon=0.0104, rc=5.0) for s in (3.38, 3.42)])
    )
    rng = np.random.default_rng(0)
    spread = np.sqrt(atoms.get_masses() * units.kB * 60.0)
    atoms.set_momenta(spread[:, None] * rng.standard_normal((4, 3)))
    if constraint is not None:
        atoms.set_constraint(constraint)
    dyn = dynamics(atoms, 5 * units.fs, **settings)
    path = tmp_path / "run.h5"
    with UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=60.0, observables=observables, ensemble=ensemble) as log:
        dyn.attach(log)
        dyn.run(steps)
    return read_log(path)


@pytest.mark.slow
def test_a_thermostat_without_an_ensemble_is_named_and_seen_in_the_fluctuations(tmp_path):
    run = log_of(tmp_path, NVTBerendsen, temperature_K=60.0, taut=5 * units.fs)
    warnings = " ".join(warnings_of(run))
    assert "made with NVTBerendsen" in warnings
    unnamed = replace(run, attributes=run.attributes | {"dynamics": ""})
    assert "kinetic energy fluctuates" in " ".join(warnings_of(unnamed))


@pytest.mark.slow
def test_langevin_dynamics_pass(tmp_path):
    rng = np.random.default_rng(1)
    run = log_of(tmp_path, Langevin, temperature_K=60.0, friction=0.05 / units.fs, fixcm=False, rng=rng)
    failed = [gate.name for gate in run_gates(run) if gate.failed]
    assert failed == ["model without calibration"]


def test_a_transient_does_not_hide_in_its_own_error():
    run = synthetic_run(baseline=False)
    hot = replace(run, temperature_K=run.temperature_K + 500.0 * np.exp(-np.arange(4000) / 200.0))
    assert any("asked for" in w for w in warnings_of(hot))
    assert not any("asked for" in w for w in warnings_of(hot.after(run.time_fs[2000])))


@pytest.mark.parametrize(("slope", "drifts"), [(0.0, False), (2e-5, True)])
def test_a_drift_of_the_total_energy_at_constant_energy(slope, drifts):
    run = synthetic_run(baseline=False, ensemble="nve")
    noise = 0.01 * np.random.default_rng(0).normal(size=run.n_frames)
    run = replace(run, energy=-run.kinetic_energy + noise + slope * run.time_fs)
    assert any("total energy drifts" in w for w in warnings_of(run)) == drifts


def test_a_bias_needs_its_weights():
    run = synthetic_run(baseline=False, observables={"metadynamics_bias": np.ones(4000)})
    assert not any("biased" in w for w in warnings_of(run))  # it has no unit of an energy
    biased = replace(run, units={"metadynamics_bias": "eV"})
    assert any("metadynamics_bias" in w for w in warnings_of(biased))
    assert not any("without weights" in w for w in warnings_of(biased, unbiased=False))
    held = replace(run, attributes=run.attributes | {"constraints": "FixAtoms, Hookean"})
    assert any("Hookean adds forces" in w for w in warnings_of(held))


# ---------------------------------------------------------------------------------------------------------------------
# Short pieces of a right run
# ---------------------------------------------------------------------------------------------------------------------


def oscillators(*, friction, period, n_frames, n_runs, n_degrees=12, seed=0):
    """Kinetic and potential energies of harmonic oscillators under Langevin dynamics, kT: (n_runs, n_frames) each."""
    rng, w = np.random.default_rng(seed), 2 * np.pi / period
    x, p = rng.normal(size=(2, n_runs, n_degrees))
    x /= w
    kept, kicked = np.exp(-friction), np.sqrt(1 - np.exp(-2 * friction))
    energies = np.empty((n_frames, 2, n_runs))
    for frame in range(n_frames):
        p -= 0.5 * w**2 * x
        x += 0.5 * p
        p = kept * p + kicked * rng.normal(size=p.shape)
        x += 0.5 * p
        p -= 0.5 * w**2 * x
        energies[frame] = 0.5 * (p**2).sum(axis=1), 0.5 * w**2 * (x**2).sum(axis=1)
    return np.moveaxis(energies, 0, 2)


@pytest.mark.parametrize(("friction", "n_frames"), [(0.005, 500), (0.01, 1250), (0.05, 1000)])
@pytest.mark.parametrize("known", [True, False])
def test_no_piece_of_a_right_run_is_called_wrong(friction, n_frames, known):
    """Energies that relax slowly make a short run hotter or colder than its target, and its own error too small."""
    found = oscillators(friction=friction, period=23, n_frames=n_frames, n_runs=40)
    base, kt, failed = synthetic_run(n_frames=n_frames, baseline=False), units.kB * 300.0, []
    time = {"thermostat_time_fs": 5.0 / friction} if known else {}  # a frame every 5 fs
    for kinetic, potential in zip(*found, strict=True):
        energies = {"kinetic_energy": kinetic * kt, "energy": potential * kt, "temperature_K": kinetic * 300.0 / 6}
        run = replace(base, attributes=base.attributes | time, **energies)
        failed += [gate.name for gate in run_gates(run) if gate.failed]
    assert len(failed) <= 2
