"""Logs, read once: the same numbers as from arrays, and everything a log can hold."""

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.md.langevin import Langevin

from ase_uq import combine, reweight, reweight_log
from ase_uq.baseline import WeightedBaseline
from ase_uq.calculator import UQCalculator
from ase_uq.committee import CommitteeUncertainty
from ase_uq.errors import InputError
from ase_uq.logger import UncertaintyLogger
from ase_uq.observables import Histogram, MemberEnergies, RadialDistribution
from ase_uq.runlog import read_log

KELVIN = 80.0


def distance(atoms):
    return atoms.get_distance(0, 1, mic=True)


def record(path, *, steps=150, seed=0, baseline=False, observables=None, **options):
    atoms = bulk("Ar", cubic=True).repeat(2)
    members = [LennardJones(sigma=s, epsilon=0.0104, rc=5.2, smooth=True) for s in (3.38, 3.40, 3.42, 3.43)]
    atoms.calc = UQCalculator(CommitteeUncertainty(members))
    if baseline:
        cheap = LennardJones(sigma=3.45, epsilon=0.01, rc=5.2, smooth=True)
        atoms.calc = WeightedBaseline(atoms.calc, cheap, sigma_baseline=0.05)
    rng = np.random.default_rng(seed)
    spread = np.sqrt(atoms.get_masses() * units.kB * KELVIN)
    atoms.set_momenta(spread[:, None] * rng.standard_normal((len(atoms), 3)))
    dyn = Langevin(atoms, 4 * units.fs, temperature_K=KELVIN, friction=0.02 / units.fs, fixcm=False, rng=rng)
    observables = {"r": (distance, "Å")} if observables is None else observables
    with UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=KELVIN, observables=observables, **options) as log:
        dyn.attach(log)
        dyn.run(steps)
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    rdf = RadialDistribution("Ar", "Ar", r_max=5.2, n_bins=20)
    bins = Histogram(distance, np.linspace(2.5, 5.5, 7), axis_name="r", axis_unit="Å")
    observables = {"r": (distance, "Å"), "g": rdf, "bins": bins, "own": (MemberEnergies(), "eV")}
    path = tmp_path_factory.mktemp("logs") / "run.h5"
    return record(path, observables=observables, store=("positions",))


def arrays(path, start=0):
    run = read_log(path)
    return run, {
        "energy_members": run.energy_members_minus_energy[start:],
        "energy_reference": np.zeros(run.n_frames - start),
        "temperature_K": KELVIN,
    }


def assert_same(ours, theirs):
    for name in ("mean", "std_sampling", "std_model", "noise", "member_means", "std_model_naive", "max_std_h"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-7, atol=1e-12, err_msg=name)
    assert ours.warnings == theirs.warnings


@pytest.mark.parametrize("method", ["cea", "direct"])
def test_the_numbers_are_those_of_the_arrays(log, method):
    run, options = arrays(log)
    together = reweight_log(log, ["r", "g"], method=method)
    assert list(together) == ["r", "g"]
    assert together["g"].mean.shape == (20,)
    for name, ours in together.items():
        assert_same(
            reweight_log(log, [name], method=method)[name], reweight(run.observables[name], method=method, **options)
        )
        np.testing.assert_allclose(
            ours.member_means, reweight(run.observables[name], method=method, **options).member_means
        )


def test_bins_and_histograms(log):
    run, options = arrays(log)
    found = reweight_log(log, ["r", "bins"], method="gap")
    assert_same(found["r"], reweight(run.observables["r"], method="gap", **options))
    assert_same(found["bins"], reweight(run.observables["bins"], method="gap", **options))


def test_a_stretch_at_the_start_can_be_left_out(log):
    run, options = arrays(log, start=50)
    assert_same(reweight_log(log, ["r"], skip_fs=200.0)["r"], reweight(run.observables["r"][50:], **options))


def test_the_energy_of_a_member_goes_with_that_member(log):
    run, options = arrays(log)
    found = reweight_log(log, ["energy", "own", "volume"])
    paired = reweight(run.energy_members, observable_members="paired", **options)
    assert_same(found["energy"], paired)
    assert_same(found["own"], paired)
    assert found["volume"].std_total == 0.0


