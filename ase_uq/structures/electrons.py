"""Charge and spin of frames: no potential here knows them, so that frames of several cannot be told apart.

One charge for all frames is a property of the data, and said; two are two potential energy surfaces, and refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from ase_uq.errors import InputError

# Names of `atoms.info` without case, underscores and prefixes of the source, and values that are as good as none.
NAMES = {
    "charge": ({"charge", "totalcharge", "netcharge", "systemcharge", "molecularcharge", "molcharge"}, (0.0,)),
    "spin": (
        {"spin", "totalspin", "multiplicity", "spinmultiplicity", "totalmultiplicity", "spinmult", "mult"},
        (0.0, 1.0),
    ),
}
_ROUNDING = 0.1
_PREFIX = re.compile("^(ref|dft|qm)")


def electron_notes(structures: Sequence[Atoms], path: object) -> tuple[str, ...]:
    """Say which charge and spin all frames have, where it is not the usual one.

    Parameters
    ----------
    structures
        Of one file; spins of single atoms are left out, which have one of their own.
    path
        Of the file, for messages.

    Raises
    ------
    InputError
        If they differ among frames.
    """
    found = []
    for kind, (names, usual) in NAMES.items():
        if kind == "charge":
            own = [_value(atoms, names, or_array="initial_charges") for atoms in structures]
        else:
            own = [_value(atoms, names) for atoms in structures if len(atoms) > 1]
        entries = next((name for name, _ in own if name), "")
        if not entries:
            continue
        # Nothing said is the same as the usual value, if the others have it.
        said = Counter("none" if value is None else value for _, value in own)
        values = [value for _, value in own if value is not None]
        neutral = [value for value in set(values) if value in usual]
        missing = said.pop("none", 0)
        if missing and neutral:
            said[neutral[0]] += missing
        elif missing:
            said["none"] = missing
        if len(said) > 1:
            listed = ", ".join(f"{_text(value)} in {count}" for value, count in said.most_common(4))
            raise InputError(
                f"frames of `{path}` differ in `{entries}` ({listed} frames), and no potential here knows the {kind} "
                "of a structure: they are several energy surfaces; make a file for each, or remove the entry where it "
                "means nothing."
            )
        (value,) = said
        if value not in usual:
            found.append(
                f"`{entries}` is {_text(value)} in all frames: the model is for this {kind} alone, and takes every "
                "structure as one of it"
            )
    n_magnetic = sum(bool(np.any(atoms.arrays.get("initial_magmoms", 0.0))) for atoms in structures)
    if n_magnetic:
        found.append(
            f"`initial_magmoms` of {n_magnetic} of {len(structures)} frames are not read: the model takes "
            "every structure as one of its usual magnetic state"
        )
    return tuple(found)


def _value(atoms: Atoms, names: set[str], *, or_array: str = "") -> tuple[str, float | str | None]:
    for name, value in atoms.info.items():
        if _PREFIX.sub("", re.sub("[_ -]", "", str(name).lower())) in names and value is not None:
            return str(name), _plain(value)
    if or_array in atoms.arrays:
        # ASE's way to give a charge to a calculator; charges of atoms from a population analysis add up to it.
        total = float(atoms.arrays[or_array].sum())
        return f"the sum of {or_array}", float(round(total)) if abs(total - round(total)) < _ROUNDING else round(
            total, 2
        )
    return "", None


def _plain(value: Any) -> float | str:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return str(value)
    return float(array.ravel()[0]) if array.size == 1 else str(array.tolist())


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
