from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces
from ase.calculators.lj import LennardJones
from ase.io import read
from ase.io.trajectory import Trajectory
from ase.md.verlet import VelocityVerlet
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ase_uq.calculators.baseline import WeightedBaseline
from ase_uq.calculators.bias import BiasedCalculator
from ase_uq.calculators.calculator import UQCalculator
from ase_uq.calculators.carried import copy_uncertainty
from ase_uq.calculators.committee import CommitteeUncertainty
from ase_uq.calculators.threshold import ThresholdSwitch
from ase_uq.errors import InputError
from ase_uq.uncertainty.blend import Blend
from ase_uq.uncertainty.prediction import Prediction

# ---------------------------------------------------------------------------------------------------------------------
# Models and baselines with known derivatives
# ---------------------------------------------------------------------------------------------------------------------


class QuadraticMembers:
    """E_i = sum_kl x_k A_i_kl x_l / 2 + b_i . x + c_i + p_i tr(strain-like term): random quadratic members."""

    def __init__(self, n_atoms, n_members, *, alpha, seed=0, shift=0.0):
        rng = np.random.default_rng(seed)
        a = rng.normal(size=(n_members, 3 * n_atoms, 3 * n_atoms))
        self.a = (a + a.transpose(0, 2, 1)) / 2
        self.b = rng.normal(size=(n_members, 3 * n_atoms))
        self.c = rng.normal(size=n_members) + shift
        self.alpha = alpha
        self.implemented_properties = ["energy", "free_energy", "forces", "energy_var", "forces_var", "energy_members"]
        self.implemented_properties += ["forces_members"]

    def predict(self, atoms, properties):
        x = atoms.positions.ravel()
        return Prediction.from_members(
            energies=0.5 * np.einsum("k,ikl,l->i", x, self.a, x) + self.b @ x + self.c,
            forces=-(self.a @ x + self.b).reshape(len(self.c), -1, 3),
            alpha=self.alpha,
        )


class CountingModel:
    """Any model, with the number of its evaluations."""

    def __init__(self, model):
        self.model = model
        self.implemented_properties = model.implemented_properties
        self.model_hash = "counted"
        self.n_calls = 0

    def predict(self, atoms, properties):
        self.n_calls += 1
        return self.model.predict(atoms, properties)


class Shifted(Calculator):
    """Another calculator plus a constant; counts; `keys` restricts what it declares."""

    def __init__(self, calculator, *, constant=0.0, keys=("energy", "forces", "stress")):
        super().__init__()
        self.calculator = calculator
        self.constant = constant
        self.implemented_properties = list(keys)
        self.n_calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.n_calls += 1
        self.calculator.calculate(self.atoms, list(properties), all_changes)
        results = self.calculator.results
        self.results = {key: results[key] for key in self.implemented_properties if key in results}
        self.results["energy"] += self.constant


# Offsets given by hand: these tests are of zeros of energy that no run should have.
AS_IS = {"Cu": 0.0, "Ar": 0.0}


def lj_committee(*, alpha=1.0, epsilon=0.4, n_members=4, spread=0.02):
    sigmas = 2.3 * (1 + spread * np.linspace(-1, 1, n_members))
    return CommitteeUncertainty(
        [LennardJones(sigma=s, epsilon=epsilon * (1 + 0.05 * i), rc=5.0, smooth=True) for i, s in enumerate(sigmas)],
        alpha=alpha,
    )


def rattled_copper(seed=0, repeat=1):
    atoms = bulk("Cu", cubic=True) * repeat
    atoms.rattle(0.08, seed=seed)
    skew = np.eye(3) + 0.03 * np.random.default_rng(seed).normal(size=(3, 3))
    atoms.set_cell(atoms.cell.array @ skew, scale_atoms=True)
    return atoms


def molecule():
    return Atoms("Cu4", positions=[[0, 0, 0], [2.4, 0.1, 0], [0.2, 2.5, 0.1], [0.9, 0.8, 2.2]])


