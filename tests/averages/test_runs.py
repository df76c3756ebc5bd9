"""Logs, read once: the same numbers as from arrays, and everything a log can hold."""

import json
import shutil
import tracemalloc

import h5py
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.md.langevin import Langevin

from ase_uq import combine, difference, reweight, reweight_log
from ase_uq.averages import free_energy_of_run, of_run
from ase_uq.averages.run_checks import run_gates
from ase_uq.calculators.baseline import WeightedBaseline
from ase_uq.calculators.calculator import UQCalculator
from ase_uq.calculators.committee import CommitteeUncertainty
from ase_uq.errors import InputError
from ase_uq.log.columns import KINDS, Column
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.log.reader import read_log
from ase_uq.log.writer import FrameWriter
from ase_uq.observables import Histogram, MemberEnergies, RadialDistribution
from ase_uq.report.build import build_report
from ase_uq.reweighting.free_energy import free_energy_profile

KELVIN = 80.0
RELAXATION_FRAMES = 50.0 / 4.0  # of the thermostat, every step of 4 fs being logged


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


def written(path, energy, deviations, *, observables=None, more=None, **attributes):
    """A log of given energies at 300 K."""
    n, m = deviations.shape
    values = {name: np.zeros(n) for name in ("kinetic_energy", "temperature_K", "volume")}
    values |= {"step": np.arange(n), "time_fs": np.arange(float(n)), "energy": energy, **(more or {})}
    columns = [KINDS[name].column() for name in values]
    columns.append(KINDS["energy_members_minus_energy"].column((m,)))
    values["energy_members_minus_energy"] = deviations
    for name, (series, unit) in (observables or {}).items():
        columns.append(Column(f"observables/{name}", unit))
        values[f"observables/{name}"] = series
    root = {"temperature_K": 300.0, "n_members": m, "alpha": 1.0, "driver": "model", **attributes}
    writer = FrameWriter(path, columns, root, flush_every=256)
    writer.publish()
    writer.extend(values)
    writer.close()
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return with_bins(tmp_path_factory.mktemp("logs") / "run.h5")


def with_bins(path, **options):
    rdf = RadialDistribution("Ar", "Ar", r_max=5.2, n_bins=20)
    bins = Histogram(distance, np.linspace(2.5, 5.5, 7), axis_name="r", axis_unit="Å")
    observables = {"r": (distance, "Å"), "g": rdf, "bins": bins, "own": (MemberEnergies(), "eV")}
    return record(path, observables=observables, store=("positions",), **options)


def arrays(path, start=0):
    run = read_log(path)
    return run, {
        "energy_members": run.energy_members[start:],
        "energy_reference": run.energy[start:],
        "temperature_K": KELVIN,
        "relaxation_frames": RELAXATION_FRAMES,
    }


def assert_same(ours, theirs):
    for name in ("mean", "std_sampling", "std_model", "noise", "member_means", "std_model_naive", "max_std_h"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-7, atol=1e-12, err_msg=name)
    # In front are those of the run, which arrays do not know.
    assert ours.warnings[len(ours.warnings) - len(theirs.warnings) :] == theirs.warnings


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


