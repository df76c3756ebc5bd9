"""Are energies and stresses of the sign, unit and order that forces say? Checks before a training.

=======  ==========================================================================================
symbol   variable
=======  ==========================================================================================
e_s      energies of the frames less what is constant for a composition, eV per atom
f_s      the same of a crude fit to the forces alone, which shares their unit and sign
c        `correlation` = e.f / (|e| |f|); of stresses, those of the crude fit to energies and forces
k        `ratio` = |e| / |f|
q        `Equations.per_coefficient`: components of forces for each coefficient of the fit
=======  ==========================================================================================

On published sets k is 0.4 to 4 where c is above 0.9, and no c is below -0.85 with ten frames. What binds distant parts
of a molecule the crude fit does not know: then c is small, and all that can be said is that k is absurd.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
from ase.units import Bohr, GPa, Hartree, kcal, mol

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.structures.frames import Frame
from ase_uq.training.crude_fit import FORCES_ALONE, Equations, force_components, size_of_basis

# Of energies: c from which on they are judged, and k beyond which they are refused; the same for a doubt; k for a doubt
# whatever c is; the part of the forces that no potential leaves unexplained (0.65 at most on published sets), and the
# part from which on a fit to them judges nothing.
FOLLOWS, OTHER_UNIT = 0.9, 10.0
CLOSELY, SMALL, LARGE, ABSURD, UNEXPLAINED, JUDGES = 0.98, 1.0 / 3.0, 5.0, 15.0, 0.85, 0.75
# Of stresses: correlation, and their size; how many say anything, and q where there are few frames.
SIGN, LARGER, FEWEST_LABELS, FEWEST_FORCES = 0.5, 20.0, 5, 10.0
# Frames that are few, and what the fit with energies may miss of the forces, in errors of the one without.
FEW, SPOILT = 10, 2.0
# Correlation, without the means, from which on the crude fit is right, of many and of few frames; that of another order
# of the components, and by how much it is larger than in the usual one.
SURE, SURE_OF_FEW, OTHER_ORDER, BY_MUCH = 0.8, 0.9, 0.9, 0.25
# eV/Å^3, and how exact a guess of the unit must be.
UNITS, WITHIN = {"GPa": GPa, "kbar": 0.1 * GPa, "MPa": 1e-3 * GPa, "Hartree/Bohr^3": Hartree / Bohr**3}, 3.0
# k of energies, and what it may mean.
ENERGY_UNITS = {
    "energies are in kcal/mol": mol / kcal,
    "energies are in kJ/mol": 4.184 * mol / kcal,
    "energies are in Hartree": 1.0 / Hartree,
    "forces are in Hartree/Bohr": Hartree / Bohr,
    "forces are in kcal/mol/Å": kcal / mol,
    "forces are in Rydberg/Bohr": 0.5 * Hartree / Bohr,
}
_ENERGIES_WITHIN = 1.5
# Where the six components xx, yy, zz, yz, xz, xy are in rows of a triangle.
_TRIANGLES = {"xx, xy, xz, yy, yz, zz": (0, 3, 5, 4, 2, 1), "xx, xy, yy, xz, yz, zz": (0, 2, 5, 4, 3, 1)}
_SHEAR = ("yz", "xz", "xy")


def energies_against_forces(equations: Equations) -> list[str]:
    """Return doubts about the sign and the unit of energies or forces.

    Raises
    ------
    InputError
        Where there is no doubt.
    """
    alone, _ = equations.solve(energy_weight=FORCES_ALONE)
    misfit = equations.misfit_of_forces(alone)
    if misfit > UNEXPLAINED and equations.per_coefficient > FEWEST_FORCES:
        said = (
            f"forces hardly depend on where the atoms are, a crude fit leaves {misfit:.0%} of them: see that they are "
            "in the order of the atoms, of one sign, and of these structures."
        )
        return [said]
    found, expected = equations.against(alone)
    correlation, ratio = _alike(found, expected)
    if ratio == 0.0 or len(found) < FEW or misfit > JUDGES:
        return []
    follows = abs(correlation) > FOLLOWS and equations.per_coefficient > 0.5 * FEWEST_FORCES
    opposite, other_size = follows and correlation < 0.0, follows and not 1.0 / OTHER_UNIT < ratio < OTHER_UNIT
    far = {what: abs(float(np.log(ratio / k))) for what, k in ENERGY_UNITS.items()}
    guesses = [what for what in sorted(far, key=lambda each: far[each]) if far[what] < np.log(_ENERGIES_WITHIN)]
    if opposite or other_size:
        wrong = " and ".join(
            ["of the other sign"] * opposite + [f"{ratio:.2g} times the size"] * (ratio > LARGE or ratio < SMALL)
        )
        raise InputError(
            f"energies of the training frames are {wrong} of what their forces suggest (correlation {correlation:.2f})"
            f"{_as_if(guesses[:1])}: energies are in eV and of the whole structure, forces in eV/Å and minus "
            "the gradient; convert them."
        )
    if ratio > ABSURD or (correlation > CLOSELY and not SMALL < ratio < LARGE):
        per_atom = [] if ratio > 1.0 else ["energies are per atom"]
        said = (
            f"energies of the training frames differ {ratio:.2g} times as much as their forces suggest"
            f"{_as_if((per_atom + guesses)[:1])}: see that they are in eV and of whole structures, and forces in eV/Å."
        )
        return [said]
    return []


def stresses_against_forces(equations: Equations, frames: Sequence[Frame], *, is_sure: bool) -> list[str]:
    """Return doubts about the sign, the unit and the order of stresses.

    Parameters
    ----------
    equations
        Of the frames.
    frames
        Those with energies.
    is_sure
        Whether energies are beyond doubt: wrong ones spoil the fit.

    Raises
    ------
    InputError
        Where there is no doubt.
    """
    labelled = [frame for frame in frames if frame.stress is not None]
    few = len(frames) < FEW
    if len(labelled) < FEWEST_LABELS or (few and equations.per_coefficient < FEWEST_FORCES):
        return []
    labels = np.array([frame.stress for frame in labelled])
    crude, _ = equations.solve()
    expected = np.array([crude.stress(frame.atoms) for frame in labelled])
    said, sure = _judged(labels, expected, surely=SURE_OF_FEW if few else SURE)
    if said is None or (few and not sure):
        return []
    # Wrong energies spoil the fit, and its forces with it: then it is not the stress that is to blame.
    alone, _ = equations.solve(energy_weight=FORCES_ALONE)
    misfit = equations.misfit_of_forces(alone)
    spoilt = equations.misfit_of_forces(crude) > SPOILT * misfit or misfit > JUDGES
    if sure and not spoilt and is_sure:
        raise InputError(f"{said} Convert them, or leave them out.")
    return [said]


def unjudged_stresses(frames: Sequence[Frame]) -> list[str]:
    """Say that there are stresses, and too few of them, or of forces, to judge them by."""
    n_labels = sum(frame.stress is not None for frame in frames)
    if n_labels == 0:
        return []
    elements = {symbol for frame in frames for symbol in frame.atoms.symbols}
    known = [len(frame.atoms) for frame in frames if frame.forces is not None]
    per_coefficient = force_components(known) / (len(elements) + size_of_basis(len(elements)))
    if n_labels >= FEWEST_LABELS and (len(frames) >= FEW or per_coefficient >= FEWEST_FORCES):
        return []
    said = (
        f"stresses of {n_labels} training frames are too few to see whether they are of the right sign, unit and "
        "order: eV/Å^3, positive under tension, xx, yy, zz, yz, xz, xy."
    )
    return [said]


def _as_if(what: Sequence[str]) -> str:
    return f", as if {what[0]}" if what else ""


def _judged(labels: Array, expected: Array, *, surely: float) -> tuple[str | None, bool]:
    """Return what is wrong with stresses (S, 6) against those of a crude fit, and whether there is no doubt."""
    # What all frames have in common may be anything; what differs between them tells more.
    correlation, ratio = _alike(labels - labels.mean(axis=0), expected - expected.mean(axis=0))
    sure = abs(correlation) > surely
    if not sure:
        correlation, ratio = _alike(labels, expected)
    opposite, other_size = correlation < -SIGN, not 1.0 / LARGER < ratio < LARGER
    if ratio == 0.0 or not (opposite or (other_size and abs(correlation) >= SIGN)):
        return _in_another_order(labels, expected), True
    wrong = " and ".join(
        (["of the other sign"] if opposite else []) + ([f"{ratio:.2g} times the size"] if other_size else [])
    )
    units = [name for name, unit in UNITS.items() if other_size and 1.0 / WITHIN < ratio * unit < WITHIN]
    said = (
        f"stresses of the training frames are {wrong} of what their energies and forces suggest (correlation "
        f"{correlation:.2f}){f', as if in {units[0]}' if units else ''}: labels are in eV/Å^3 and positive under "
        f"tension; 1 GPa is {GPa:.4g}, 1 kbar {0.1 * GPa:.4g}, and VASP prints kbar with the other sign."
    )
    return said, sure


def _alike(labels: Array, expected: Array) -> tuple[float, float]:
    """Return the correlation of two arrays, and the size of the first over that of the second; 0 where one vanishes."""
    size, usual = (float(np.sqrt(np.sum(values**2))) for values in (labels, expected))
    if not size * usual > 0.0:
        return 0.0, 0.0
    return float(np.sum(labels * expected) / (size * usual)), size / usual


def _in_another_order(labels: Array, expected: Array) -> str | None:
    """Say so if another order of the six components fits, and the usual one does not."""
    labels, expected = labels - labels.mean(axis=0), expected - expected.mean(axis=0)
    shears = [((0, 1, 2, *order), 3) for order in permutations((3, 4, 5))]
    candidates = {", ".join(("xx, yy, zz", *_named(order[3:]))): (order, first) for order, first in shears[1:]}
    candidates |= {name: (order, 0) for name, order in _TRIANGLES.items()}
    for name, (order, first) in candidates.items():
        other = _alike(labels[:, order][:, first:], expected[:, first:])[0]
        usual = _alike(labels[:, first:], expected[:, first:])[0]
        if other > max(OTHER_ORDER, usual + BY_MUCH):
            return (
                f"stresses of the training frames follow what their energies and forces suggest in the order {name} "
                f"(correlation {other:.2f}) and not in that of Voigt, xx, yy, zz, yz, xz, xy ({usual:.2f})."
            )
    return None


def _named(order: Sequence[int]) -> list[str]:
    """Return what is at each place of the labels, if `order` brings them into Voigt's."""
    at = {place: name for name, place in zip(_SHEAR, order, strict=True)}
    return [at[place] for place in (3, 4, 5)]