def central_forces(atoms, step=2e-4):
    """Fourth-order central differences: truncation far below 1e-6 relative."""
    forces = np.zeros((len(atoms), 3))
    for index in np.ndindex(forces.shape):
        origin, values = atoms.positions[index], []
        for k in (-2, -1, 1, 2):
            atoms.positions[index] = origin + k * step
            values.append(atoms.get_potential_energy())
        atoms.positions[index] = origin
        forces[index] = -(values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    return forces


def central_stress(atoms, step=1e-4):
    cell, volume, stress = atoms.cell.array.copy(), atoms.get_volume(), np.zeros(6)
    for voigt, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        values = []
        for k in (-2, -1, 1, 2):
            strain = np.eye(3)
            strain[i, j] += k * step / 2
            strain[j, i] += k * step / 2
            strained = atoms.copy()
            strained.set_cell(cell @ strain, scale_atoms=True)
            strained.calc = atoms.calc
            values.append(strained.get_potential_energy())
        stress[voigt] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step) / volume
    return stress


def assert_close(actual, expected, relative=1e-6):
    assert np.abs(actual - expected).max() < relative * np.abs(expected).max()


# ---------------------------------------------------------------------------------------------------------------------
# The blend: closed forms
# ---------------------------------------------------------------------------------------------------------------------

finite = st.floats(-50, 50, allow_nan=False, width=32)


@given(
    members=arrays(float, st.integers(2, 9), elements=finite),
    v_b=finite,
    sigma_b=st.floats(1e-3, 10),
)
def test_coefficients_sum_to_the_weight_and_are_derivatives(members, v_b, sigma_b):
    def blend(values):
        return Blend.of(values, energy_baseline=v_b, sigma_baseline=sigma_b)

    b = blend(members)
    assert 0.0 < b.weight <= 1.0
    scale = np.abs(b.coefficients).max()
    assert b.coefficients.sum() == pytest.approx(b.weight, abs=1e-12 * (1 + scale * len(members)))
    assert b.gradient_coefficients.sum() == pytest.approx(0, abs=1e-12 * (1 + np.abs(b.gradient_coefficients).sum()))
    # dU/dV_i by complex-free central differences of the closed form
    step = 1e-4 * sigma_b
    for i in range(len(members)):
        energies = []
        for sign in (1, -1):
            moved = members.copy()
            moved[i] += sign * step
            energies.append(v_b + blend(moved).weight * (moved.mean() - v_b))
        difference = (energies[0] - energies[1]) / (2 * step)
        assert difference == pytest.approx(b.coefficients[i], abs=1e-6 * (1 + scale) + 1e-13 * 50 / step)


def test_equal_members_give_the_model_and_a_lost_model_gives_the_baseline():
    equal = Blend.of(np.full(4, 3.0), energy_baseline=-1.0, sigma_baseline=0.2)
    assert equal.weight == 1.0
    np.testing.assert_array_equal(equal.coefficients, np.full(4, 0.25))
    members = 1e6 * np.array([-1.0, 0.0, 1.0])
    lost = Blend.of(members, energy_baseline=-1.0, sigma_baseline=0.2)
    assert lost.weight < 1e-12
    assert np.abs(lost.coefficients).max() < 1e-12


def test_weight_is_one_half_where_both_errors_are_equal():
    members = np.array([0.0, 1.0, 2.0])
    half = Blend.of(members, energy_baseline=0.0, sigma_baseline=1.0)
    assert half.weight == 0.5
    # g_i = -2 (1/4) dev / 2, c_i = w/M + 1 g_i
    np.testing.assert_allclose(half.coefficients, 0.5 / 3 + np.array([0.25, 0.0, -0.25]), rtol=1e-15)


