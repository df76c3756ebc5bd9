"""A biased run says so by itself, and its averages are those without the bias, or are refused."""

import json

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import LinearCombinationCalculator, SumCalculator
from ase.constraints import FixAtoms, Hookean, MirrorForce
from ase.md.verlet import VelocityVerlet
from typer.testing import CliRunner

from ase_uq import OnlineReweighter, ThresholdSwitch, WeightedBaseline, read_log, reweight, reweight_log
from ase_uq.averages.run_checks import run_gates
from ase_uq.calculators.bias import BiasedCalculator
from ase_uq.calculators.calculator import UQCalculator
from ase_uq.calculators.committee import CommitteeUncertainty
from ase_uq.cli import app
from ase_uq.errors import InputError
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.observables import pressure
from ase_uq.report.averages import averages

KELVIN = 250.0
KT = units.kB * KELVIN
STIFFNESS = np.array([4.5, 4.8, 5.2, 5.5])


class Well(Calculator):
    """k x^2/2 for every coordinate, with a constant."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, k, constant=0.0, stress=0.0):
        super().__init__(k=k, constant=constant)
        self.k, self.constant, self.pull = k, constant, stress

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x = self.atoms.positions
        self.results = {"energy": self.constant + 0.5 * self.k * (x**2).sum(), "forces": -self.k * x}
        self.results["stress"] = np.full(6, self.pull)


def committee():
    return UQCalculator(CommitteeUncertainty([Well(k, constant=0.01 * i) for i, k in enumerate(STIFFNESS)]))


def square(atoms):
    return float((atoms.positions**2).sum())


def sample(path, calculator, *, stiffness, n=3000, seed=0, constraints=(), online=None, **options):
    """Log frames drawn from exp(-stiffness x^2/2kT), as a run under `calculator` would visit them."""
    atoms = Atoms("H", constraint=list(constraints))
    atoms.calc = calculator
    rng = np.random.default_rng(seed)
    options = {"temperature_K": KELVIN, "timestep_fs": 1.0, "observables": {"x2": square}, **options}
    averager = None if online is None else OnlineReweighter(atoms, temperature_K=KELVIN, **online)
    with UncertaintyLogger(path, atoms, **options) as log:
        for x in rng.normal(scale=np.sqrt(KT / stiffness), size=(n, 1, 3)):
            atoms.positions = x
            atoms.set_momenta(rng.normal(size=(1, 3)) * np.sqrt(KT * atoms.get_masses()[:, None]), False)
            atoms.get_forces()
            log()
            if averager is not None:
                averager()
    return averager


def without(stiffness):
    return 3 * KT / stiffness


@pytest.mark.slow
@pytest.mark.parametrize("extra", [-2.0, 3.0])
def test_averages_of_log_stream_report_and_arrays_leave_the_bias_out(tmp_path, extra):
    online = {"observables": {"x2": square}, "method": "direct"}
    calculator = BiasedCalculator(committee(), Well(extra, constant=-7.0))
    online = sample(tmp_path / "run.h5", calculator, stiffness=5.0 + extra, online=online)
    run = read_log(tmp_path / "run.h5")
    np.testing.assert_allclose(run.bias_energy, 0.5 * extra * run.observables["x2"] - 7.0, atol=1e-9)
    assert run.units["bias_energy"] == "eV"
    of_log = reweight_log(tmp_path / "run.h5", ["x2", "energy"], method="direct")
    members = {"energy_members": run.energy_members, "energy_reference": run.energy, "temperature_K": KELVIN}
    by_hand = reweight(run.observables["x2"], **members, log_weights=run.log_weights, method="direct")
    np.testing.assert_allclose(of_log["x2"].member_means, without(STIFFNESS), rtol=0.1)
    np.testing.assert_allclose(by_hand.member_means, of_log["x2"].member_means)
    np.testing.assert_allclose(online.results()["x2"].member_means, of_log["x2"].member_means)
    constants = 0.01 * np.arange(4)
    np.testing.assert_allclose(of_log["energy"].member_means - constants, 1.5 * KT, rtol=0.1)
    (of_report,) = averages(run)
    assert of_report.result.mean == pytest.approx(reweight_log(tmp_path / "run.h5", ["x2"])["x2"].mean)
    biased = reweight_log(tmp_path / "run.h5", ["x2"], bias=False)["x2"]
    assert biased.mean == pytest.approx(without(5.0 + extra), rel=0.05)


@pytest.mark.slow
def test_two_biases_count_together_and_keep_the_stress_apart(tmp_path):
    nested = BiasedCalculator(BiasedCalculator(committee(), Well(-1.0)), Well(-1.5, constant=2.0))
    sample(tmp_path / "run.h5", nested, stiffness=2.5)
    result = reweight_log(tmp_path / "run.h5", ["x2"], method="direct")["x2"]
    np.testing.assert_allclose(result.member_means, without(STIFFNESS), rtol=0.1)
    atoms, free = bulk("Cu"), bulk("Cu")
    free.calc = committee()
    atoms.calc = BiasedCalculator(BiasedCalculator(committee(), Well(1.0, stress=0.1)), Well(1.0, stress=0.3))
    assert pressure(atoms) == pytest.approx(pressure(free))
    assert atoms.get_stress()[0] == pytest.approx(free.get_stress()[0] + 0.4)


@pytest.mark.parametrize("bias", [None, "by_hand"])
def test_the_members_behind_a_biased_run_on_a_baseline_have_their_own_energies(tmp_path, bias):
    """V_i - U from the log against both evaluated apart: the bias is in neither."""
    baseline = {"sigma_baseline": 0.02, "offsets": {"H": 0.04}}
    blend = WeightedBaseline(committee(), Well(4.0), **baseline)
    observables = {"x2": square, "by_hand": (lambda a: float(a.calc.results["bias"]), "eV")}
    sample(tmp_path / "run.h5", BiasedCalculator(blend, Well(2.0, 3.0)), stiffness=7.0, n=40, observables=observables)
    result = reweight_log(tmp_path / "run.h5", ["energy"], target="model", bias=bias, method="direct")["energy"]
    run = read_log(tmp_path / "run.h5")
    assert 0.01 < run.weight.min() < 0.9
    # The frames again, of the same random numbers.
    rng, expected, driven = np.random.default_rng(0), [], []
    positions = rng.normal(scale=np.sqrt(KT / 7.0), size=(40, 1, 3))
    for x in positions:
        atoms = Atoms("H", positions=x)
        expected.append(committee().model.predict(atoms, []).energy_members)
        driven.append(WeightedBaseline(committee(), Well(4.0), **baseline).get_potential_energy(atoms))
    h = (np.array(expected) - np.array(driven)[:, None]) / KT
    weights = np.exp(run.log_weights[:, None] - 3.0 / KT - h)
    np.testing.assert_allclose(result.member_means, (weights * expected).sum(0) / weights.sum(0), rtol=1e-9)


def test_a_switch_under_a_bias_keeps_its_name_and_its_bias(tmp_path):
    switch = ThresholdSwitch(committee(), Well(5.0), threshold=0.02)
    sample(tmp_path / "run.h5", BiasedCalculator(switch, Well(-1.0)), stiffness=4.0, n=400)
    run = read_log(tmp_path / "run.h5")
    assert run.attributes["driver"] == "threshold_switch"
    assert {gate.name for gate in run_gates(run, unbiased=False) if gate.failed} >= {
        "switched between model and baseline"
    }
    np.testing.assert_allclose(run.bias_energy, -0.5 * run.observables["x2"], atol=1e-12)
    if (run.weight == 0).any():
        with pytest.raises(InputError, match="`target` 'model' needs a weight of the model above 0 in every frame"):
            reweight_log(tmp_path / "run.h5", ["x2"], target="model")


@pytest.mark.slow
@pytest.mark.parametrize("of_calculator", [False, True])
def test_constraints_with_an_energy_are_biases(tmp_path, of_calculator):
    spring = Hookean(0, (0.0, 0.0, 0.0), 3.0, rt=0.0)
    calculator = BiasedCalculator(committee(), Well(-1.0)) if of_calculator else committee()
    online = {"observables": {"x2": square}, "method": "direct"}
    stiffness = 7.0 if of_calculator else 8.0
    online = sample(tmp_path / "run.h5", calculator, stiffness=stiffness, constraints=[spring], online=online)
    run = read_log(tmp_path / "run.h5")
    atoms = Atoms("H", positions=[[0.1, 0.0, 0.2]], constraint=spring)
    atoms.calc = calculator
    seen = atoms.get_potential_energy()
    assert seen == pytest.approx(0.5 * stiffness * square(atoms) + 0.015)
    # The log has what the integrator saw.
    np.testing.assert_allclose(run.energy, 0.5 * stiffness * run.observables["x2"] + 0.015, atol=1e-9)
    result = reweight_log(tmp_path / "run.h5", ["x2"], method="direct")["x2"]
    np.testing.assert_allclose(result.member_means, without(STIFFNESS), rtol=0.15)
    np.testing.assert_allclose(online.results()["x2"].member_means, result.member_means)


def test_energy_is_conserved_with_a_constraint_that_pulls(tmp_path):
    atoms = Atoms("H2", positions=[[0.1, 0, 0], [0, 0.2, 0.3]], constraint=Hookean(0, 1, 9.0, rt=0.1))
    atoms.calc = committee()
    dyn = VelocityVerlet(atoms, 0.2 * units.fs)
    with UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=KELVIN) as log:
        dyn.attach(log)
        dyn.run(100)
    run = read_log(tmp_path / "run.h5")
    assert np.ptp(run.energy + run.kinetic_energy) < 0.01 * np.ptp(run.kinetic_energy)
    np.testing.assert_allclose(run.energy_members.mean(axis=1), run.energy)


def test_forces_without_an_energy_are_always_said(tmp_path):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]], constraint=MirrorForce(0, 1))
    atoms.calc = committee()
    atoms.get_forces()
    with UncertaintyLogger(tmp_path / "run.h5", atoms, temperature_K=KELVIN, timestep_fs=1.0) as log:
        log()
    for unbiased in (True, False):
        gates = run_gates(read_log(tmp_path / "run.h5"), unbiased=unbiased)
        assert [gate.name for gate in gates if gate.failed and "MirrorForce" in gate.sentence]


def test_atoms_that_cannot_move_have_no_temperature(tmp_path):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]], constraint=FixAtoms([0, 1]))
    atoms.calc = committee()
    atoms.get_forces()
    online = OnlineReweighter(atoms, temperature_K=KELVIN, observables={"x2": square})
    with UncertaintyLogger(tmp_path / "run.h5", atoms, temperature_K=KELVIN, timestep_fs=1.0) as log:
        log()
    online()
    assert read_log(tmp_path / "run.h5").temperature_K.tolist() == [0.0]


def test_logs_of_different_potentials_are_not_pooled(tmp_path):
    sample(tmp_path / "free.h5", committee(), stiffness=5.0, n=50)
    for name, k, seed in (("a", 1.0, 0), ("same", 1.0, 1), ("other", 2.0, 2)):
        sample(tmp_path / f"{name}.h5", BiasedCalculator(committee(), Well(k)), stiffness=5.0 + k, n=50, seed=seed)
    paths = {path.stem: path for path in tmp_path.glob("*.h5")}
    assert reweight_log([paths["a"], paths["same"]], ["x2"])["x2"].n_frames == 100
    for pair in (("a", "other"), ("a", "free"), ("free", "a")):
        with pytest.raises(InputError, match="reweigh them apart, or join states with `ase_uq.reweighting.multistate`"):
            reweight_log([paths[name] for name in pair], ["x2"])


def test_a_sum_around_a_model_is_refused_with_the_cure(tmp_path):
    atoms = Atoms("H")
    for calculator in (
        SumCalculator([committee(), Well(1.0)]),
        LinearCombinationCalculator([committee(), Well(1.0)], [0.5, 0.5]),
    ):
        atoms.calc = calculator
        atoms.get_forces()
        with pytest.raises(InputError, match=r"a bias by BiasedCalculator\(UQCalculator\(model\), bias\)"):
            UncertaintyLogger(tmp_path / "run.h5", atoms, temperature_K=KELVIN, timestep_fs=1.0)
        with pytest.raises(InputError, match=r"a bias by BiasedCalculator\(UQCalculator\(model\), bias\)"):
            OnlineReweighter(atoms, temperature_K=KELVIN, observables={"x2": square})()


def test_arrays_of_a_biased_run_come_with_a_word(tmp_path, caplog):
    sample(tmp_path / "free.h5", committee(), stiffness=5.0, n=30)
    assert read_log(tmp_path / "free.h5").log_weights is None
    assert not caplog.messages
    sample(tmp_path / "run.h5", BiasedCalculator(committee(), Well(1.0)), stiffness=6.0, n=30)
    read_log(tmp_path / "run.h5")
    assert "is of a biased run: averages of its frames need its `log_weights`" in caplog.text


def test_a_bias_named_by_hand_alone(tmp_path):
    """As logs of earlier versions have it: an observable, and nothing that says the run felt it."""
    blend = WeightedBaseline(committee(), Well(5.0), sigma_baseline=0.02)
    observables = {"x2": square, "bias_z": (lambda a: 0.5 * square(a), "eV")}
    sample(tmp_path / "run.h5", blend, stiffness=5.0, n=50, observables=observables)
    with pytest.raises(InputError, match="`bias` must name the energy of the bias for target 'model'"):
        reweight_log(tmp_path / "run.h5", ["x2"], target="model")
    reweight_log(tmp_path / "run.h5", ["x2"], target="model", bias="bias_z")


def test_a_bias_that_grows_is_called_out(tmp_path):
    class Growing(Well):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.constant += 0.001

    for name, bias, grows in (("grows", Growing(0.0), True), ("stays", Well(-1.0), False)):
        sample(tmp_path / f"{name}.h5", BiasedCalculator(committee(), bias), stiffness=5.0 + bias.k, n=300)
        gates = run_gates(read_log(tmp_path / f"{name}.h5"), unbiased=False)
        assert [g.failed for g in gates if g.name == "change of the bias along the run"] == [grows]


def test_a_biased_log_goes_on_with_the_same_bias_only(tmp_path):
    path = tmp_path / "run.h5"
    sample(path, BiasedCalculator(committee(), Well(1.0)), stiffness=6.0, n=30)
    for calculator in (BiasedCalculator(committee(), Well(2.0)), committee()):
        with pytest.raises(InputError, match="differs in bias|do not both have bias_energy"):
            sample(path, calculator, stiffness=6.0, n=1, append=True, start_step=30)
    sample(path, BiasedCalculator(committee(), Well(1.0)), stiffness=6.0, n=10, append=True, start_step=30)
    assert read_log(path).n_frames == 40


def test_the_command_line_uses_it_and_says_so(tmp_path):
    path = str(tmp_path / "run.h5")
    sample(path, BiasedCalculator(committee(), Well(-2.0)), stiffness=3.0, n=500)
    call = ["reweight", path, "--observable", "x2", "--method", "direct"]
    found = json.loads(CliRunner().invoke(app, [*call, "--json"]).stdout)
    assert found["mean"] == pytest.approx(reweight_log(path, ["x2"], method="direct")["x2"].mean)
    assert not any("averages were taken without weights" in warning for warning in found["warnings"])
    assert "driven with a bias; averages are of the run without it" in CliRunner().invoke(app, call).stdout
    kept = json.loads(CliRunner().invoke(app, [*call, "--keep-bias", "--json"]).stdout)
    assert kept["mean"] > 1.2 * found["mean"]
    assert any("averages were taken without weights" in warning for warning in kept["warnings"])


def test_a_bias_of_molecules_that_barely_touches(tmp_path):
    """A wall that is not felt in the first frames has weights all the same."""
    atoms = Atoms("H")
    wall = Well(0.0)
    atoms.calc = BiasedCalculator(committee(), wall)
    online = OnlineReweighter(atoms, temperature_K=KELVIN, observables={"x2": square})
    for i in range(200):
        wall.k = 0.0 if i < 100 else 5.0
        atoms.positions[0, 0] = 0.01 * (i % 13)
        atoms.get_forces()
        online()
    log_weights = np.array([0.0 if i < 100 else 2.5 * (0.01 * (i % 13)) ** 2 for i in range(200)]) / KT
    values = np.array([(0.01 * (i % 13)) ** 2 for i in range(200)])
    assert online.results()["x2"].mean == pytest.approx(np.average(values, weights=np.exp(log_weights)))


def test_lennard_jones_bias_in_a_cell(tmp_path):
    atoms = bulk("Ar", cubic=True)
    members = [LennardJones(sigma=s, epsilon=0.01, rc=5.0, smooth=True) for s in (3.3, 3.35, 3.4)]
    bias = LennardJones(sigma=3.0, epsilon=0.02, rc=5.0, smooth=True)
    atoms.calc = BiasedCalculator(UQCalculator(CommitteeUncertainty(members)), bias)
    atoms.get_stress()
    with UncertaintyLogger(tmp_path / "run.h5", atoms, temperature_K=KELVIN, timestep_fs=1.0) as log:
        log()
    assert read_log(tmp_path / "run.h5").bias_energy[0] == pytest.approx(bias.get_potential_energy(atoms))
