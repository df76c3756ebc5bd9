import json

import h5py
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.lj import LennardJones
from ase.io.trajectory import Trajectory
from ase.md.langevin import Langevin
from ase.md.nptberendsen import NPTBerendsen
from ase.md.verlet import VelocityVerlet

from ase_uq.calculators.baseline import WeightedBaseline
from ase_uq.calculators.calculator import UQCalculator
from ase_uq.calculators.committee import CommitteeUncertainty
from ase_uq.errors import InputError
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.log.reader import read_log
from ase_uq.uncertainty.prediction import Prediction
from tests.made.logged_runs import UNITS, Harmonic, assert_same, distance, fresh, oscillator, record


class CountingModel:
    model_hash = "0123abcd"

    def __init__(self, model):
        self.model = model
        self.implemented_properties = model.implemented_properties
        self.n_calls = 0

    def predict(self, atoms, properties):
        self.n_calls += 1
        return self.model.predict(atoms, properties)


def argon(seed=0):
    atoms = bulk("Ar", cubic=True)
    momenta = np.random.default_rng(seed).normal(size=(4, 3)) * np.sqrt(atoms.get_masses() * units.kB * 60)[:, None]
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    return atoms


def argon_model(alpha=1.4):
    return CountingModel(
        CommitteeUncertainty(
            [LennardJones(sigma=s, epsilon=0.0104, rc=6.0, smooth=True) for s in (3.3, 3.4, 3.5)], alpha=alpha
        )
    )


# ---------------------------------------------------------------------------------------------------------------------
# The contract
# ---------------------------------------------------------------------------------------------------------------------


def nve(atoms):
    return VelocityVerlet(atoms, timestep=2 * units.fs)


def langevin(atoms):
    return Langevin(
        atoms,
        timestep=2 * units.fs,
        temperature_K=60,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=np.random.RandomState(1),
    )


def npt(atoms):
    return NPTBerendsen(atoms, timestep=2 * units.fs, temperature_K=60, pressure_au=0.0, compressibility_au=1.0)


@pytest.mark.parametrize(("dynamics", "ensemble"), [(nve, "nve"), (langevin, "nvt"), (npt, "npt")])
def test_every_frame_is_what_the_integrator_saw(tmp_path, dynamics, ensemble):
    atoms, model = argon(), argon_model()
    atoms.calc = UQCalculator(model)
    dyn = dynamics(atoms)
    seen = []
    log = UncertaintyLogger(
        tmp_path / "run.h5",
        atoms,
        dyn=dyn,
        temperature_K=60.0,
        ensemble=ensemble,
        observables={"distance": (distance, "Å"), "x": lambda a: a.positions[0, 0]},
        store=("positions", "forces", "forces_var", "cell"),
    )
    with log, Trajectory(tmp_path / "run.traj", "w", atoms) as trajectory:
        dyn.attach(trajectory)
        dyn.attach(log)
        dyn.attach(lambda: seen.append((atoms.copy(), atoms.calc.prediction)))
        dyn.run(12)
    run = read_log(tmp_path / "run.h5")
    evaluations = {"npt": 2}.get(ensemble, 1)  # this barostat asks for the stress before it moves, and again after
    assert model.n_calls <= 12 * evaluations + 1
    assert run.n_frames == 13
    np.testing.assert_array_equal(run.step, np.arange(13))
    np.testing.assert_allclose(run.time_fs, 2.0 * np.arange(13), rtol=1e-14)
    for t, (frame, prediction) in enumerate(seen):
        assert run.energy[t] == prediction.energy
        assert run.energy_var[t] == prediction.energy_var
        np.testing.assert_array_equal(run.energy_members_minus_energy[t], prediction.energy_members - prediction.energy)
        np.testing.assert_allclose(run.energy_members[t], prediction.energy_members, rtol=1e-14)
        assert run.force_std_max[t] == prediction.force_std_norm.max()
        assert run.force_std_mean[t] == prediction.force_std_norm.mean()
        assert run.kinetic_energy[t] == frame.get_kinetic_energy()
        assert run.temperature_K[t] == frame.get_temperature()
        assert run.volume[t] == frame.get_volume()
        assert run.observables["distance"][t] == distance(frame)
        assert run.observables["x"][t] == frame.positions[0, 0]
        np.testing.assert_array_equal(run.positions[t], frame.positions.astype(np.float32))
        np.testing.assert_array_equal(run.forces[t], prediction.forces.astype(np.float32))
        np.testing.assert_array_equal(run.forces_var[t], prediction.forces_var.astype(np.float32))
        np.testing.assert_array_equal(run.cell[t], frame.cell.array.astype(np.float32))
    assert (np.ptp(run.volume) > 0) == (ensemble == "npt")