# ---------------------------------------------------------------------------------------------------------------------
# Forces and stress against finite differences
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, -1000.0])
@pytest.mark.parametrize("alpha", [1.0, 2.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_forces_of_quadratic_members_are_exact(offset, alpha, seed):
    atoms = molecule()
    atoms.positions += 0.1 * np.random.default_rng(seed).normal(size=(4, 3))
    model = QuadraticMembers(4, 5, alpha=alpha, seed=seed, shift=offset)
    sigma = np.sqrt(model.predict(atoms, []).energy_var)
    atoms.calc = WeightedBaseline(UQCalculator(model), EMT(), sigma_baseline=1.3 * sigma, offsets=AS_IS)
    forces = atoms.get_forces()
    assert 0.3 < atoms.calc.results["weight"] < 0.9
    assert_close(forces, central_forces(atoms))


@pytest.mark.parametrize("offset", [{"Cu": 0.0}, {"Cu": -350.0}])
@pytest.mark.parametrize("alpha", [1.0, 1.8])
def test_forces_and_stress_of_a_crystal_are_exact(offset, alpha):
    atoms = rattled_copper()
    atoms.calc = WeightedBaseline(
        UQCalculator(lj_committee(alpha=alpha)), EMT(), sigma_baseline_per_atom=0.06, offsets=offset
    )
    forces, stress, weight = atoms.get_forces(), atoms.get_stress(), atoms.calc.results["weight"]
    assert 0.1 < weight < 0.9
    assert_close(forces, central_forces(atoms))
    assert_close(stress, central_stress(atoms))


def test_forces_agree_with_the_differences_of_ase():
    atoms = molecule()
    atoms.calc = WeightedBaseline(UQCalculator(lj_committee(alpha=1.5)), EMT(), sigma_baseline=0.5, offsets=AS_IS)
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-5), atol=1e-6)


def test_member_forces_and_stresses_are_derivatives_of_the_member_energies():
    atoms = rattled_copper()
    calc = WeightedBaseline(
        UQCalculator(lj_committee(alpha=1.4)), EMT(), sigma_baseline_per_atom=0.06, offsets={"Cu": -3.0}, members=True
    )
    calc.calculate(atoms, ["energy"], all_changes)
    members, forces, p = calc.results["energy_members"], calc.results["forces_members"], calc.prediction
    np.testing.assert_allclose(members.mean(), calc.results["energy"], rtol=1e-13)
    np.testing.assert_allclose(forces.mean(axis=0), calc.results["forces"], atol=1e-12)
    np.testing.assert_allclose(p.stress_members.mean(axis=0), calc.results["stress"], atol=1e-14)

    class OneMember(Calculator):
        implemented_properties = ("energy",)
        index = 0

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            calc.calculate(self.atoms, ["energy"], all_changes)
            self.results = {"energy": float(calc.prediction.energy_members[self.index])}

    atoms.calc = OneMember()
    for atoms.calc.index in (0, 3):
        atoms.calc.reset()
        assert_close(forces[atoms.calc.index], central_forces(atoms))
        assert_close(p.stress_members[atoms.calc.index], central_stress(atoms))


# ---------------------------------------------------------------------------------------------------------------------
# What is published
# ---------------------------------------------------------------------------------------------------------------------