def test_observables_of_stored_positions(log):
    rdf = RadialDistribution("Ar", "Ar", r_max=5.2, n_bins=20)
    found = reweight_log(log, compute={"g": rdf})["g"]
    logged = reweight_log(log, ["g"])["g"]
    np.testing.assert_allclose(found.mean, logged.mean, atol=0.01)  # positions are in single precision
    assert found.mean[10:].max() > 2


def test_functions_of_averages(log):
    result = reweight_log(log, ["g"], functions={"g": lambda g: g[8] / g[12]})["g"]
    run, options = arrays(log)
    assert_same(result, reweight(run.observables["g"], function=lambda g: g[8] / g[12], **options))


def test_several_logs(tmp_path):
    paths = [record(tmp_path / f"{k}.h5", steps=25, seed=k) for k in range(9)]
    runs = [read_log(path) for path in paths]
    together = reweight_log(paths, ["r"])["r"]
    assert together.n_frames == 9 * 26
    assert together.n_blocks == 9
    values = np.concatenate([run.observables["r"] for run in runs])
    options = {
        "energy_members": np.concatenate([run.energy_members_minus_energy for run in runs]),
        "energy_reference": np.zeros(len(values)),
        "temperature_K": KELVIN,
    }
    assert_same(together, reweight(values, runs=np.repeat(np.arange(9), 26), **options))
    averages = [run.observables["r"].mean() for run in runs]
    assert together.std_sampling == pytest.approx(np.std(averages, ddof=1) / 3, rel=0.1)
    one, two = (reweight_log(path, ["r"])["r"] for path in paths[:2])
    assert combine(lambda a, b: b - a, one, two).n_frames == 52


def test_what_a_run_on_a_baseline_can_be_taken_to_mean(tmp_path):
    """Frozen weights give the members V_b + w (V_i - V_b), whose mean drove the run; the others are the members."""
    path = record(tmp_path / "run.h5", baseline=True, steps=100)
    run = read_log(path)
    assert run.weight.min() < 0.97
    mean = run.energy_baseline + (run.energy - run.energy_baseline) / run.weight
    members = mean[:, None] + run.energy_members_minus_energy / run.weight[:, None]
    options = {"energy_reference": run.energy, "temperature_K": KELVIN}
    driven = reweight_log(path, ["r"])["r"]
    assert_same(driven, reweight(run.observables["r"], energy_members=run.energy_members, **options))
    model = reweight_log(path, ["r"], target="model")["r"]
    theirs = reweight(run.observables["r"], energy_members=members, **options)
    np.testing.assert_allclose(model.member_means, theirs.member_means, rtol=1e-6)
    assert any("not the energy that drove" in w for w in model.warnings)
    assert not any("not the energy that drove" in w for w in driven.warnings)


def test_a_logged_bias(tmp_path):
    path = record(tmp_path / "run.h5", observables={"r": distance, "bias": (lambda a: 0.01 * distance(a), "eV")})
    run, options = arrays(path)
    found = reweight_log(path, ["r"], bias="bias")["r"]
    logs = run.observables["bias"] / (units.kB * KELVIN)
    assert_same(found, reweight(run.observables["r"], log_weights=logs, **options))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"observables": ["s"]}, r"must be in the log, got 's'; .* has: bins, g, own, r"),
        ({"observables": []}, "must name at least one"),
        ({"method": "gaps"}, "'cea', 'direct', 'gap'"),
        ({"target": "members"}, "'driven', 'model', got 'members'"),
        ({"skip_fs": 1e6}, "within the run of 600 fs"),
        ({"skip_fs": 590.0}, "at least 20 frames after `skip_fs`, got 3"),
        ({"compute": {"e": MemberEnergies()}}, "must be functions of the positions"),
        ({"bias": "b"}, "must be in the log, got 'b'"),
    ],
)
def test_bad_input(log, change, words):
    with pytest.raises(InputError, match=words):
        reweight_log(log, **{"observables": ["r"], **change})


def test_positions_must_be_there(tmp_path):
    path = record(tmp_path / "run.h5", steps=30)
    with pytest.raises(InputError, match="`positions` must be in the log"):
        reweight_log(path, compute={"r": distance})


def test_logs_of_different_runs_do_not_go_together(tmp_path, log):
    other = record(tmp_path / "run.h5", steps=30, baseline=True)
    with pytest.raises(InputError, match="has driver 'weighted_baseline'"):
        reweight_log([log, other], ["r"])
