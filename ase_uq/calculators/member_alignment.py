"""Common zero of energy for the members of a committee: a constant per member and element, by least squares.

=======  =========================================================================================
symbol   variable
=======  =========================================================================================
E_fi     `energies[f, i]`, raw energy of member i in frame f
Ebar_f   their mean over members, whose zero is the one that stays
n_fz     atoms of element z in frame f; N_f = sum_z n_fz
o_iz     `offsets[i][z]`: minimise sum_f (Ebar_f - E_fi - sum_z n_fz o_iz)^2 / N_f^2
=======  =========================================================================================

A constant per element cancels in every force, in every average at fixed composition and in every difference of free
energies. It does not cancel in the spread of the members' energies, and programs, pseudopotentials and sets of atomic
energies place it where they like. Since sum_i (Ebar_f - E_fi) = 0, the offsets of the members sum to zero: the mean of
the committee, and with it the dynamics, stays what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.formula import Formula
from numpy.typing import ArrayLike

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.structures.offsets import fit_offsets

# A committee is refused when its energies spread further than all of these allow (see `check_zeros`).
LARGEST_SPREAD = 1.0  # eV
LARGEST_SPREAD_PER_ATOM = 0.05  # eV
LARGEST_LEVER = 2.5  # Å
LARGEST_SHARE = 0.1  # of an energy of cohesion, which is what a mean energy is taken for up to
LARGEST_COHESION = 10.0  # eV per atom

# Element counts are exact: what remains of a composition beside those aligned on is rounding or a new direction.
_SAME_COMPOSITION = 1e-8
_MOST_FORMULAS = 4


@dataclass(frozen=True, slots=True)
class MemberOffsets:
    """Constants that bring the members of a committee to one zero of energy.

    Attributes
    ----------
    offsets
        One dictionary per member: energy in eV added per atom of each element. Over members they sum to zero.
    formulas
        Compositions they were fitted on, reduced, such as "H2O".
    span
        (rank, Z), orthonormal: the shares of the elements in these compositions, and what they combine to.
    """

    offsets: tuple[dict[str, float], ...]
    formulas: tuple[str, ...]
    span: Array = field(repr=False, compare=False)

    @classmethod
    def fit(cls, frames: Sequence[Atoms], energies: ArrayLike) -> MemberOffsets:
        """Fit the offsets of every member to the mean of all.

        Parameters
        ----------
        frames
            S structures; only their compositions are read.
        energies
            (S, M), raw total energies of the members, eV.

        Raises
        ------
        InputError
            For an energy that is not finite.

        Examples
        --------
        >>> from ase.build import molecule
        >>> fitted = MemberOffsets.fit([molecule("H2O"), molecule("H2")], [[-10.0, -4.0], [-2.0, 0.0]])
        >>> [{symbol: round(value, 6) for symbol, value in member.items()} for member in fitted.offsets]
        [{'H': 0.5, 'O': 2.0}, {'H': -0.5, 'O': -2.0}]
        """
        e = np.array(energies, dtype=np.float64)
        if not np.isfinite(e).all():
            f, i = np.argwhere(~np.isfinite(e))[0]
            raise InputError(
                f"`align` must hold structures that every member can evaluate, member {i} gives {e[f, i]} eV for "
                f"frame {f}; leave that frame out."
            )
        # By way of the first member, so that equal members get no offset from rounding of their mean.
        mean = e[:, 0] + (e - e[:, :1]).mean(axis=1)
        offsets = tuple(fit_offsets(frames, model_energies=mean, baseline_energies=member) for member in e.T)
        formulas = tuple(dict.fromkeys(_reduced(atoms) for atoms in frames))
        shares = np.array([_shares(Formula(text).count(), list(offsets[0])) for text in formulas])
        _, sizes, directions = np.linalg.svd(shares, full_matrices=False)
        return cls(offsets, formulas, directions[sizes > _SAME_COMPOSITION * sizes[0]])

    def energies(self, atoms: Atoms) -> Array:
        """Return what is added to the energy of each member for a structure, (M,), eV.

        Raises
        ------
        InputError
            If the composition is no combination of those the offsets were fitted on, so that they say nothing about it.
        """
        counts = atoms.symbols.formula.count()
        if not self._covers(counts):
            shown = ", ".join(self.formulas[:_MOST_FORMULAS]) + (", ..." if len(self.formulas) > _MOST_FORMULAS else "")
            raise InputError(
                f"`align` must hold compositions that {_reduced(atoms)} can be combined from, got only {shown}; "
                "the constants of the members are not known for it: add frames of this composition."
            )
        return np.array([sum(n * member[symbol] for symbol, n in counts.items()) for member in self.offsets])

    def _covers(self, counts: dict[str, int]) -> bool:
        symbols = list(self.offsets[0])
        if not set(counts) <= set(symbols):
            return False
        asked = _shares(counts, symbols)
        return bool(np.abs(self.span.T @ (self.span @ asked) - asked).max() < _SAME_COMPOSITION)


def check_zeros(atoms: Atoms, energies: ArrayLike, forces: ArrayLike) -> None:
    """Refuse members whose zeros of energy are electronvolts apart.

    A spread of energies is real as far as it comes from forces that differ, along the way between a structure where the
    members agree and this one; in a crystal whose forces vanish it may be that of the energies of cohesion. What is
    larger than 1 eV, than 0.05 eV per atom, than the spread of all force components over 2.5 Å and, where the mean
    energy may be one of cohesion (up to 10 eV per atom), than a tenth of it, is a matter of zeros.

    Parameters
    ----------
    atoms
        The structure, N atoms.
    energies, forces
        (M,) in eV and (M, N, 3) in eV/Å, raw. What is not finite passes: others say more about it.

    Raises
    ------
    InputError
        With the cure: alignment.
    """
    e, f, n = np.asarray(energies, dtype=np.float64), np.asarray(forces, dtype=np.float64), len(atoms)
    spread, of_forces = float(e.std(ddof=1)), float(np.sqrt(f.var(axis=0, ddof=1).sum()))
    cohesion = abs(float(e.mean())) if abs(e.mean()) <= LARGEST_COHESION * n else 0.0
    largest = (LARGEST_SPREAD, LARGEST_SPREAD_PER_ATOM * n, LARGEST_LEVER * of_forces, LARGEST_SHARE * cohesion)
    if spread > max(largest):
        raise InputError(
            f"`calculators` must share one zero of energy, got energies of {atoms.get_chemical_formula()} that spread "
            f"by {spread:.3g} eV ({spread / n:.2g} eV per atom) with forces that spread by "
            f"{of_forces / np.sqrt(3 * n):.2g} eV/Å; pass `align=frames`, a few structures of what you will run, to "
            "shift each member by a constant per element."
        )


def _shares(counts: dict[str, int], symbols: list[str]) -> Array:
    n = np.array([counts.get(symbol, 0) for symbol in symbols], dtype=np.float64)
    return np.asarray(n / n.sum())


def _reduced(atoms: Atoms) -> str:
    return str(atoms.symbols.formula.reduce()[0].format("hill"))