def test_published_keys_values_and_meanings():
    atoms = rattled_copper()
    uq = UQCalculator(lj_committee(alpha=1.7))
    atoms.calc = calc = WeightedBaseline(uq, EMT(), sigma_baseline=0.9, offsets={"Cu": -3.5})
    energy = atoms.get_potential_energy()
    results, alone = calc.results, uq.model.predict(atoms, [])
    emt = rattled_copper()
    emt.calc = EMT()
    v_b = emt.get_potential_energy() - 4 * 3.5
    weight = 0.9**2 / (0.9**2 + alone.energy_var)
    assert set(results) == set(calc.implemented_properties)
    assert results["sigma_baseline"] == 0.9
    assert results["energy_baseline"] == pytest.approx(v_b, rel=1e-13)
    assert results["weight"] == pytest.approx(weight, rel=1e-13)
    assert energy == results["free_energy"] == pytest.approx(v_b + weight * (alone.energy - v_b), rel=1e-13)
    assert isinstance(energy, float)
    # The variances are the model's, the members are blended.
    assert results["energy_var"] == alone.energy_var
    np.testing.assert_array_equal(results["forces_var"], alone.forces_var)
    np.testing.assert_array_equal(results["stress_var"], alone.stress_var)
    np.testing.assert_allclose(
        results["energy_members"] - energy, weight * (alone.energy_members - alone.energy), atol=1e-12
    )
    np.testing.assert_array_equal(calc.prediction.energy_members, results["energy_members"])
    assert calc.prediction.energy == energy
    for key in calc.implemented_properties:
        assert np.all(calc.get_property(key, atoms) == results[key])
    assert "forces_members" not in results


def test_only_the_epistemic_variance_sets_the_weight():
    class Noisy:
        def predict(self, atoms, properties):
            return replace(lj_committee().predict(atoms, properties), energy_var_aleatoric=25.0)

    results = []
    for model in (lj_committee(), Noisy()):
        atoms = molecule()
        atoms.calc = WeightedBaseline(UQCalculator(model), EMT(), sigma_baseline=0.4, offsets=AS_IS)
        atoms.get_forces()
        results.append(atoms.calc.results)
    assert results[0]["weight"] == results[1]["weight"] < 0.99
    np.testing.assert_array_equal(results[0]["forces"], results[1]["forces"])
    assert results[1]["energy_var"] == pytest.approx(results[0]["energy_var"] + 25.0)


def test_width_limits_are_the_model_and_the_baseline():
    for width, reference in ((1e9, UQCalculator(lj_committee())), (1e-9, EMT())):
        atoms, alone = rattled_copper(), rattled_copper()
        atoms.calc = WeightedBaseline(UQCalculator(lj_committee()), EMT(), sigma_baseline=width, offsets=AS_IS)
        alone.calc = reference
        assert atoms.get_potential_energy() == pytest.approx(alone.get_potential_energy(), rel=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), alone.get_forces(), atol=1e-10)
        np.testing.assert_allclose(atoms.get_stress(), alone.get_stress(), atol=1e-12)


def test_equal_members_are_the_model():
    model = CommitteeUncertainty([LennardJones(sigma=2.3, epsilon=0.4) for _ in range(3)])
    atoms = molecule()
    atoms.calc = WeightedBaseline(UQCalculator(model), EMT(), sigma_baseline=0.01, offsets=AS_IS)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    assert atoms.calc.results["weight"] == 1.0
    atoms.calc = LennardJones(sigma=2.3, epsilon=0.4)
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-14)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-12)


def test_a_per_atom_width_gives_replicas_the_same_weight_and_a_total_width_does_not():
    small = rattled_copper()
    large = small * (2, 1, 1)
    weights = {}
    for option in ("sigma_baseline_per_atom", "sigma_baseline"):
        width = 0.2 if option == "sigma_baseline_per_atom" else 0.8
        weights[option] = []
        for atoms in (small, large):
            atoms.calc = WeightedBaseline(UQCalculator(lj_committee()), EMT(), **{option: width}, offsets=AS_IS)
            atoms.get_potential_energy()
            weights[option].append(atoms.calc.results["weight"])
    assert weights["sigma_baseline_per_atom"][0] == pytest.approx(weights["sigma_baseline_per_atom"][1], rel=1e-10)
    first, second = weights["sigma_baseline"]
    assert first == pytest.approx(weights["sigma_baseline_per_atom"][0], rel=1e-12)
    # sigma doubles with two replicas: w = s/(s + 4 v)
    assert second == pytest.approx(first / (first + 4 * (1 - first)), rel=1e-10)


