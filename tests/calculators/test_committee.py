"""What foreign calculators return in several ways: brought into one form, or refused with the member's name."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import BaseCalculator, Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.calculators.mixing import SumCalculator
from ase.stress import voigt_6_to_full_3x3_stress

from ase_uq.calculators.committee import CommitteeUncertainty
from ase_uq.errors import InputError

SYMMETRIC = np.array([0.1, -0.2, 0.3, 0.04, -0.05, 0.06])


class Member(Calculator):
    """Springs to the origin of stiffness k; `change` replaces or takes out results."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, k, declares=(), refuses=None, **change):
        super().__init__()
        self.k, self.refuses, self.change = k, refuses, change
        self.implemented_properties = [*type(self).implemented_properties, *declares]
        self.n_calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.n_calls += 1
        if self.refuses is not None and self.refuses(self.atoms) and "stress" in properties:
            raise PropertyNotImplementedError("no stress here")
        x = self.atoms.positions
        results = {"energy": 0.5 * self.k * (x**2).sum(), "forces": -self.k * x, "stress": self.k * SYMMETRIC}
        changed = {key: value(results) if callable(value) else value for key, value in self.change.items()}
        self.results = {key: value for key, value in {**results, **changed}.items() if value is not None}


class Smeared(Member):
    """Forces follow the free energy, as for smeared occupations; `energy` is extrapolated to none."""

    implemented_properties = ("energy", "forces", "stress", "free_energy")

    def __init__(self, k, **change):
        super().__init__(
            k,
            energy=lambda r: r["energy"] + 0.3 * k + 0.1 * self.atoms.positions.sum(),
            free_energy=lambda r: r["energy"],
            **change,
        )


def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def predict(*members, atoms=None):
    return CommitteeUncertainty(members).predict(copper() if atoms is None else atoms, [])


@pytest.mark.parametrize(
    "change",
    [
        {"energy": lambda r: np.array([r["energy"]])},
        {"energy": lambda r: np.array([[r["energy"]]])},
        {"forces": lambda r: r["forces"][None]},
        {"stress": lambda r: voigt_6_to_full_3x3_stress(r["stress"])},
        {"stress": lambda r: r["stress"][None]},
        {"stress": lambda r: voigt_6_to_full_3x3_stress(r["stress"])[None].astype(np.float32)},
        {"forces": lambda r: r["forces"].tolist()},
    ],
)
def test_what_is_clear_is_brought_into_one_form(change):
    expected, found = predict(Member(1.0), Member(2.0)), predict(Member(1.0, **change), Member(2.0))
    for field in ("energy_members", "forces", "stress", "forces_var", "stress_var"):
        np.testing.assert_allclose(getattr(found, field), getattr(expected, field), rtol=1e-6, err_msg=field)


def test_the_energy_is_the_one_the_forces_are_the_gradient_of():
    members = [Smeared(1.0), Smeared(2.5), Member(3.0)]
    found = predict(*members)
    np.testing.assert_allclose(
        found.energy_members, [0.5 * k * (copper().positions ** 2).sum() for k in (1.0, 2.5, 3.0)]
    )
    for i, member in enumerate(members):
        moved = copper()
        moved.positions[2, 1] += 1e-5
        slope = (predict(*members, atoms=moved).energy_members[i] - found.energy_members[i]) / 1e-5
        assert -slope == pytest.approx(-member.k * copper().positions[2, 1], abs=1e-4)


def test_a_member_that_names_a_free_energy_and_gives_none_has_its_energy():
    found = predict(Member(1.0, declares=["free_energy"]), Member(2.0))
    np.testing.assert_array_equal(found.energy_members, predict(Member(1.0), Member(2.0)).energy_members)


