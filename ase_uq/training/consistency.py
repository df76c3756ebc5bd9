"""Do the labels of a set belong together? Checks before a training, against a crude fit to the same labels.

=======  ==========================================================================================
symbol   variable
=======  ==========================================================================================
r_s      `residuals[s]`: energy of frame s less that of the crude fit, eV per atom
g        `gap.size`: the widest jump between neighbours in the sorted r, in relation to the larger
         standard deviation w of the two sides; the rest is `gap.ratio` = g / w
m        1.4826 x median of |r - median r|, a standard deviation that outliers do not change
=======  ==========================================================================================

Two zeros of energy in one set part the residuals into two groups with nothing between them. The wrong energies spoil
the fit that should find them, so that it is done as a mixture: forces alone say where the groups are, and then the fit
with a zero for each group and the groups themselves in turn. Solid and liquid may differ like that by 0.5 eV per atom
on published sets, where the crude potential knows no better; what is less is therefore not judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.structures.frames import Frame
from ase_uq.training.crude_fit import ENERGY_FRAMES, FORCES_ALONE, Basis, Crude, Equations
from ase_uq.training.signs_and_units import energies_against_forces, stresses_against_forces

FEWEST, MANY = 10, 50
# Of the gap: g / w, and g (eV per atom); from the last on it is refused.
GAP_RATIO, GAP, REFUSED_GAP = 10.0, 0.6, 2.0
# Smallest part of the frames, few or many, that is a group.
GROUP_OF_FEW, GROUP_OF_MANY = 0.2, 0.05
# Of single frames: of m, and eV per atom. What is refused of them is in `energy_residuals`.
OUTLYING, FAR_OUT = 25.0, 0.5
_ROUNDS, _STARTS = 8, (0.1, 0.3, 0.5, 0.7, 0.9)
# Of validation against training, of m, and how many frames at least.
SHIFTED, FEWEST_LABELS = 10.0, 5
# Two structures are one when energies (eV), forces (of their rms) and fingerprints differ by no more.
SAME_ENERGY, SAME_FORCES, SAME_STRUCTURE = 1e-4, 1e-3, 2e-5


@dataclass(frozen=True, slots=True)
class Gap:
    """Where sorted residuals part: g / w, g in eV per atom, and the value in the middle."""

    ratio: float
    size: float
    middle: float


def label_warnings(train: Sequence[Frame], valid: Sequence[Frame]) -> tuple[str, ...]:
    """Check labels against each other, and that no structure is both in training and in validation.

    Parameters
    ----------
    train, valid
        Labelled frames; of many, 300 are looked at for the energies and stresses.

    Raises
    ------
    InputError
        For energies that fall into two groups more than 2 eV per atom apart, and energies or stresses that follow the
        forces with the other sign, in another unit or in another order.
    """
    order = np.random.default_rng(0).permutation(len(train))[:ENERGY_FRAMES]
    # Isolated atoms say nothing of what others should have.
    some = [train[i] for i in order if len(train[i].atoms) > 1 and train[i].has_energy]
    found: list[str] = []
    if any(frame.forces is not None for frame in some):
        index = {id(frame): i for i, frame in enumerate(train)}
        places = [index[id(frame)] for frame in some]
        equations = Equations(some)
        crude, _ = equations.solve()
        residuals = equations.residuals(crude)
        outliers = _outliers(residuals, places) if len(some) >= FEWEST else []
        if len(some) >= FEWEST:
            found += _two_zeros(equations, places)
            found += [] if found or outliers else energies_against_forces(equations)
        found += stresses_against_forces(equations, some, is_sure=not (found or outliers))
        if len(some) >= FEWEST and not found:
            found += [*outliers, *_zero_of_validation(crude, residuals, some, valid)]
    return (*found, *_copies(train, valid))


def widest_gap(residuals: Array) -> Gap:
    """Find the jump in sorted residuals (S,) that is widest in relation to the spread of either side."""
    ordered = np.sort(residuals)
    best = Gap(0.0, 0.0, 0.0)
    for k in _cuts(len(ordered)):
        size = float(ordered[k] - ordered[k - 1])
        spread = max(ordered[:k].std(), ordered[k:].std(), 1e-12)
        if size / spread > best.ratio:
            best = Gap(size / spread, size, float(ordered[k] + ordered[k - 1]) / 2.0)
    return best


def _cuts(n: int) -> range:
    fewest = max(2, int(np.ceil((GROUP_OF_FEW if n < MANY else GROUP_OF_MANY) * n)))
    return range(fewest, n - fewest + 1)


def _upper(residuals: Array) -> NDArray[np.bool_]:
    """Part residuals in two, with the least squares within (k-means in one dimension)."""
    ordered = np.sort(residuals)
    within = {k: k * ordered[:k].var() + (len(ordered) - k) * ordered[k:].var() for k in _cuts(len(ordered))}
    k = min(within, key=lambda k: float(within[k]))
    return np.asarray(residuals > 0.5 * (ordered[k - 1] + ordered[k]))


def _alternated(equations: Equations, upper: NDArray[np.bool_]) -> Array:
    """Fit with a zero for each group, and part the residuals anew, until nothing changes."""
    for _ in range(_ROUNDS):
        crude, _ = equations.solve(moved=upper)
        residuals = equations.residuals(crude)
        last, upper = upper, _upper(residuals)
        if np.array_equal(last, upper):
            break
    return residuals


def _within(residuals: Array) -> float:
    upper = _upper(residuals)
    return float(sum(part.var() * len(part) for part in (residuals[upper], residuals[~upper]) if len(part)))


def _two_zeros(equations: Equations, index: Sequence[int]) -> list[str]:
    crude, _ = equations.solve(energy_weight=FORCES_ALONE)
    start = equations.residuals(crude)
    starts = [_upper(start), *(start > np.quantile(start, part) for part in _STARTS)]
    # The best of several starts: the two steps end where they began when that was too far off.
    residuals = min((_alternated(equations, upper) for upper in starts), key=_within)
    gap = widest_gap(residuals)
    if gap.ratio < GAP_RATIO or gap.size < GAP:
        return []
    upper = residuals > gap.middle
    low, high = (min(i for i, up in zip(index, upper, strict=True) if up == side) for side in (False, True))
    said = (
        f"energies fall into two groups, {gap.size:.3g} eV/atom apart for alike structures (of {len(index)} "
        f"training frames looked at, {(~upper).sum()} as frame {low}, {upper.sum()} as frame {high}): two zeros "
        "or methods in one set; train on one of them, or align the zeros first."
    )
    if gap.size >= REFUSED_GAP:
        raise InputError(said)
    return [said]


def _zero_of_validation(crude: Crude, residuals: Array, train: Sequence[Frame], valid: Sequence[Frame]) -> list[str]:
    """Compare the middle of the residuals of either set."""
    # What binds other pairs of elements is not known.
    seen = {frozenset(frame.atoms.symbols) for frame in train}
    known = [
        frame
        for frame in valid[:ENERGY_FRAMES]
        if frozenset(frame.atoms.symbols) in seen and len(frame.atoms) > 1 and frame.has_energy
    ]
    if len(known) < FEWEST_LABELS:
        return []
    middle = float(np.median(residuals))
    typical = 1.4826 * float(np.median(np.abs(residuals - middle)))
    energies = np.array([frame.energy for frame in known]) - crude.energies([frame.atoms for frame in known])
    shift = float(np.median(energies / [len(frame.atoms) for frame in known])) - middle
    if abs(shift) < max(SHIFTED * typical, GAP):
        return []
    said = (
        f"energies of validation lie {shift:+.3g} eV/atom off those of training for alike structures "
        f"({1e3 * typical:.2g} meV/atom is usual): another zero or method; validate on frames of one calculation."
    )
    return [said]


def _outliers(residuals: Array, index: Sequence[int]) -> list[str]:
    off = np.abs(residuals - np.median(residuals))
    typical = 1.4826 * float(np.median(off))
    far = [i for i, size in zip(index, off, strict=True) if size > max(OUTLYING * typical, FAR_OUT)]
    if not far:
        return []
    named = ", ".join(str(i) for i in sorted(far)[:5]) + (", ..." if len(far) > 5 else "")
    some = f"{len(far)} training frame{'s' * (len(far) > 1)} ({named})"
    said = (
        f"the energies of {some} are up to {off.max():.3g} eV/atom off what the others suggest "
        f"({1e3 * typical:.2g} meV/atom is usual): look at them, and remove what did not converge."
    )
    return [said]


def _copies(train: Sequence[Frame], valid: Sequence[Frame]) -> list[str]:
    known: dict[tuple[str, int], list[int]] = {}
    for i, frame in enumerate(train):
        known.setdefault(_place(frame), []).append(i)
    pairs = []
    for k, frame in enumerate(valid):
        formula, bin_of_energy = _place(frame)
        near = [i for shift in (-1, 0, 1) for i in known.get((formula, bin_of_energy + shift), ())]
        pairs += [(i, k) for i in near if _one_structure(train[i], frame)][:1]
    if not pairs:
        return []
    i, k = pairs[0]
    said = (
        f"{len(pairs)} of {len(valid)} validation frames are also in training, perhaps turned or shifted (validation "
        f"frame {k} is training frame {i}): errors on them are none of new structures; remove the copies."
    )
    return [said]


def _place(frame: Frame) -> tuple[str, int]:
    return frame.atoms.get_chemical_formula(), int(np.floor(frame.energy / SAME_ENERGY))


def _one_structure(a: Frame, b: Frame) -> bool:
    """Whether two frames are one structure, perhaps shifted, turned or in another order of its atoms."""
    of_a = of_b = 0.0
    if a.forces is not None and b.forces is not None:
        of_a, of_b = (float(np.sqrt(np.mean(forces**2))) for forces in (a.forces, b.forces))
    if abs(a.energy - b.energy) > SAME_ENERGY or abs(of_a - of_b) > SAME_FORCES * max(of_a, of_b) + 1e-5:
        return False
    elements = sorted(set(a.atoms.symbols))
    one, other = (Basis(frame.atoms, elements).values for frame in (a, b))
    return bool(np.abs(one - other).max() <= SAME_STRUCTURE * np.abs(one).max())