def test_a_baseline_without_stress_gives_no_stress_and_exact_forces():
    atoms = rattled_copper()
    baseline = Shifted(EMT(), keys=("energy", "forces"))
    atoms.calc = WeightedBaseline(UQCalculator(lj_committee()), baseline, sigma_baseline=0.5, offsets=AS_IS)
    forces = atoms.get_forces()
    assert not [key for key in (*atoms.calc.results, *atoms.calc.implemented_properties) if "stress" in key]
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    assert_close(forces, central_forces(atoms))


def test_a_molecule_has_no_stress():
    atoms = molecule()
    atoms.calc = WeightedBaseline(UQCalculator(lj_committee()), EMT(), sigma_baseline=0.5, offsets=AS_IS)
    atoms.get_potential_energy()
    assert "stress" not in atoms.calc.results
    assert "stress_var" not in atoms.calc.results


def test_the_baseline_contributes_the_energy_its_forces_derive_from():
    class Smeared(EMT):
        implemented_properties = ("energy", "free_energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            self.results["energy"] += 0.1 * self.atoms.positions.sum()  # an extrapolation its forces do not follow

    atoms = molecule()
    atoms.calc = WeightedBaseline(UQCalculator(lj_committee()), Smeared(), sigma_baseline=0.1, offsets=AS_IS)
    assert_close(atoms.get_forces(), central_forces(atoms))


# ---------------------------------------------------------------------------------------------------------------------
# ASE
# ---------------------------------------------------------------------------------------------------------------------


def test_one_evaluation_of_each_part_per_step_with_everything_attached(tmp_path):
    atoms = rattled_copper()
    model, baseline = CountingModel(lj_committee()), Shifted(EMT())
    atoms.calc = WeightedBaseline(UQCalculator(model), baseline, sigma_baseline=0.5, offsets=AS_IS)
    dyn = VelocityVerlet(atoms, timestep=units.fs, logfile=str(tmp_path / "md.log"))
    with Trajectory(tmp_path / "md.traj", "w", atoms) as trajectory:
        dyn.attach(trajectory)
        dyn.attach(lambda: (atoms.get_stress(), atoms.calc.get_property("forces_var", atoms)))
        dyn.run(20)
    assert (model.n_calls, baseline.n_calls) == (21, 21)
    last = read(tmp_path / "md.traj")
    assert last.get_potential_energy() == atoms.get_potential_energy()
    copy_uncertainty(atoms)
    assert atoms.info["uq_weight"] == atoms.calc.results["weight"]
    assert atoms.calc.get_property("weight", atoms + Atoms("Cu"), allow_calculation=False) is None
    assert model.n_calls == 21


def test_changing_the_width_recomputes_and_is_checked():
    atoms = molecule()
    atoms.calc = WeightedBaseline(UQCalculator(lj_committee()), EMT(), sigma_baseline=0.1, offsets=AS_IS)
    before = atoms.get_potential_energy()
    atoms.calc.set(sigma_baseline=0.5)
    assert atoms.get_potential_energy() != before
    assert atoms.calc.results["sigma_baseline"] == 0.5
    with pytest.raises(InputError, match="`sigma_baseline` must be a positive number of eV, got -1"):
        atoms.calc.set(sigma_baseline=-1)
    assert atoms.calc.parameters["sigma_baseline"] == 0.5


def test_the_published_arrays_are_not_shared():
    atoms = molecule()
    atoms.calc = WeightedBaseline(UQCalculator(lj_committee()), EMT(), sigma_baseline=0.5, offsets=AS_IS)
    forces = atoms.get_forces()
    atoms.calc.results["forces"][:] = 0.0
    np.testing.assert_array_equal(atoms.calc.prediction.forces, forces)


@pytest.mark.parametrize(
    ("widths", "sentence"),
    [
        ({}, "exactly one of `sigma_baseline`"),
        ({"sigma_baseline": 0.1, "sigma_baseline_per_atom": 0.1}, "exactly one of `sigma_baseline`"),
        ({"sigma_baseline": 0.0}, "`sigma_baseline` must be a positive number of eV, got 0.0"),
        ({"sigma_baseline_per_atom": -0.2}, "`sigma_baseline_per_atom` must be a positive number of eV, got -0.2"),
        ({"sigma_baseline": np.nan}, "`sigma_baseline` must be a positive number of eV, got nan"),
    ],
)
def test_bad_widths_are_refused(widths, sentence):
    with pytest.raises(InputError, match=sentence):
        WeightedBaseline(UQCalculator(lj_committee()), EMT(), **widths)


def test_bad_parts_are_refused():
    with pytest.raises(InputError, match="`uq` must be a UQCalculator, got CommitteeUncertainty"):
        WeightedBaseline(lj_committee(), EMT(), sigma_baseline=0.1)
    with pytest.raises(InputError, match="`baseline` must implement energy and forces, str lacks energy and forces"):
        WeightedBaseline(UQCalculator(lj_committee()), "xtb", sigma_baseline=0.1)


def test_a_model_without_members_is_refused_with_the_name_of_the_field():
    class Silent:
        def predict(self, atoms, properties):
            return Prediction(energy=0.0, forces=np.zeros((len(atoms), 3)), energy_var_epistemic=1.0)

    atoms = molecule()
    atoms.calc = WeightedBaseline(UQCalculator(Silent()), EMT(), sigma_baseline=0.1)
    with pytest.raises(InputError, match="WeightedBaseline needs `energy_members`, which this model does not provide"):
        atoms.get_forces()
    declaring = Silent()
    declaring.implemented_properties = ("energy", "forces", "energy_var")
    with pytest.raises(InputError, match="WeightedBaseline needs `energy_members`, which this model does not provide"):
        WeightedBaseline(UQCalculator(declaring), EMT(), sigma_baseline=0.1)


def test_a_broken_baseline_is_named():
    atoms = molecule()
    atoms.calc = WeightedBaseline(UQCalculator(lj_committee()), Shifted(EMT(), constant=np.nan), sigma_baseline=0.1)
    with pytest.raises(InputError, match="`baseline` returned an energy of nan eV"):
        atoms.get_potential_energy()


@pytest.mark.parametrize("shift", [-15.0, 40.0, 1e4])
def test_a_baseline_with_another_zero_is_refused_at_the_first_structure(shift, caplog):
    atoms, uq = rattled_copper(), UQCalculator(lj_committee(n_members=6))
    like_it = Shifted(LennardJones(sigma=2.31, epsilon=0.45, rc=5.0, smooth=True), constant=shift)
    aligned = WeightedBaseline.aligned(uq, like_it, [bulk("Cu", cubic=True)], sigma_baseline=0.2)
    aligned.calculate(atoms)
    assert aligned.results["weight"] < 1.0
    assert not caplog.messages
    raw = WeightedBaseline(uq, like_it, sigma_baseline=0.2)
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"`baseline` must have the model's zero of energy.*WeightedBaseline.align"
        ):
            raw.calculate(atoms)
    # Whoever gave offsets is told, and may go on; a threshold is no error of the baseline.
    WeightedBaseline(uq, like_it, sigma_baseline=0.2, offsets={"Cu": 0.0}).calculate(atoms)
    assert "check `offsets`" in caplog.text
    ThresholdSwitch(uq, like_it, threshold=0.01).calculate(atoms)


