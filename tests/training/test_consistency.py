"""Labels against each other before a training: zeros of energy, outliers, stresses, copies; no word on clean data."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.units import GPa

from ase_uq.errors import InputError
from ase_uq.training import Frame, read_frames, split_frames
from ase_uq.training.consistency import label_warnings, widest_gap
from ase_uq.training.crude_fit import Basis, Crude, Equations, size_of_basis
from tests.made.alloys import emt_frames

ELEMENTS = ("Au", "Cu")


def labelled(n=60, seed=0, elements=ELEMENTS):
    return [
        Frame(
            Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True),
            atoms.info["REF_energy"],
            atoms.arrays["REF_forces"],
            atoms.info["REF_stress"],
            "",
        )
        for atoms in emt_frames(n, elements, seed)
    ]


@pytest.fixture(scope="module")
def frames():
    return labelled()


@pytest.fixture(scope="module")
def held_out():
    return labelled(8, seed=1)


# --- the crude potential ------------------------------------------------------------------------------------------


def random_crude(seed=0):
    rng = np.random.default_rng(seed)
    return Crude(ELEMENTS, rng.normal(size=2), rng.normal(size=size_of_basis(2)))


def test_forces_and_stress_are_derivatives_of_the_energy(frames):
    crude, atoms, step = random_crude(), frames[0].atoms, 1e-5
    forces = Basis(atoms, ELEMENTS).forces(np.arange(4)) @ crude.coefficients
    for i, axis in ((0, 0), (2, 1), (3, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, axis] += sign * step
            energies.append(crude.energies([moved])[0])
        assert forces[i, axis] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), rel=1e-5, abs=1e-6)
    stress = crude.stress(atoms)
    for k, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += 0.5 * sign * step
            strain[b, a] += 0.5 * sign * step
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(crude.energies([moved])[0])
        assert stress[k] == pytest.approx((energies[0] - energies[1]) / (2 * step) / atoms.get_volume(), rel=1e-4)


def test_it_finds_a_potential_of_its_own_kind(frames):
    truth = random_crude()
    own = [
        replace(
            frame,
            energy=truth.energies([frame.atoms])[0],
            forces=Basis(frame.atoms, ELEMENTS).forces(np.arange(4)) @ truth.coefficients,
        )
        for frame in frames
    ]
    fitted, _ = Equations(own).solve()
    new = [frame.atoms for frame in labelled(10, seed=5)]
    error = (fitted.energies(new) - truth.energies(new)) / 4
    assert error.std() < 0.02 * (truth.energies(new) / 4).std()
    assert fitted.stress(new[0]) == pytest.approx(truth.stress(new[0]), abs=0.05 * np.abs(truth.stress(new[0])).max())


def test_pairs_that_no_frame_has_stay_without_effect(frames):
    apart = labelled(30, elements=("Cu",)) + labelled(30, elements=("Au",))
    together = Equations(apart).solve()[0].energies([frame.atoms for frame in frames])
    assert np.abs(together / 4).max() < 20.0


# --- clean sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 9, 12, 60])
def test_clean_labels_get_no_word(frames, held_out, n):
    assert label_warnings(frames[:n], held_out) == ()


def test_isolated_atoms_are_no_second_group(frames, held_out):
    atoms = []
    for symbol, energy in (("Cu", 3.5), ("Au", 3.8)):
        atoms.append(Frame(Atoms(symbol), energy, np.zeros((1, 3)), None, "isolated"))
    assert label_warnings([*atoms, *frames], held_out) == ()


def test_molecules_beside_crystals_are_no_second_group(frames, held_out):
    pairs = []
    for k, distance in enumerate(np.linspace(2.2, 3.2, 12)):
        pair = Atoms(["Cu", ELEMENTS[k % 2]], [[0, 0, 0], [0, 0, distance]], calculator=EMT())
        pairs.append(Frame(pair.copy(), pair.get_potential_energy(), pair.get_forces(), None, ""))
    assert label_warnings([*pairs, *frames], held_out) == ()


@pytest.mark.data
@pytest.mark.parametrize("name", ["3bpa/train_300K", "carbon/train", "ta/train", "mlearn/Mo_train"])
def test_published_sets_get_no_word(reference_data, name):
    train, valid = split_frames(read_frames(reference_data / f"{name}.xyz.gz"), valid_fraction=0.1)
    assert label_warnings(train, valid) == ()


# --- two zeros, outliers ------------------------------------------------------------------------------------------


def shifted(frames, chosen, offset):
    """Frames of which some have another zero, in eV per atom."""
    return [replace(f, energy=f.energy + offset * len(f.atoms) * bool(c)) for f, c in zip(frames, chosen, strict=True)]


@pytest.mark.parametrize("offset", [0.9, -1.5])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_two_zeros_of_energy_are_said(frames, held_out, offset, share):
    other = np.random.default_rng(3).random(60) < share
    (said,) = [s for s in label_warnings(shifted(frames, other, offset), held_out) if "two groups" in s]
    apart = float(said.split("two groups, ")[1].split()[0])
    assert abs(offset) * 0.7 < apart < abs(offset) * 1.3
    assert f"{min(other.sum(), (~other).sum())} as frame" in said


@pytest.mark.parametrize(("n", "offset"), [(12, 25.0), (60, -3.0), (60, 400.0)])
def test_zeros_far_apart_are_refused(frames, held_out, n, offset):
    with pytest.raises(InputError, match=r"two groups, .* eV/atom apart .*two zeros or methods in one set"):
        label_warnings(shifted(frames[:n], np.arange(n) >= n // 2, offset), held_out)


def test_an_outlier_is_named(frames, held_out):
    (said,) = label_warnings(shifted(frames, np.arange(60) == 17, 3.0), held_out)
    assert said.startswith("the energies of 1 training frame (17) are up to")


@pytest.mark.parametrize("offset", [1.0, -200.0])
def test_another_zero_in_validation_is_said(frames, held_out, offset):
    (said,) = label_warnings(frames, shifted(held_out, [True] * 8, offset))
    assert said.startswith(f"energies of validation lie {offset:+.0f}"[:37])


def test_a_gap_by_hand():
    gap = widest_gap(np.array([0.0, 1.0, 0.5, 11.0, 12.0, 11.5]))
    assert (gap.size, gap.middle) == (10.0, 6.0)
    assert gap.ratio == pytest.approx(10.0 / np.std([0.0, 0.5, 1.0]))


# --- stress -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (-1.0, "of the other sign of"),
        (1.0 / GPa, r"times the size of .*as if in GPa"),
        (-10.0 / GPa, r"of the other sign and .* times the size of .*as if in kbar"),
        (10.0 / GPa, r"times the size of .*as if in kbar"),
        (1.0 / 183.63, "times the size of .*as if in Hartree/Bohr"),
    ],
)
def test_stresses_of_another_sign_or_unit_are_refused(frames, held_out, factor, words):
    wrong = [replace(frame, stress=factor * frame.stress) for frame in frames]
    with pytest.raises(InputError, match=f"stresses of the training frames are .*{words}.* Convert them") as refused:
        label_warnings(wrong, held_out)
    assert ("other sign" in str(refused.value).split(":")[0]) is (factor < 0)
    assert "kbar with the other sign" in str(refused.value)


def test_stresses_that_follow_nothing_are_said_or_left_alone(frames, held_out):
    """Where the labels do not move with the crude fit, it may be the one that is wrong."""
    for constant in (0.02, -0.02, 4.0):
        label_warnings([replace(f, stress=constant * np.array([1, 1, 1, 0, 0, 0])) for f in frames], held_out)
    noise = np.random.default_rng(0).normal(size=(len(frames), 6))
    assert label_warnings([replace(f, stress=100 * s) for f, s in zip(frames, noise, strict=True)], held_out) == ()


def test_frames_without_forces_or_energies_are_no_outliers(frames, held_out):
    some = [replace(f, forces=None) if k % 3 == 0 else f for k, f in enumerate(frames)]
    assert label_warnings(some, held_out) == ()
    unknown = [replace(f, energy=1e6, weights=(0.0, 1.0, 1.0)) if k % 5 == 0 else f for k, f in enumerate(frames)]
    assert label_warnings(unknown, held_out) == ()


# --- copies -------------------------------------------------------------------------------------------------------


def test_copies_are_found_however_they_are_written(frames, held_out):
    turned, moved, sorted_anew = (frames[k].atoms.copy() for k in (3, 4, 5))
    turned.rotate(40.0, (1, 2, 3), rotate_cell=True)
    moved.positions += [0.3, -0.7, 5.0]
    moved.wrap()
    order = [2, 0, 3, 1]
    copies = [
        replace(frames[3], atoms=turned, forces=frames[3].forces @ _rotation(frames[3].atoms, turned)),
        replace(frames[4], atoms=moved),
        replace(frames[5], atoms=sorted_anew[order], forces=frames[5].forces[order]),
        replace(frames[6], energy=round(frames[6].energy, 5)),
    ]
    for k, copy in enumerate(copies):
        (said,) = label_warnings(frames, [*held_out, copy])
        assert said.startswith("1 of 9 validation frames are also in training")
        assert f"(validation frame 8 is training frame {k + 3})" in said


def _rotation(before, after):
    return np.linalg.solve(before.cell.array, after.cell.array)


def test_alike_is_not_the_same():
    """Steps of a run, and fragments whose distance no fingerprint sees, are new structures."""
    rng = np.random.default_rng(0)
    run, atoms = [], molecule("H2O")
    for k in range(40):
        atoms.positions += rng.normal(scale=0.003, size=(3, 3))
        run.append(Frame(atoms.copy(), -10.0 + 1e-3 * np.sin(k), rng.normal(size=(3, 3)), None, ""))
    assert not [said for said in label_warnings(run[::2], run[1::2]) if "also in training" in said]


@pytest.mark.parametrize("offset", [-8.0, 30.0])
@pytest.mark.parametrize("n", [12, 60])
def test_stresses_are_not_refused_for_a_wrong_energy(frames, held_out, n, offset):
    label_warnings(shifted(frames[:n], np.arange(n) == 5, offset), held_out)