def test_one_model_evaluation_per_step(tmp_path):
    atoms, model = argon(), argon_model()
    atoms.calc = UQCalculator(model)
    dyn = nve(atoms)
    with Trajectory(tmp_path / "run.traj", "w", atoms) as trajectory:
        dyn.attach(trajectory)
        record(tmp_path / "run.h5", atoms, dyn, 15, observables={"d": distance}, store=("forces_var",))
    assert model.n_calls == 16


def test_root_attributes_datasets_and_units(tmp_path):
    atoms, dyn = oscillator(alpha=1.3)
    record(tmp_path / "run.h5", atoms, dyn, 3, observables={"distance": (distance, "Å"), "plain": distance})
    with h5py.File(tmp_path / "run.h5") as file:
        attributes = dict(file.attrs)
        numbers, cell, pbc = (attributes.pop(name) for name in ("numbers", "cell", "pbc"))
        versions = [attributes.pop(name) for name in ("ase_uq_version", "ase_version")]
        assert all(isinstance(v, str) and v for v in versions)
        assert len(attributes.pop("run_id")) == 32
        definition = json.loads(attributes.pop("definition"))
        assert definition["dynamics"] == {"class": "VelocityVerlet"}
        assert definition["interval"] == 1
        np.testing.assert_array_equal(numbers, [1, 1])
        assert (cell.tolist(), pbc.tolist()) == ([[0.0] * 3] * 3, [False] * 3)
        assert attributes == {
            "format": "ase_uq",
            "format_version": 1,
            "temperature_K": 300.0,
            "timestep_fs": pytest.approx(0.5, rel=1e-14),
            "ensemble": "nve",
            "n_members": 3,
            "ddof": 1,
            **dict.fromkeys(("alpha", "alpha_forces", "alpha_stress"), 1.3),
            "mean_share": 1 / 3,
            "dof": 2.0,
            "model": "Harmonic",
            "model_hash": "harmonic",
            "driver": "model",
            "forces_var": "exact",
            "forces_var_every": 1,
            "dynamics": "VelocityVerlet",
            "thermostat_time_fs": 0.0,
            "constraints": "",
            "exploded": b"",
        }
        assert set(file) == {*UNITS, "observables", "checksum"}
        for name, unit in UNITS.items():
            assert file[name].attrs["unit"] == unit
            assert len(file[name]) == 4
            assert file[name].dtype == (np.int64 if name == "step" else np.float64)
        assert file["energy_members_minus_energy"].shape == (4, 3)
        assert {name: d.attrs["unit"] for name, d in file["observables"].items()} == {"distance": "Å", "plain": ""}
    run = read_log(tmp_path / "run.h5")
    assert run.units == UNITS | {"distance": "Å", "plain": ""}
    assert run.attributes["alpha"] == 1.3
    assert type(run.attributes["n_members"]) is int
    assert np.isnan(run.volume).all()  # no cell
    assert run.weight is run.energy_baseline is run.positions is run.forces is run.forces_var is run.cell is None