def test_the_gap_is_measured_by_both_widths():
    atoms, uq = rattled_copper(), UQCalculator(lj_committee())
    gap = lj_committee().predict(atoms, []).energy - EMT().get_potential_energy(atoms)
    spread = lj_committee().predict(atoms, []).energy_std
    for factor, refused in ((9.0, False), (11.0, True)):
        width = np.sqrt((gap / factor) ** 2 - spread**2)
        calculator = WeightedBaseline(uq, EMT(), sigma_baseline=width)
        with pytest.raises(InputError, match="zero of energy") if refused else nullcontext():
            calculator.calculate(atoms)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("forces", np.zeros((1, 3)), r"`baseline` returned forces of shape \(1, 3\), it must be \(4, 3\)"),
        ("forces", np.full((4, 3), np.nan), "`baseline` returned forces with a component of nan"),
        ("stress", np.full(6, np.inf), "`baseline` returned a stress with a component of inf"),
    ],
)
def test_what_would_broadcast_or_spread_is_refused(key, value, sentence):
    class Broken(EMT):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results[key] = value

    atoms = rattled_copper()
    for calculator in (
        WeightedBaseline(UQCalculator(lj_committee()), Broken(), sigma_baseline=10.0),
        BiasedCalculator(UQCalculator(lj_committee()), Broken()),
    ):
        argument = "bias" if isinstance(calculator, BiasedCalculator) else "baseline"
        with pytest.raises(InputError, match=sentence.replace("baseline", argument)):
            calculator.calculate(atoms)


