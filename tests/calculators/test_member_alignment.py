"""Members of one committee whose zeros of energy differ: by a constant per element, which no force ever sees."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_uq import CommitteeUncertainty, InputError, UQCalculator
from ase_uq.calculators.member_alignment import MemberOffsets, check_zeros


class Shifted(Calculator):
    """A pair potential whose zero lies elsewhere: `zeros` in eV per atom of an element."""

    implemented_properties = ("energy", "forces")

    def __init__(self, *, epsilon, zeros):
        super().__init__()
        self.pair, self.zeros = LennardJones(epsilon=epsilon, sigma=0.8, rc=4.0, smooth=True), zeros

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.pair.calculate(atoms, ["energy", "forces"], all_changes)
        zero = sum(self.zeros.get(symbol, 0.0) for symbol in atoms.symbols)
        self.results = {**self.pair.results, "energy": self.pair.results["energy"] + zero}


EPSILONS = (0.010, 0.011, 0.013)


def members(zeros):
    return [Shifted(epsilon=e, zeros=z) for e, z in zip(EPSILONS, zeros, strict=True)]


def water(n_hydrogen=0, seed=0):
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=seed)
    for k in range(n_hydrogen):
        atoms += Atoms("H", positions=[[0.0, 0.0, 3.0 + 2 * k]])
    return atoms


NONE = ({},) * 3
ZEROS = st.fixed_dictionaries({"H": st.floats(-500, 500), "O": st.floats(-3000, 3000)})


@settings(max_examples=20, deadline=None)
@given(
    zeros=st.lists(
        st.fixed_dictionaries({"H": st.floats(-500, 500), "O": st.floats(-3000, 3000)}), min_size=3, max_size=3
    )
)
def test_alignment_takes_out_any_constant_per_element(zeros):
    frames = [water(k, seed=k) for k in range(4)]
    plain = CommitteeUncertainty(members(NONE), align=frames)
    foreign = CommitteeUncertainty(members(zeros), align=frames)
    atoms = water(7, seed=9)  # H9O was not aligned on, but H2O and H3O determine H and O
    expected, found = plain.predict(atoms, ()), foreign.predict(atoms, ())
    assert found.energy_var == pytest.approx(expected.energy_var, rel=1e-5, abs=1e-13)
    np.testing.assert_allclose(found.forces_members, expected.forces_members, atol=1e-12)
    mean_zero = np.mean([9 * z["H"] + z["O"] for z in zeros])
    assert found.energy == pytest.approx(expected.energy + mean_zero, abs=1e-8)


def test_the_mean_and_the_forces_stay_to_the_last_digit():
    raw = CommitteeUncertainty(members(NONE))
    aligned = CommitteeUncertainty(members(NONE), align=[water(seed=1), water(seed=2)])
    a, b = raw.predict(water(), ()), aligned.predict(water(), ())
    assert b.energy == pytest.approx(a.energy, abs=1e-14)
    np.testing.assert_array_equal(a.forces, b.forces)
    np.testing.assert_array_equal(a.forces_var, b.forces_var)
    total = {z: sum(member[z] for member in aligned.offsets) for z in "HO"}
    assert total == pytest.approx({"H": 0.0, "O": 0.0}, abs=1e-14)


def test_one_composition_centres_the_members_within_it():
    frames = [water(seed=k) for k in range(5)]
    model = CommitteeUncertainty(members(({"O": 4.0}, {"H": -90.0}, {})), align=frames)
    energies = np.array([model.predict(atoms, ()).energy_members for atoms in frames])
    np.testing.assert_allclose(energies.mean(axis=0), energies.mean(), atol=1e-10)
    twice = water() + Atoms("OH2", positions=[[9, 0, 0], [9, 0, 1], [9, 1, 0]])
    assert model.predict(twice, ()).energy_std < 0.1  # the same shares of the elements, another size


@pytest.mark.parametrize("atoms", [Atoms("H2O2", np.eye(4, 3) * 3), Atoms("H"), molecule("CH4")])
def test_a_composition_that_is_not_determined_is_refused(atoms):
    model = CommitteeUncertainty(members(NONE), align=[water(), water(seed=1)])
    formula = atoms.symbols.formula.reduce()[0].format("hill")
    with pytest.raises(
        InputError, match=rf"`align` must hold compositions that {formula} can be combined from, got only H2O;"
    ):
        model.predict(atoms, ())


@pytest.mark.parametrize(
    ("align", "got"),
    [([], "got none"), (molecule("H2O"), "got a Atoms of Atom"), (["start.xyz"], "got a list of str")],
)
def test_frames_to_align_on_are_a_list_of_structures(align, got):
    with pytest.raises(InputError, match=f"`align` must be a list of ase.Atoms, at least one, {got}"):
        CommitteeUncertainty(members(NONE), align=align)


def test_a_member_that_fails_on_a_frame_is_named():
    with pytest.raises(InputError, match="member 1 gives nan eV for frame 0"):
        MemberOffsets.fit([water()], [[1.0, np.nan, 2.0]])


# Real disagreement: other wells, other radii, in crystals whose forces vanish, at room temperature, and blown up.
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("displacement", [0.0, 0.1, 0.6])
@pytest.mark.parametrize(
    "parameters",
    [
        [{"epsilon": e, "sigma": 2.28} for e in (0.36, 0.39, 0.41, 0.42)],
        [{"epsilon": 0.4, "sigma": s} for s in (2.2, 2.3, 2.4)],
        [{"epsilon": 1.0, "sigma": s} for s in (2.25, 2.28, 2.31)],
    ],
    ids=["wells", "radii", "deep"],
)
def test_members_that_disagree_for_a_reason_are_taken(parameters, displacement, size):
    atoms = bulk("Cu", cubic=True).repeat(size)
    atoms.rattle(displacement, seed=3)
    committee = CommitteeUncertainty([LennardJones(rc=6.0, smooth=True, **p) for p in parameters])
    assert committee.predict(atoms, ()).energy_var > 0


@pytest.mark.parametrize(("size", "displacement"), [(1, 0.0), (1, 0.05), (2, 0.0), (2, 0.1), (3, 0.1)])
def test_zeros_that_are_electronvolts_apart_are_refused_with_the_cure(size, displacement):
    atoms = bulk("Cu", cubic=True).repeat(size)
    atoms.rattle(displacement, seed=3)
    foreign = [EMT(), LennardJones(sigma=2.28, epsilon=0.41, rc=6.0, smooth=True)]
    atoms.calc = UQCalculator(CommitteeUncertainty(foreign))
    for _ in range(2):  # refused again, not only once
        with pytest.raises(InputError, match=r"`calculators` must share one zero of .* pass `align=frames`"):
            atoms.get_potential_energy()
    atoms.calc = UQCalculator(CommitteeUncertainty(foreign, align=[bulk("Cu", cubic=True)]))
    atoms.get_potential_energy()
    assert atoms.calc.results["energy_var"] ** 0.5 < 0.2 * len(atoms)


@pytest.mark.parametrize("n_atoms", [3, 30, 192, 1000])
def test_total_energies_of_any_size_are_judged_per_atom(n_atoms):
    rng = np.random.default_rng(n_atoms)
    atoms = Atoms(f"H{n_atoms}")
    forces = rng.normal(scale=0.05, size=(4, n_atoms, 3))
    # Members of one training: millielectronvolts per atom, beside what the forces say.
    energies = -2000.0 * n_atoms + 0.005 * n_atoms * np.array([-1, 0, 1, 2])
    check_zeros(atoms, energies, forces)
    with pytest.raises(InputError, match="`calculators` must share one zero"):
        check_zeros(atoms, energies + max(3.0, 0.2 * n_atoms) * np.array([0, 1, 2, 3]), forces)


def test_a_committee_is_looked_at_once_and_never_stopped_later():
    committee = CommitteeUncertainty(members(NONE))
    committee.predict(water(), ())
    for member in committee.calculators[:1]:
        member.zeros = {"O": 50.0}
        member.results = {}
    assert committee.predict(water(seed=5), ()).energy_std > 20


def test_hash_and_description_know_of_the_alignment():
    frames = [water(seed=1)]
    raw, same = CommitteeUncertainty(members(NONE)), CommitteeUncertainty(members(NONE))
    one = CommitteeUncertainty(members(({"O": 7.0}, {}, {})), align=frames)
    other = CommitteeUncertainty(members(({"O": 8.0}, {}, {})), align=frames)
    again = CommitteeUncertainty(members(({"O": 8.0}, {}, {})), align=frames)
    assert raw.model_hash == same.model_hash
    assert len({model.model_hash for model in (raw, one, other)}) == 3
    assert other.model_hash == again.model_hash
    assert (raw.description, one.description) == ("CommitteeUncertainty", "CommitteeUncertainty, aligned on H2O")
    assert raw.offsets is None
    assert UQCalculator(one).parameters["model"] == one.description