def test_weighted_baseline_is_recorded(tmp_path):
    atoms = argon()
    model = argon_model(alpha=30.0)
    atoms.calc = WeightedBaseline(
        UQCalculator(model),
        LennardJones(sigma=3.45, epsilon=0.01, rc=6.0),
        sigma_baseline_per_atom=0.05,
        offsets={"Ar": -2.0},
    )
    dyn = nve(atoms)
    members = []

    def remember():
        own = model.predict(atoms, ())
        members.append(atoms.calc.results["weight"] * (own.energy_members - own.energy))

    dyn.attach(remember)
    record(tmp_path / "run.h5", atoms, dyn, 4, ensemble="nve")
    run = read_log(tmp_path / "run.h5")
    assert run.attributes["driver"] == "weighted_baseline"
    assert run.attributes["sigma_baseline"] == pytest.approx(0.2)
    assert run.attributes["energy_offsets"] == '{"Ar": -2.0}'
    assert run.attributes["alpha"] == 30.0
    assert run.weight[-1] == atoms.calc.results["weight"] < 1
    assert run.energy_baseline[-1] == atoms.calc.results["energy_baseline"]
    assert run.energy[-1] == atoms.get_potential_energy()
    assert run.energy_var[-1] == model.predict(atoms, ()).energy_var
    # Blended members: what reweighing of this run needs.
    np.testing.assert_allclose(run.energy_members_minus_energy, members, atol=1e-12)
    np.testing.assert_allclose(run.energy_members.mean(axis=1), run.energy, atol=1e-12)
    assert run.units["weight"] == "1"


def test_a_large_common_energy_costs_no_digits(tmp_path):
    class Offset(Harmonic):
        def predict(self, atoms, properties):
            p = super().predict(atoms, properties)
            energies = p.energy_members - p.energy_members.mean() - 2.0**18  # exact in binary up to the mean
            return Prediction.from_members(energies=energies, forces=np.zeros((3, 2, 3)))

    atoms, dyn = oscillator()
    atoms.calc = UQCalculator(Offset(atoms.calc.model.sites))
    record(tmp_path / "run.h5", atoms, dyn, 2)
    run = read_log(tmp_path / "run.h5")
    stored = run.energy_members_minus_energy[-1]
    np.testing.assert_array_equal(stored, atoms.calc.prediction.energy_members - atoms.calc.prediction.energy)


def test_a_model_without_uncertainties_leaves_its_datasets_out(tmp_path):
    class Silent:
        def predict(self, atoms, properties):
            return Prediction(energy=1.0, forces=np.zeros((len(atoms), 3)), energy_var_epistemic=0.25)

    atoms, dyn = oscillator()
    atoms.calc = UQCalculator(Silent())
    record(tmp_path / "run.h5", atoms, dyn, 2, store=("forces", "forces_var"))
    run = read_log(tmp_path / "run.h5")
    np.testing.assert_array_equal(run.energy_var, [0.25] * 3)
    assert run.energy_members is run.force_std_max is run.force_std_mean is run.forces_var is None
    assert run.forces.shape == (3, 2, 3)
    assert run.attributes["n_members"] == 0


def test_interval_and_calls_without_dynamics(tmp_path):
    atoms, dyn = oscillator()
    with UncertaintyLogger(tmp_path / "every7.h5", atoms, dyn=dyn, temperature_K=300) as log:
        dyn.attach(log, interval=7)
        dyn.run(30)
    assert read_log(tmp_path / "every7.h5").step.tolist() == [0, 7, 14, 21, 28]
    with UncertaintyLogger(tmp_path / "free.h5", atoms, timestep_fs=2.0, temperature_K=300, start_step=5) as log:
        for _ in range(3):
            atoms.rattle(0.01)
            atoms.get_forces()
            log()
    assert read_log(tmp_path / "free.h5").step.tolist() == [5, 6, 7]
    assert read_log(tmp_path / "free.h5").time_fs.tolist() == [10.0, 12.0, 14.0]


def test_arrays_of_many_atoms_fit(tmp_path):
    atoms = Atoms("H70000", positions=np.random.default_rng(0).normal(size=(70_000, 3)))
    atoms.calc = UQCalculator(Harmonic(np.zeros(3)))
    dyn = VelocityVerlet(atoms, timestep=units.fs)
    record(tmp_path / "run.h5", atoms, dyn, 1, store=("positions",))
    run = read_log(tmp_path / "run.h5")
    assert len(run.attributes["numbers"]) == 70_000
    np.testing.assert_array_equal(run.positions[1], atoms.positions.astype(np.float32))
    assert read_log(tmp_path / "run.h5", per_atom=False).positions is None