# ---------------------------------------------------------------------------------------------------------------------
# i-PI, an independent implementation
# ---------------------------------------------------------------------------------------------------------------------


def ipi_weighted_baseline(atoms, *, baseline, corrections, sigma_baseline, alpha):
    """Energy (eV), forces, virial (eV) and weight from i-PI's own committee, fed with children in atomic units.

    `baseline` and `corrections` are (energy, forces, virial) in eV and Å.
    """
    from ipi.engine.atoms import Atoms as IpiAtoms
    from ipi.engine.cell import Cell
    from ipi.engine.forcefields import FFCommittee, ForceField

    class Child(ForceField):
        def __init__(self, name, values):
            super().__init__(name=name)
            self.values = values

        def poll(self):
            energy, forces, virial = self.values
            for request in self.requests:
                request["result"] = [
                    energy / units.Ha,
                    forces.ravel() / (units.Ha / units.Bohr),
                    virial / units.Ha,
                    {"raw": ""},
                ]
                request["status"] = "Done"

    children = [Child("baseline", baseline), *(Child(f"member-{i}", c) for i, c in enumerate(corrections))]
    committee = FFCommittee(
        fflist=children,
        alpha=alpha,
        baseline_name="baseline",
        baseline_uncertainty=sigma_baseline / units.Ha,
        dopbc=False,
    )
    structure = IpiAtoms(len(atoms))
    structure.q[:] = atoms.positions.ravel() / units.Bohr
    request = committee.queue(structure, Cell(atoms.cell.array.T / units.Bohr))
    committee.poll()
    assert request["status"] == "Done"
    energy, forces, virial, extras = request["result"]
    return SimpleNamespace(
        energy=energy * units.Ha,
        forces=forces.reshape(-1, 3) * units.Ha / units.Bohr,
        virial=virial * units.Ha,
        weight=extras["wb_mixing"][0],
        std=extras["committee_uncertainty"] * units.Ha,
    )


def energy_forces_virial(calculator, atoms):
    own = atoms.copy()
    own.calc = calculator
    return own.get_potential_energy(), own.get_forces(), -own.get_volume() * own.get_stress(voigt=False)


@pytest.mark.parametrize("alpha", [1.0, 1.6])
def test_energy_forces_stress_and_weight_equal_those_of_ipi(alpha):
    atoms = rattled_copper(seed=5)
    model = lj_committee(alpha=alpha)
    own = energy_forces_virial(EMT(), atoms)
    # i-PI reads members as corrections to the baseline.
    corrections = [
        tuple(m - b for m, b in zip(energy_forces_virial(member, atoms), own, strict=True))
        for member in model.calculators
    ]
    theirs = ipi_weighted_baseline(atoms, baseline=own, corrections=corrections, sigma_baseline=0.6, alpha=alpha)
    atoms.calc = WeightedBaseline(UQCalculator(model), EMT(), sigma_baseline=0.6, offsets=AS_IS)
    assert atoms.get_potential_energy() == pytest.approx(theirs.energy, rel=1e-12)
    assert atoms.calc.results["weight"] == pytest.approx(theirs.weight, rel=1e-12)
    assert 0.1 < theirs.weight < 0.9
    assert np.sqrt(atoms.calc.results["energy_var"]) == pytest.approx(theirs.std, rel=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), theirs.forces, atol=1e-11)
    np.testing.assert_allclose(-atoms.get_volume() * atoms.get_stress(voigt=False), theirs.virial, atol=1e-10)


