"""`UQCalculator` is an ordinary ASE calculator: keys, caching, writers, composition."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.io import Trajectory, read, write
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet

from ase_uq import CommitteeUncertainty, InputError, Prediction, UQCalculator, copy_uncertainty
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.log.reader import read_log
from tests.made.structures import copper, water


class Counting:
    """An uncertainty model that counts its evaluations."""

    def __init__(self, model):
        self.model, self.calls = model, 0
        self.implemented_properties = model.implemented_properties

    def predict(self, atoms, properties):
        self.calls += 1
        return self.model.predict(atoms, properties)


def committee(alpha=1.0):
    # Lennard-Jones parameters near copper's, cut so that EMT and Lennard-Jones describe one metal. EMT's zero is the
    # perfect crystal.
    members = [EMT(), LennardJones(sigma=2.28, epsilon=0.41, rc=6.0, smooth=True)]
    return CommitteeUncertainty(members, alpha=alpha, align=[bulk("Cu", cubic=True)])


KEYS = {
    "energy": (),
    "free_energy": (),
    "forces": (4, 3),
    "stress": (6,),
    "energy_var": (),
    "forces_var": (4, 3),
    "stress_var": (6,),
    "energy_members": (2,),
}


def test_every_key_of_the_table_is_there_and_declared():
    atoms = copper()
    atoms.calc = UQCalculator(committee(alpha=2.0))
    atoms.get_potential_energy()
    results = atoms.calc.results
    assert {key: np.shape(value) for key, value in results.items()} == KEYS
    assert set(results) <= set(atoms.calc.implemented_properties)
    assert type(results["energy"]) is float
    assert results["energy_members"].mean() == pytest.approx(results["energy"], abs=1e-12)
    assert results["energy_members"].var(ddof=1) == pytest.approx(results["energy_var"])
    for key, shape in KEYS.items():
        assert np.shape(atoms.calc.get_property(key, atoms)) == shape


def test_moments_match_the_members_by_themselves():
    atoms = copper()
    atoms.calc = UQCalculator(committee(alpha=3.0), members=True)
    forces = atoms.get_forces()
    singles = []
    for calculator in (EMT(), LennardJones(sigma=2.28, epsilon=0.41, rc=6.0, smooth=True)):
        single = atoms.copy()
        single.calc = calculator
        singles.append((single.get_potential_energy(), single.get_forces(), single.get_stress()))
    energies, member_forces, stresses = map(np.array, zip(*singles, strict=True))
    energies += [len(atoms) * member["Cu"] for member in atoms.calc.model.offsets]
    assert forces == pytest.approx(member_forces.mean(axis=0))
    assert atoms.get_stress() == pytest.approx(stresses.mean(axis=0))
    results = atoms.calc.results
    assert results["energy_var"] == pytest.approx(9 * energies.var(ddof=1))
    assert results["forces_var"] == pytest.approx(9 * member_forces.var(axis=0, ddof=1))
    assert results["stress_var"] == pytest.approx(9 * stresses.var(axis=0, ddof=1))
    assert results["forces_members"].shape == (2, 4, 3)


def test_a_molecule_has_no_stress():
    atoms = water()
    atoms.calc = UQCalculator(CommitteeUncertainty([LennardJones(sigma=s) for s in (0.9, 1.0)]))
    atoms.get_potential_energy()
    assert not {"stress", "stress_var"} & set(atoms.calc.results)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
def test_one_model_evaluation_per_step(ensemble, tmp_path):
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.rattle(0.02, seed=1)
    model = Counting(committee())
    atoms.calc = UQCalculator(model)
    dt = 2.0 * units.fs
    if ensemble == "nve":
        dyn = VelocityVerlet(atoms, dt)
    elif ensemble == "nvt":
        dyn = Langevin(atoms, dt, temperature_K=300, friction=0.01, fixcm=False, rng=np.random.default_rng(0))
    else:
        dyn = IsotropicMTKNPT(atoms, dt, temperature_K=300, pressure_au=0.0, tdamp=50 * dt, pdamp=500 * dt)
    with (
        Trajectory(tmp_path / "run.traj", "w", atoms) as trajectory,
        UncertaintyLogger(
            tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=300, observables={}, ensemble=ensemble
        ) as log,
    ):
        dyn.attach(trajectory)
        dyn.attach(log)
        dyn.attach(atoms.get_total_energy)
        dyn.run(10)
    assert model.calls == 11
    assert len(read(tmp_path / "run.traj", ":")) == 11
    run = read_log(tmp_path / "run.h5")
    assert run.n_frames == 11
    assert run.energy[-1] == atoms.get_potential_energy()
    assert model.calls == 11


def test_nothing_is_computed_when_it_may_not_be():
    atoms = copper()
    model = Counting(committee())
    atoms.calc = UQCalculator(model)
    assert atoms.calc.get_property("energy_var", atoms, allow_calculation=False) is None
    assert model.calls == 0
    atoms.get_forces()
    assert atoms.calc.get_property("energy_var", atoms, allow_calculation=False) > 0
    atoms.positions[0, 0] += 0.01
    assert atoms.calc.get_property("energy_var", atoms, allow_calculation=False) is None
    assert model.calls == 1


def test_a_change_is_seen_and_results_are_copies():
    atoms = copper()
    atoms.calc = UQCalculator(committee())
    first = atoms.get_potential_energy()
    atoms.calc.get_property("forces_var", atoms)[:] = 1e9
    assert atoms.calc.get_property("forces_var", atoms).max() < 1e3
    atoms.calc.results["forces"][:] = 7.0
    assert atoms.calc.prediction.forces.max() < 7.0
    atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)
    assert atoms.get_potential_energy() != first


def test_properties_can_be_exported_and_written(tmp_path):
    atoms = copper()
    atoms.calc = UQCalculator(committee())
    atoms.get_potential_energy()
    exported = atoms.calc.export_properties()
    assert set(exported) >= {"energy", "free_energy", "forces", "stress"}
    assert atoms.get_properties(["energy", "forces"])["energy"] == atoms.get_potential_energy()
    for name in ("a.traj", "a.xyz", "a.json"):
        write(tmp_path / name, atoms)
        back = read(tmp_path / name)
        assert back.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
        assert back.get_forces() == pytest.approx(atoms.get_forces(), abs=1e-7)


def test_uncertainties_survive_extended_xyz_by_copying(tmp_path):
    atoms = copper()
    atoms.calc = UQCalculator(committee())
    with pytest.raises(InputError, match="has evaluated these positions"):
        copy_uncertainty(atoms)
    atoms.get_potential_energy()
    copy_uncertainty(atoms)
    write(tmp_path / "a.xyz", atoms)
    back = read(tmp_path / "a.xyz")
    assert back.info["uq_energy_var"] == pytest.approx(atoms.calc.results["energy_var"])
    assert back.info["uq_energy_members"] == pytest.approx(atoms.calc.results["energy_members"])
    assert back.arrays["uq_forces_var"] == pytest.approx(atoms.calc.results["forces_var"], abs=1e-7)
    assert back.arrays["uq_force_std_norm"] == pytest.approx(atoms.calc.prediction.force_std_norm, abs=1e-7)
    atoms.positions += 0.1
    with pytest.raises(InputError):
        copy_uncertainty(atoms)


def test_aliases_of_both_families():
    atoms = copper()
    atoms.calc = UQCalculator(committee(), aliases="mace")
    atoms.get_potential_energy()
    results = atoms.calc.results
    assert results["energy_comm"] == pytest.approx(results["energy_members"])
    assert results["forces_comm"].shape == (2, 4, 3)
    assert results["stress_comm"].shape == (2, 6)
    atoms.calc = UQCalculator(committee(), aliases="metatomic")
    atoms.get_potential_energy()
    results = atoms.calc.results
    assert results["energy_uncertainty"] ** 2 == pytest.approx(results["energy_var"])
    assert results["forces_uncertainty"] ** 2 == pytest.approx(results["forces_var"])
    assert results["energy_ensemble"].shape == (2,)
    assert set(results) <= set(atoms.calc.implemented_properties)
    with pytest.raises(InputError, match="`aliases` must be one of"):
        UQCalculator(committee(), aliases="apax")


def test_declarations_do_not_leak():
    before = list(Calculator.implemented_properties)
    one = UQCalculator(committee(), aliases="mace")
    two = UQCalculator(committee())
    assert "energy_comm" in one.implemented_properties
    assert "energy_comm" not in two.implemented_properties
    assert list(Calculator.implemented_properties) == before
    assert "forces_members" not in two.implemented_properties


def test_a_model_without_members_leaves_their_keys_out():
    class VarianceOnly:
        implemented_properties = ("energy", "free_energy", "forces", "energy_var")

        def predict(self, atoms, properties):
            return Prediction(energy=1.0, forces=np.zeros((len(atoms), 3)), energy_var_epistemic=0.5)

    atoms = copper()
    atoms.calc = UQCalculator(VarianceOnly())
    atoms.get_potential_energy()
    assert set(atoms.calc.results) == {"energy", "free_energy", "forces", "energy_var"}
    with pytest.raises(PropertyNotImplementedError):
        atoms.calc.get_property("energy_members", atoms)


def test_corrections_go_inside_the_members():
    atoms = copper()
    correction = LennardJones(sigma=2.5, epsilon=0.01, rc=6.0)
    inside = CommitteeUncertainty(
        [SumCalculator([member, LennardJones(sigma=2.5, epsilon=0.01, rc=6.0)]) for member in committee().calculators],
        align=[bulk("Cu", cubic=True)],
    )
    atoms.calc = UQCalculator(inside)
    total = atoms.get_potential_energy()
    variance = atoms.calc.results["energy_var"]
    atoms.calc = UQCalculator(committee())
    plain = atoms.get_potential_energy()
    assert variance == pytest.approx(atoms.calc.results["energy_var"])
    atoms.calc = correction
    assert total == pytest.approx(plain + atoms.get_potential_energy())
    # A sum around the committee keeps the energy and loses the uncertainty, as the docstring says.
    atoms.calc = SumCalculator([UQCalculator(committee()), correction])
    assert atoms.get_potential_energy() == pytest.approx(total)
    assert "energy_var" not in atoms.calc.results


def test_bad_structures_get_one_sentence():
    calculator = UQCalculator(committee())
    empty_cell = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], pbc=True)
    flat = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], cell=[[3, 0, 0], [3, 0, 0], [0, 0, 3]], pbc=True)
    nowhere = Atoms("Cu2", [[0, 0, 0], [0, 0, np.nan]])
    for atoms, rule in (
        (Atoms(), "at least one atom"),
        (empty_cell, "a vector along every periodic axis"),
        (flat, "independent vectors"),
        (nowhere, "must be finite, atom 1"),
    ):
        atoms.calc = calculator
        with pytest.raises(InputError, match=rule):
            atoms.get_potential_energy()
        with pytest.raises(InputError, match="after an evaluation"):
            _ = calculator.prediction


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: UQCalculator(EMT()), "must have a predict"),
        (lambda: CommitteeUncertainty([EMT()]), "at least 2 members"),
        (lambda: CommitteeUncertainty([EMT()] * 2), "different objects"),
        (lambda: CommitteeUncertainty([EMT(), object()]), r"`calculators\[1\]` must implement energy and forces"),
        (lambda: CommitteeUncertainty([EMT(), EMT()], alpha=0.0), "`alpha` must be a positive number"),
    ],
)
def test_bad_construction_gets_one_sentence(make, rule):
    with pytest.raises(InputError, match=rule):
        make()


class Reading:
    """A model that looks at what the atoms carry."""

    def predict(self, atoms, properties):
        self.seen = (atoms.info.get("charge"), atoms.get_tags().tolist())
        return Prediction.from_members(energies=[0.0, 1.0], forces=np.zeros((2, len(atoms), 3)))


def test_a_moved_structure_brings_all_it_carries():
    model, atoms = Reading(), molecule("H2O")
    atoms.calc = UQCalculator(model)
    atoms.get_potential_energy()
    atoms.positions += 0.1
    atoms.info["charge"] = 1
    atoms.set_tags([3, 2, 1])
    atoms.get_potential_energy()
    assert model.seen == (1, [3, 2, 1])
    kept = atoms.positions.copy()
    atoms.positions[0, 0] += 5.0
    np.testing.assert_array_equal(atoms.calc.atoms.positions, kept)