# ---------------------------------------------------------------------------------------------------------------------
# While it runs
# ---------------------------------------------------------------------------------------------------------------------


def test_all_frames_are_there_when_the_run_ends_without_a_close(tmp_path):
    atoms, dyn = oscillator()
    log = UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=300)
    dyn.attach(log, interval=3)
    for n, expected in ((250, 84), (100, 117)):
        dyn.run(n)
        assert read_log(tmp_path / "run.h5").n_frames == expected
    log.close()
    log.close()
    with pytest.raises(InputError, match="`log` is closed"):
        log()


def test_a_growing_log_is_readable_and_its_frames_never_change(tmp_path):
    atoms, dyn = oscillator()
    lengths, logs = [], []
    with UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=300, flush_every=8) as log:
        dyn.attach(log)
        dyn.attach(lambda: logs.append(read_log(tmp_path / "run.h5")), interval=5)
        dyn.attach(lambda: lengths.append(logs[-1].n_frames), interval=5)
        dyn.run(60)
    whole = read_log(tmp_path / "run.h5")
    assert lengths[0] == 1
    assert lengths[-1] == 61
    for t, n in zip(range(0, 61, 5), lengths, strict=True):
        assert t + 1 - 8 <= n <= t + 1
    for run in logs:
        np.testing.assert_array_equal(run.energy, whole.energy[: run.n_frames])


def test_nothing_is_written_before_the_first_frame_and_nothing_half_made_is_left(tmp_path):
    atoms, dyn = oscillator()
    log = UncertaintyLogger(
        tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=300, observables={"bad": lambda a: "far"}
    )
    assert list(tmp_path.iterdir()) == []
    dyn.attach(log)
    with pytest.raises(
        InputError, match=r"`observables\['bad'\]` must return a number or an array of numbers, got 'far'"
    ):
        dyn.run(1)
    log.close()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------------
# Restarts
# ---------------------------------------------------------------------------------------------------------------------


def test_a_restart_neither_repeats_nor_loses_a_frame(tmp_path):
    atoms, dyn = oscillator()
    record(tmp_path / "whole.h5", atoms, dyn, 90, observables={"d": distance})
    atoms, dyn = oscillator()
    record(tmp_path / "run.h5", atoms, dyn, 40, observables={"d": distance}, append=True)  # begins a missing file
    record(tmp_path / "run.h5", atoms, fresh(atoms), 30, observables={"d": distance}, append=True)
    record(tmp_path / "run.h5", atoms, fresh(atoms), 20, observables={"d": distance}, append=True)
    assert_same(read_log(tmp_path / "run.h5"), read_log(tmp_path / "whole.h5"))
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["run.h5", "whole.h5"]


def test_a_restart_from_an_older_checkpoint_drops_the_frames_beyond(tmp_path):
    atoms, dyn = oscillator()
    record(tmp_path / "whole.h5", atoms, dyn, 90)
    atoms, dyn = oscillator()
    dyn.run(50)
    checkpoint = atoms.copy()
    checkpoint.calc = atoms.calc
    atoms, dyn = oscillator()
    record(tmp_path / "run.h5", atoms, dyn, 64)
    record(tmp_path / "run.h5", checkpoint, fresh(checkpoint), 40, append=True, start_step=50)
    assert_same(read_log(tmp_path / "run.h5"), read_log(tmp_path / "whole.h5"))


def test_the_same_dynamics_can_go_on_with_another_logger(tmp_path):
    atoms, dyn = oscillator()
    record(tmp_path / "whole.h5", atoms, dyn, 30)
    atoms, dyn = oscillator()
    record(tmp_path / "run.h5", atoms, dyn, 10)
    dyn.observers.clear()
    record(tmp_path / "run.h5", atoms, dyn, 20, append=True)
    assert_same(read_log(tmp_path / "run.h5"), read_log(tmp_path / "whole.h5"))