def test_aligned_calculator_removes_a_shift_of_the_baseline():
    frames = [rattled_copper(seed=s) for s in range(3)]
    forces = {}
    for constant in (0.0, 700.0):
        calc = WeightedBaseline.aligned(
            UQCalculator(lj_committee()), Shifted(EMT(), constant=constant), frames, sigma_baseline_per_atom=0.06
        )
        atoms = rattled_copper(seed=9)
        atoms.calc = calc
        forces[constant] = atoms.get_forces()
        assert calc.parameters["offsets"] == calc.offsets
        assert f"offsets={calc.offsets}" in repr(calc)
    np.testing.assert_allclose(forces[700.0], forces[0.0], atol=1e-9)
    gaps = []
    for atoms in frames:
        atoms.calc = calc
        model = calc.uq.model.predict(atoms, ["energy"])
        atoms.get_potential_energy()
        gaps.append(model.energy - calc.results["energy_baseline"])
    assert np.mean(gaps) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("size", [0.0, 0.05, 0.7])
def test_constants_of_members_do_not_hand_over_to_the_baseline(size):
    """They cancel in every force and average; the weight must not see them."""
    frames = [rattled_copper(seed=s) for s in range(12)]
    constants = size * np.array([1.0, -0.4, 0.1, -0.7])
    members = [LennardJones(sigma=2.28, epsilon=e, rc=5.0, smooth=True) for e in (0.38, 0.40, 0.41, 0.42)]
    found = {}
    for name, shifts in (("plain", np.zeros(4)), ("shifted", constants)):
        committee = [Shifted(calc, constant=c) for calc, c in zip(members, shifts, strict=True)]
        calc = WeightedBaseline.aligned(
            UQCalculator(CommitteeUncertainty(committee)), EMT(), frames, sigma_baseline_per_atom=0.02
        )
        atoms = rattled_copper(seed=21)
        atoms.calc = calc
        atoms.get_forces()
        results = calc.results
        deviations = results["energy_members"] - results["energy"]
        found[name] = np.concatenate(
            [
                [results["weight"], results["energy_var"], atoms.get_potential_energy()],
                deviations,
                atoms.get_forces()[0],
            ]
        )
        np.testing.assert_allclose(atoms.get_forces()[:2], calculate_numerical_forces(atoms, 1e-4, [0, 1]), atol=1e-5)
    np.testing.assert_allclose(found["shifted"], found["plain"], rtol=1e-7, atol=1e-8)
    assert 0.05 < found["plain"][0] < 0.999


@pytest.mark.parametrize("missing", ["forces_members", "stress_members"])
def test_a_model_that_turns_out_to_have_no_members_is_refused(missing):
    """Its mean force must not be taken for the force of the blend."""

    class Forgetful:
        def predict(self, atoms, properties):
            return replace(CommitteeUncertainty(lj_members()).predict(atoms, properties), **{missing: None})

    atoms = bulk("Ar", "fcc", 5.3, cubic=True)
    atoms.calc = WeightedBaseline(UQCalculator(Forgetful()), LennardJones(sigma=3.4), sigma_baseline=0.1, offsets=AS_IS)
    with pytest.raises(InputError, match=f"WeightedBaseline needs `{missing}`, which this model does not provide"):
        atoms.get_forces()


def lj_members():
    return [LennardJones(sigma=s, epsilon=0.01, rc=6.0, smooth=True) for s in (3.38, 3.42)]