def test_what_is_not_averaged_is_not_held_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    many = {f"o{k}": (rng.normal(size=20_000), "") for k in range(60)}
    path = written(tmp_path / "run.h5", rng.normal(size=20_000), 0.01 * rng.normal(size=(20_000, 4)), observables=many)
    of_run(path, ["o0"])
    tracemalloc.start()
    of_run(path, ["o0"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * sum(values.nbytes for values, _ in many.values())


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
        "energy_members": np.concatenate([run.energy_members for run in runs]),
        "energy_reference": np.concatenate([run.energy for run in runs]),
        "temperature_K": KELVIN,
        "relaxation_frames": RELAXATION_FRAMES,
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
    options = {
        "energy_reference": run.energy,
        "temperature_K": KELVIN,
        "relaxation_frames": RELAXATION_FRAMES,
    }
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


def edited(path, name, change):
    """A copy of a log with something else in it."""
    shutil.copy(path, path.with_name(name))
    with h5py.File(path.with_name(name), "r+") as file:
        change(file)
    return path.with_name(name)


def test_a_heat_capacity_and_an_energy_are_those_of_the_free_system(tmp_path):
    """Springs of 6 momenta under a bias of half their stiffness: 3 kT and 3 kB, whatever the bias."""
    rng, kT, n = np.random.default_rng(0), units.kB * 300.0, 40_000
    x = rng.normal(size=(n, 6)) * np.sqrt(2 * kT)  # sampled at half the stiffness of the system, 1 eV/Å^2
    energy, bias = 0.5 * (x**2).sum(axis=1), -0.25 * (x**2).sum(axis=1)
    stiffness = np.array([-0.05, 0.0, 0.05])
    path = written(
        tmp_path / "biased.h5", energy + bias, stiffness * energy[:, None], observables={"bias": (bias, "eV")}
    )
    found = reweight_log(path, ["energy", "heat_capacity"], bias="bias", method="direct")
    np.testing.assert_allclose(found["energy"].member_means, 3 * kT, rtol=0.03)
    np.testing.assert_allclose(found["heat_capacity"].member_means, 3 * units.kB, rtol=0.1)


def test_energies_of_the_members_themselves_on_a_baseline(tmp_path):
    """V_b and the members are springs: under its own energies every member has 3 kT."""
    rng, kT, n = np.random.default_rng(1), units.kB * 300.0, 40_000
    w, k = 0.6, np.array([0.9, 1.0, 1.1])
    driven = 0.8 + w * (1.0 - 0.8)  # stiffness of U = V_b + w (V - V_b), with w constant and V_b of stiffness 0.8
    half = 0.5 * (rng.normal(size=(n, 6)) ** 2 * kT / driven).sum(axis=1)
    path = written(
        tmp_path / "baseline.h5",
        driven * half,
        w * (k - 1.0) * half[:, None],
        more={"weight": np.full(n, w), "energy_baseline": 0.8 * half},
        driver="weighted_baseline",
    )
    model = reweight_log(path, ["energy"], target="model", method="direct")["energy"]
    np.testing.assert_allclose(model.member_means, 3 * kT, rtol=0.03)


def test_free_energies_of_several_logs(tmp_path):
    paths = [record(tmp_path / f"{k}.h5", steps=30, seed=k) for k in range(2)]
    centres, free = free_energy_of_run(paths, "r", bins=5)
    runs = [read_log(path) for path in paths]
    theirs_at, theirs = free_energy_profile(
        np.concatenate([run.observables["r"] for run in runs]),
        bins=5,
        energy_members=np.concatenate([run.energy_members_minus_energy for run in runs]),
        energy_reference=np.zeros(62),
        temperature_K=KELVIN,
    )
    np.testing.assert_allclose(centres, theirs_at)
    np.testing.assert_allclose(free.mean, theirs.mean, rtol=1e-9, atol=1e-12)
    assert free.n_frames == 62


def test_logs_must_belong_together(tmp_path, log):
    def set_numbers(file):
        file.attrs["numbers"] = np.full(32, 36, dtype=np.uint8)

    def move_axis(file):
        file["observables/bins"].attrs["axis"] = np.arange(6.0)

    def forget(file):
        del file["observables/bins"]

    other = with_bins(tmp_path / "other.h5", seed=1, steps=30)
    for change, words in [
        (set_numbers, "has other numbers"),
        (move_axis, "with one shape, unit and axis"),
        (forget, "must be in the log, got 'bins'"),
    ]:
        with pytest.raises(InputError, match=words):
            reweight_log([log, edited(other, f"{change.__name__}.h5", change)], ["bins"])
    with pytest.raises(InputError, match="was given twice"):
        reweight_log([log, log], ["r"])


@pytest.mark.parametrize("name", ["g", "own", "r", "energy"])
def test_a_bias_is_a_number_in_electronvolts(log, name):
    with pytest.raises(InputError, match="`bias` must be a logged number in eV"):
        reweight_log(log, ["r"], bias=name)


def test_a_log_that_does_not_know_its_cell_computes_nothing(log):
    def forget(file):
        del file.attrs["cell"], file.attrs["pbc"]

    with pytest.raises(InputError, match="of a version that did not write it"):
        reweight_log(edited(log, "old.h5", forget), compute={"r": distance})


def test_a_log_is_not_continued_with_other_bins(tmp_path):
    path = record(
        tmp_path / "run.h5", steps=25, observables={"g": RadialDistribution("Ar", "Ar", r_max=5.2, n_bins=20)}
    )
    for changed in (RadialDistribution("Ar", "Ar", r_max=5.0, n_bins=20), RadialDistribution("Ar", "Ar", r_max=5.2)):
        with pytest.raises(InputError, match="differs in observables.g"):
            record(path, steps=5, observables={"g": changed}, append=True, start_step=25)


def test_logs_of_different_runs_do_not_go_together(tmp_path, log):
    other = record(tmp_path / "run.h5", steps=30, baseline=True)
    with pytest.raises(InputError, match="has driver weighted_baseline"):
        reweight_log([log, other], ["r"])


# ---------------------------------------------------------------------------------------------------------------------
# One road: from a file and from memory, from names and from texts
# ---------------------------------------------------------------------------------------------------------------------


def assert_equal(ours, theirs):
    assert list(ours) == list(theirs)
    for name in ours:
        for field in ("mean", "std_sampling", "std_model", "noise", "member_means", "ess", "max_std_h"):
            np.testing.assert_array_equal(getattr(ours[name], field), getattr(theirs[name], field), err_msg=field)
        for field in ("warnings", "gates", "unit", "n_frames", "law"):
            assert getattr(ours[name], field) == getattr(theirs[name], field), field


@pytest.mark.parametrize(
    "options",
    [
        {"observables": ["r", "g", "bins", "own", "energy", "heat_capacity", "volume"]},
        {"observables": ["r", "bins"], "method": "gap", "skip_fs": 120.0},
        {"observables": ["r", "own"], "method": "direct", "skip_fs": 4.0},
        {"compute": {"g": RadialDistribution("Ar", "Ar", r_max=5.2, n_bins=20), "r": (distance, "nm")}},
        {},
    ],
)
def test_a_run_in_memory_and_its_file_give_equal_numbers(log, options):
    run = read_log(log)
    assert_equal(of_run(run, **options), of_run(log, **options))
    assert_equal(of_run(run, run_checks=False, **options), of_run(log, run_checks=False, **options))


def test_a_baseline_several_runs_and_a_free_energy_from_memory(tmp_path):
    paths = [record(tmp_path / f"{k}.h5", steps=30, seed=k, baseline=True) for k in range(2)]
    runs = [read_log(path) for path in paths]
    for options in ({}, {"target": "model"}, {"bias": False}):
        assert_equal(of_run(runs, ["r", "energy"], **options), of_run(paths, ["r", "energy"], **options))
    (at, ours), (there, theirs) = (free_energy_of_run(each, "r", bins=5) for each in (runs, paths))
    np.testing.assert_array_equal(at, there)
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    assert (ours.unit, ours.axis.name, ours.axis.unit) == ("eV", "r", "Å")
    assert_equal(of_run([runs[0], paths[1]]), of_run(paths))
    with pytest.raises(InputError, match="was given twice"):
        of_run([runs[0], runs[0]])
    with pytest.raises(InputError, match="`runs` must hold at least one"):
        of_run([])


def test_all_that_was_logged_is_averaged_by_default_with_what_it_says_of_itself(log):
    found = of_run(log)
    assert list(found) == ["bins", "g", "own", "r"]
    assert {name: result.unit for name, result in found.items()} == {"bins": "", "g": "1", "own": "eV", "r": "Å"}
    assert {name: r.axis and (r.axis.name, r.axis.unit) for name, r in found.items()} == {
        "bins": ("r", "Å"), "g": ("r", "Å"), "own": None, "r": None,
    }  # fmt: skip
    capacity = of_run(log, ["heat_capacity"])["heat_capacity"]
    assert capacity.unit == "eV/K"
    # A function of an average has a unit of its own.
    assert of_run(log, ["g"], functions={"g": lambda g: g[8] / g[12]})["g"].unit == ""


def test_the_checks_of_the_run_are_told_once_where_they_are_asked_for(log):
    run = read_log(log)
    both, alone = of_run(run, ["r"])["r"], of_run(run, ["r"], run_checks=False)["r"]
    gates = run_gates(run)
    assert both.gates == (*gates, *alone.gates)
    later = of_run(run, ["r"], skip_fs=100.0)["r"]
    assert later.gates[: len(gates)] == run_gates(run.after(100.0))


@pytest.mark.parametrize("skip_fs", [601.0, -1.0, np.nan])
def test_what_is_left_out_has_one_rule_and_one_message(log, skip_fs):
    run = read_log(log)
    for ask in (of_run, free_energy_of_run):
        for source in (log, run):
            with pytest.raises(InputError, match="`skip_fs` must lie within the run of 600 fs, got"):
                ask(source, "r" if ask is free_energy_of_run else ["r"], skip_fs=skip_fs)
    with pytest.raises(InputError, match="`skip_fs` must lie within the run of 600 fs, got"):
        run.after(skip_fs)
    with pytest.raises(InputError, match="`skip_fs` must lie within the run of 600 fs, got"):
        build_report(run, skip_fs=skip_fs)


def test_frames_of_a_run_are_cut_in_everything_that_has_frames(log):
    run = read_log(log)
    kept = run.after(40.0)
    assert (kept.n_frames, kept.time_fs[0]) == (run.n_frames - 10, 40.0)
    lengths = {len(getattr(kept, name)) for name in KINDS if getattr(kept, name) is not None}
    assert lengths | {len(values) for values in kept.observables.values()} == {kept.n_frames}
    assert len(kept.energy_members) == kept.n_frames
    assert run.after(0.0) is run
    third = run.frames(slice(None, None, 3))
    assert third.energy_members_minus_energy.relaxation_frames == pytest.approx(RELAXATION_FRAMES / 3)


def test_a_result_in_plain_numbers(log):
    found = of_run(log, ["r", "g"])
    for result in found.values():
        told = json.loads(json.dumps(result.to_dict()))
        assert told["mean"] == np.asarray(result.mean).tolist()
        assert (told["n_frames"], told["method"], told["warnings"]) == (151, "cea", list(result.warnings))
    assert "unit" not in found["r"].to_dict()
    assert found["g"].to_dict()["unit"] == "1"
    assert found["g"].to_dict()["axis"]["centres"] == found["g"].axis.centres.tolist()
    assert found["r"].mapped(np.square).unit == ""
    assert combine(lambda a, b: a - b, found["r"], found["r"]).unit == ""
    assert difference(found["r"], found["r"]).unit == "Å"