def test_a_wrong_restart_frame_is_noticed_and_the_log_is_untouched(tmp_path):
    path = tmp_path / "run.h5"
    atoms, dyn = oscillator()
    record(path, atoms, dyn, 40)
    before = path.read_bytes()
    dyn.observers.clear()
    dyn.run(7)
    with pytest.raises(InputError, match="`atoms` must be at step 40 of"):
        record(path, atoms, fresh(atoms), 5, append=True)
    with pytest.raises(InputError, match=r"`start_step` must not leave a gap, .* ends at step 40, got 47"):
        record(path, atoms, fresh(atoms), 5, append=True, start_step=47)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"temperature_K": 350.0}, r"differs in temperature_K \(300.0 there, 350.0 here\)"),
        ({"ensemble": "nvt"}, r"differs in ensemble \('nve' there, 'nvt' here\)"),
        ({"timestep_fs": 1.0}, r"differs in timestep_fs \(0.5 there, 1.0 here\)"),
        ({"observables": {"d": distance, "e": distance}}, "do not both have observables/e"),
        ({"observables": {}}, "do not both have observables/d"),
        ({"store": ("cell",)}, "do not both have cell"),
        ({"hash_": "another model"}, r"differs in model_hash \('harmonic' there, 'another model' here\)"),
        ({"alpha": 2.0}, r"differs in alpha \(1.0 there, 2.0 here\)"),
    ],
)
def test_a_log_of_another_run_is_not_continued(tmp_path, change, sentence):
    path = tmp_path / "run.h5"
    atoms, dyn = oscillator()
    options = {"observables": {"d": distance}, "timestep_fs": 0.5}
    record(path, atoms, dyn, 5, **options)
    before = path.read_bytes()
    change = dict(change)
    model = {name: change.pop(name) for name in ("hash_", "alpha") if name in change}
    atoms.calc = UQCalculator(Harmonic(atoms.calc.model.sites, **model))
    with pytest.raises(InputError, match=sentence):
        record(path, atoms, fresh(atoms), 5, append=True, **{**options, **change})
    assert path.read_bytes() == before


def test_other_elements_or_a_baseline_are_another_run(tmp_path):
    path = tmp_path / "run.h5"
    atoms, dyn = oscillator()
    record(path, atoms, dyn, 5)
    heavy = atoms.copy()
    heavy.numbers[0] = 2
    heavy.calc = atoms.calc
    with pytest.raises(InputError, match="differs in the elements"):
        record(path, heavy, fresh(heavy), 5, append=True)
    model = argon_model()
    atoms = argon()
    atoms.calc = UQCalculator(model)
    record(tmp_path / "argon.h5", atoms, nve(atoms), 2)
    atoms.calc = WeightedBaseline(UQCalculator(model), LennardJones(), sigma_baseline=1.0)
    with pytest.raises(InputError, match=r"differs in driver \('model' there, 'weighted_baseline' here\)"):
        record(tmp_path / "argon.h5", atoms, nve(atoms), 2, append=True)


def test_an_existing_file_is_refused_or_overwritten(tmp_path):
    path = tmp_path / "run.h5"
    atoms, dyn = oscillator()
    record(path, atoms, dyn, 5)
    with pytest.raises(InputError, match=r"`path` must not exist yet, .*run\.h5 does; pass append=True"):
        record(path, atoms, fresh(atoms), 2)
    record(path, atoms, fresh(atoms), 2, overwrite=True)
    assert read_log(path).n_frames == 3


