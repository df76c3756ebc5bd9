"""Energies of isolated atoms (E0): of frames that are such atoms, or as the user writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ase.data import chemical_symbols

from ase_uq.errors import InputError
from ase_uq.structures.frames import Frame

WORDS = ("isolated", "average")
# eV: energies of one atom in two frames that differ by more are of two calculations.
_SAME = 1e-3


def without_isolated_atoms(frames: Sequence[Frame]) -> tuple[list[Frame], dict[str, float]]:
    """Take isolated atoms (`config_type=IsolatedAtom`) out of frames.

    Returns
    -------
    (list of Frame, dict)
        The other frames, and the energies of the atoms by element, eV.

    Raises
    ------
    InputError
        If there are two energies for an element.
    """
    found: dict[str, float] = {}
    for frame in frames:
        if not frame.is_isolated_atom:
            continue
        symbol = str(frame.atoms.symbols[0])
        if abs(found.setdefault(symbol, frame.energy) - frame.energy) > _SAME:
            raise InputError(
                f"isolated atoms of {symbol} have two energies, {found[symbol]:.6g} and {frame.energy:.6g} eV; keep "
                "the frame of the calculation that the others are of."
            )
    return [frame for frame in frames if not frame.is_isolated_atom], found


def parse_e0s(text: str) -> dict[str, float] | str:
    """Read "O:-432.1,H:-13.6", or one of the words "isolated" and "average".

    Returns
    -------
    dict or str
        Energies by element, eV, or the word.

    Raises
    ------
    InputError
        For anything else.
    """
    if text.strip().lower() in WORDS:
        return text.strip().lower()
    found: dict[str, float] = {}
    for part in text.strip().strip("{}").split(","):
        symbol, colon, value = part.partition(":")
        symbol = symbol.strip().strip("'\"")
        if symbol.isdigit() and 0 < int(symbol) < len(chemical_symbols):
            symbol = chemical_symbols[int(symbol)]
        try:
            energy = float(value)
        except ValueError:
            energy = math.nan
        if not colon or symbol not in chemical_symbols[1:] or not math.isfinite(energy) or symbol in found:
            raise InputError(
                f"`e0s` must be energies of isolated atoms in eV, such as O:-432.1,H:-13.6, or one of "
                f"{', '.join(WORDS)}, got {part.strip()!r} in {text!r}; correct it."
            )
        found[symbol] = energy
    return found


def check_covered(e0s: Mapping[str, float], elements: Iterable[str]) -> None:
    """Refuse energies of isolated atoms that leave an element out.

    Raises
    ------
    InputError
        With the elements that are missing.
    """
    missing = sorted(set(elements) - set(e0s))
    if missing:
        raise InputError(
            f"`e0s` must have an energy for every element of the frames, {', '.join(missing)} is missing from "
            f"{', '.join(sorted(e0s)) or 'none'}; add it, or leave `e0s` out for an average."
        )
