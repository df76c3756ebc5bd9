"""What energies leave of one constant per element: limits that no honest set meets, and no wrong one passes."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from ase_uq.errors import InputError
from ase_uq.training import Frame
from ase_uq.training.energy_residuals import check_residuals, robust_residuals
from ase_uq.training.reference import fit_reference
from tests.made.alloys import labelled

ZEROS = {"Cu": -3.0, "Au": -5.0, "O": -432.0}


def made(n=12, seed=0, symbols=("Cu", "Au", "O")):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        chosen = rng.choice(symbols, rng.integers(2, 9))
        atoms = Atoms(list(chosen), rng.normal(scale=3.0, size=(len(chosen), 3)))
        energy = sum(ZEROS[symbol] for symbol in atoms.symbols) + 0.1 * len(atoms) * rng.normal()
        frames.append(Frame(atoms, energy, rng.normal(size=(len(atoms), 3)), None, ""))
    return frames


def off(frames, chosen, offset):
    return [replace(f, energy=f.energy + offset) if k in chosen else f for k, f in enumerate(frames)]


def test_constants_of_the_many_hold():
    frames = made(20)
    found = robust_residuals(off(frames, {4}, 1e5))
    assert np.abs(np.delete(found, 4)).max() < 1.0
    assert found[4] == pytest.approx(1e5 / len(frames[4].atoms), rel=1e-3)


@pytest.mark.parametrize("offset", [1e6, -1e6, 300.0])
@pytest.mark.parametrize("n", [4, 12])
def test_a_single_energy_far_off_is_named(n, offset):
    frames = made(n)
    with pytest.raises(InputError, match=r"training frame 1: its energy of .* eV per atom off what its composition"):
        check_residuals(off(frames, {1}, offset))
    with pytest.raises(InputError, match="validation frame 0: its energy of "):
        check_residuals(off(frames, {1}, offset), n_train=1)
    check_residuals(off(frames, {1}, offset), max_residual=1e7)


@pytest.mark.parametrize("n", [4, 6, 20])
def test_two_zeros_far_apart_are_refused_in_small_sets_too(n):
    frames = [replace(f, atoms=made(1)[0].atoms, energy=-10.0 + 0.01 * k) for k, f in enumerate(made(n))]
    moved = off(frames, set(range(n // 2, n)), 30.0 * len(frames[0].atoms))
    with pytest.raises(InputError, match=f"two groups, 30 eV .* as training frame 0, .* as training frame {n // 2}"):
        check_residuals(moved)


def test_what_is_pushed_together_may_lie_high():
    frames = made(12)
    check_residuals(off(frames, {2}, 15.0 * len(frames[2].atoms)))
    pushed = off(frames, {2}, 60.0 * len(frames[2].atoms))
    with pytest.raises(InputError, match="training frame 2"):
        check_residuals(pushed)
    pushed[2] = replace(pushed[2], forces=np.full((len(pushed[2].atoms), 3), 100.0))
    check_residuals(pushed)


def test_energies_of_isolated_atoms_tell_elements_apart():
    """Frames of one composition: a fit gives each element the same share, energies of atoms their own."""
    frames = [replace(f, atoms=_copper_gold(f.atoms)) for f in labelled(6, 0)]
    e0s = {"Cu": -100.0, "Au": -5000.0}
    energies = [replace(f, energy=f.energy + 2 * sum(e0s.values())) for f in frames]
    found = fit_reference(energies, cutoff=3.5, e0s=e0s)
    shifts = dict(zip(found.elements, found.shifts, strict=True))
    assert shifts["Cu"] - shifts["Au"] == pytest.approx(4900.0)
    assert 2 * sum(found.shifts) == pytest.approx(np.mean([f.energy for f in energies]))
    with pytest.raises(InputError, match="Au is missing from Cu"):
        fit_reference(energies, cutoff=3.5, e0s={"Cu": -100.0})


def _copper_gold(atoms):
    made = atoms.copy()
    made.symbols[:] = ["Cu", "Cu", "Au", "Au"]
    return made


def test_energies_without_weight_fix_no_constants():
    frames = labelled(6, 0)
    wrong = [replace(frames[0], energy=1e6, weights=(0.0, 1.0, 1.0)), *frames[1:]]
    assert fit_reference(wrong, cutoff=3.5).shifts == pytest.approx(fit_reference(frames[1:], cutoff=3.5).shifts)