# ---------------------------------------------------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature_K": -1.0}, "`temperature_K` must be a positive number of kelvin, got -1.0"),
        ({"ensemble": "muvt"}, "`ensemble` must be one of nve, nvt, npt, nph, got 'muvt'"),
        ({"store": ("velocities",)}, "`store` must name any of positions, forces, forces_var, cell, got 'velocities'"),
        ({"flush_every": 0}, "`flush_every` must be at least 1 frame, got 0"),
        ({"append": True, "overwrite": True}, "`append` and `overwrite` exclude each other"),
        ({"timestep_fs": 0.0}, "`timestep_fs` must be a positive number of fs, got 0.0"),
        ({"observables": {"a/b": distance}}, "`observables` must not use the name 'a/b'"),
        ({"observables": {"energy": distance}}, "`observables` must not use the name 'energy'"),
        ({"observables": {"d": "distance"}}, r"`observables\['d'\]` must be a function of the atoms"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, sentence):
    atoms, dyn = oscillator()
    with pytest.raises(InputError, match=sentence):
        UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, **{"temperature_K": 300.0, **options})
    assert list(tmp_path.iterdir()) == []


def test_other_bad_arguments_are_refused(tmp_path):
    atoms, dyn = oscillator()
    with pytest.raises(InputError, match="`timestep_fs` is needed where `dyn` has no time step"):
        UncertaintyLogger(tmp_path / "run.h5", atoms, temperature_K=300)
    with pytest.raises(InputError, match="`dyn` must be ASE dynamics that count steps, got float"):
        UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=0.5, temperature_K=300)
    with pytest.raises(InputError, match="`path` must lie in an existing folder"):
        UncertaintyLogger(tmp_path / "no" / "run.h5", atoms, dyn=dyn, temperature_K=300)
    atoms.calc = LennardJones()
    with pytest.raises(InputError, match=r"`atoms.calc` must be a calculator of ase_uq, got LennardJones"):
        UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=300)


def test_atoms_moved_since_the_evaluation_are_refused(tmp_path):
    atoms, dyn = oscillator()
    log = UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=300)
    atoms.get_forces()
    atoms.rattle(0.1)
    with pytest.raises(InputError, match="`atoms` must be as the calculator evaluated them, positions changed since"):
        log()


def test_an_energy_that_is_not_finite_stops_after_what_came_before(tmp_path):
    class Breaks(Harmonic):
        broken = False

        def predict(self, atoms, properties):
            p = super().predict(atoms, properties)
            object.__setattr__(p, "energy", np.nan if self.broken else p.energy)
            return p

    atoms, dyn = oscillator()
    atoms.calc = UQCalculator(Breaks(atoms.calc.model.sites))
    log = UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=300)
    dyn.attach(log)
    dyn.insert_observer(lambda: setattr(atoms.calc.model, "broken", dyn.nsteps >= 6))
    with pytest.raises(InputError, match="`energy` must be finite, step 7 has a potential energy of nan eV"):
        dyn.run(50)
    assert read_log(tmp_path / "run.h5").step.tolist() == list(range(7))


def test_a_changing_number_of_atoms_is_refused(tmp_path):
    atoms, dyn = oscillator()
    log = UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=300, store=("positions",))
    atoms.get_forces()
    log()
    del atoms[1]
    atoms.calc.model.sites = atoms.calc.model.sites[:1]
    atoms.get_forces()
    dyn.nsteps += 1
    with pytest.raises(InputError, match=r"`positions` must keep its shape \(2, 3\) along the run, got \(1, 3\)"):
        log()


def test_swapping_the_calculator_is_noticed(tmp_path):
    atoms, model = argon(), argon_model()
    atoms.calc = UQCalculator(model)
    log = UncertaintyLogger(tmp_path / "run.h5", atoms, timestep_fs=1.0, temperature_K=60)
    atoms.get_forces()
    log()
    atoms.calc = WeightedBaseline(atoms.calc, LennardJones(), sigma_baseline=1.0)
    atoms.get_forces()
    with pytest.raises(InputError, match="same fields along the run, energy_baseline, weight changed"):
        log()


def test_the_calculator_is_not_evaluated_by_the_logger(tmp_path):
    atoms, model = argon(), argon_model()
    atoms.calc = UQCalculator(model)
    log = UncertaintyLogger(tmp_path / "run.h5", atoms, timestep_fs=1.0, temperature_K=60)
    with pytest.raises(InputError, match="changed since"):
        log()
    atoms.calc.calculate(atoms, ["energy"], all_changes)
    log()
    assert model.n_calls == 1