def test_members_without_a_stress_for_these_atoms_leave_the_committee_without_one():
    slab, crystal = fcc111("Cu", (1, 1, 2), vacuum=5.0), copper()
    slab.pbc = [True, True, False]
    committee = CommitteeUncertainty([Member(1.0, refuses=lambda atoms: not atoms.pbc.all()), Member(2.0)])
    for _ in range(2):
        for atoms, has_stress in ((crystal, True), (slab, False)):
            found = committee.predict(atoms, ["stress"])
            assert (found.stress is not None) == (found.stress_var is not None) == has_stress
            np.testing.assert_allclose(found.forces, -1.5 * atoms.positions)
    # Declared, and not among the results.
    assert predict(Member(1.0, stress=None), Member(2.0)).stress is None


def test_results_of_other_atoms_do_not_outlive_a_failure():
    class Failing(Member):
        fails = False

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            Calculator.calculate(self, atoms, properties, system_changes)
            if self.fails:
                raise RuntimeError("no convergence")
            super().calculate(atoms, properties, system_changes)

    member = Failing(1.0)
    committee, first, second = CommitteeUncertainty([member, Member(2.0)]), copper(), copper()
    second.positions *= 1.1
    committee.predict(first, [])
    member.fails = True
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no convergence"):
            committee.predict(second, [])
    member.fails = False
    np.testing.assert_allclose(committee.predict(second, []).forces, -1.5 * second.positions)


def test_one_calculation_a_structure_even_of_a_calculator_that_does_not_remember_its_atoms():
    class Forgetful(BaseCalculator):
        implemented_properties = ("energy", "forces")
        n_calls = 0

        def calculate(self, atoms, properties, system_changes):
            self.n_calls += 1
            self.results = {"energy": 1.0, "forces": np.zeros((len(atoms), 3))}

    members = [Forgetful(), Forgetful()]
    predict(*members)
    assert [member.n_calls for member in members] == [1, 1]


def test_sums_inside_the_members_keep_the_right_energy():
    found = predict(SumCalculator([Smeared(1.0), EMT()]), SumCalculator([Smeared(2.0), EMT()]))
    emt = EMT().get_potential_energy(copper())
    np.testing.assert_allclose(found.energy_members - emt, [0.5 * k * (copper().positions ** 2).sum() for k in (1, 2)])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"energy": np.nan}, "returned an energy of nan eV, it must be finite"),
        ({"energy": np.zeros(4)}, r"returned energies of shape \(4,\), it must be one number"),
        ({"energy": None}, "returned no energy"),
        ({"forces": np.zeros((1, 3))}, r"returned forces of shape \(1, 3\), it must be \(4, 3\)"),
        ({"forces": np.zeros((3, 4))}, r"returned forces of shape \(3, 4\)"),
        ({"forces": np.zeros((2, 4, 3))}, r"returned forces of shape \(2, 4, 3\)"),
        ({"forces": np.zeros(12)}, r"returned forces of shape \(12,\)"),
        ({"forces": np.full((4, 3), -np.inf)}, "returned forces with a component of -inf"),
        ({"forces": np.zeros((4, 3), complex)}, "returned forces that cannot be read as real numbers"),
        ({"stress": np.full(6, np.nan)}, "returned a stress with a component of nan"),
        ({"stress": np.arange(9.0).reshape(3, 3)}, r"returned a stress that differs by 4 eV/Å\^3 from its transpose"),
        ({"stress": np.zeros(9)}, r"returned a stress of shape \(9,\), it must be \(6,\) or \(3, 3\)"),
        ({"stress": np.zeros((4, 6))}, r"returned a stress of shape \(4, 6\)"),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(change, sentence):
    with pytest.raises(InputError, match=r"member 1 \(Member\) " + sentence):
        predict(Member(1.0), Member(2.0, **change))


def test_a_single_atom_has_one_row_of_forces():
    atoms = Atoms("Cu", positions=[[0.1, 0.2, 0.3]])
    assert predict(Member(1.0), Member(2.0), atoms=atoms).forces.shape == (1, 3)
    members = [Member(k, forces=lambda r: r["forces"][None]) for k in (1.0, 2.0)]
    assert predict(*members, atoms=atoms).forces.shape == (1, 3)
