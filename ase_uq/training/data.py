"""Labelled frames: read them, check them, split them."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io.formats import UnknownFileTypeError
from numpy.typing import NDArray

from ase_uq.errors import InputError
from ase_uq.structure import check_structure

Array = NDArray[np.float64]
REFERENCE_KEYS = {"energy": "REF_energy", "forces": "REF_forces", "stress": "REF_stress"}


@dataclass(frozen=True, slots=True)
class Frame:
    """A structure with its labels.

    Attributes
    ----------
    atoms
        The structure, without a calculator.
    energy
        eV.
    forces
        (N, 3), eV/Å.
    stress
        (6,) Voigt, eV/Å^3, ASE's sign, or `None`.
    group
        `config_type` of the frame, or the empty string.
    """

    atoms: Atoms
    energy: float
    forces: Array
    stress: Array | None
    group: str


def read_frames(
    path: str | Path,
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    max_force: float = 300.0,
) -> list[Frame]:
    """Read labelled frames from extended XYZ (also .gz) or any file ASE reads.

    Parameters
    ----------
    path
        The file.
    energy_key, forces_key, stress_key
        Names of the labels in `atoms.info` and `atoms.arrays`. By default REF_energy, REF_forces and REF_stress where a
        frame has them, otherwise the labels of ASE's own attached calculator. Stress is optional.
    max_force
        eV/Å. A larger force component is taken for a mistake, in units or convergence.

    Raises
    ------
    InputError
        For a file that cannot be read, a missing label, a label that is not finite or too large; the frame is named.
    """
    keys = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    frames = []
    for index, atoms in enumerate(read_structures(path)):
        where = f"frame {index} of {path}"
        frames.append(_frame(atoms, keys, where, max_force))
    return frames


def read_structures(path: str | Path) -> list[Atoms]:
    """Read all structures of a file, labelled or not.

    Raises
    ------
    InputError
        For a file that cannot be read, or a structure that no potential can evaluate.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"`{path}` must be a file with structures, and there is none; check the path.")
    try:
        structures = list(ase.io.iread(path, ":"))
    except (OSError, EOFError, ValueError, KeyError, IndexError, zlib.error, UnknownFileTypeError) as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise InputError(
            f"`{path}` could not be read as structures ({reason}); it may be truncated or of another format."
        ) from e
    if not structures:
        raise InputError(f"`{path}` must hold at least one structure, got none; check the file.")
    for index, atoms in enumerate(structures):
        try:
            check_structure(atoms)
        except InputError as e:
            raise InputError(f"frame {index} of {path}: {e}") from e
    return structures


def split_frames(frames: Sequence[Frame], *, valid_fraction: float, seed: int = 0) -> tuple[list[Frame], list[Frame]]:
    """Split at random into training and validation frames, at least one of each.

    Raises
    ------
    InputError
        For a fraction outside (0, 1) or fewer than two frames.
    """
    if not 0.0 < valid_fraction < 1.0:
        raise InputError(f"`valid_fraction` must lie between 0 and 1, got {valid_fraction}; 0.1 is usual.")
    if len(frames) < 2:
        raise InputError(
            f"a random split needs at least 2 frames, got {len(frames)}; give more frames or a validation file."
        )
    n_valid = min(max(1, round(valid_fraction * len(frames))), len(frames) - 1)
    order = np.random.default_rng(seed).permutation(len(frames))
    chosen = set(order[:n_valid].tolist())
    return [f for i, f in enumerate(frames) if i not in chosen], [f for i, f in enumerate(frames) if i in chosen]


def _frame(atoms: Atoms, keys: dict[str, str | None], where: str, max_force: float) -> Frame:
    energy = np.asarray(_label(atoms, "energy", keys["energy"], where), dtype=np.float64)
    forces = np.asarray(_label(atoms, "forces", keys["forces"], where), dtype=np.float64)
    stress = _label(atoms, "stress", keys["stress"], where)
    if energy.shape != () or forces.shape != (len(atoms), 3):
        raise InputError(
            f"{where}: the energy must be one number and the forces ({len(atoms)}, 3), got shapes {energy.shape} and "
            f"{forces.shape}; check the keys."
        )
    voigt = None if stress is None else _voigt(np.asarray(stress, dtype=np.float64), where)
    for name, value in (("energy", energy), ("forces", forces), ("stress", voigt)):
        if value is not None and not np.isfinite(value).all():
            raise InputError(f"{where}: the {name} label must be finite, got nan or inf; remove the frame.")
    largest = float(np.abs(forces).max())
    if largest > max_force:
        raise InputError(
            f"{where}: a force of {largest:.4g} eV/Å exceeds `max_force` {max_force:g}; "
            "check units and convergence, remove the frame, or raise the limit."
        )
    own = atoms.copy()
    own.calc = None
    return Frame(own, float(energy), forces, voigt, str(atoms.info.get("config_type", "")))


def _label(atoms: Atoms, name: str, key: str | None, where: str) -> Any:
    store = atoms.arrays if name == "forces" else atoms.info
    if key is not None and key in store:
        return store[key]
    if key is None and REFERENCE_KEYS[name] in store:
        return store[REFERENCE_KEYS[name]]
    if atoms.calc is not None and key in (None, name):
        try:
            value = atoms.calc.get_property(name, atoms, allow_calculation=False)
        except PropertyNotImplementedError:
            value = None
        if value is not None:
            return value
    if name == "stress" and key is None:
        return None
    wanted = key or REFERENCE_KEYS[name]
    known = sorted(set(store) - {"numbers", "positions", "config_type"})
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known) or 'none'}."
    raise InputError(f"{where} has no {name} under `{wanted}`; {guess} Name it with --{name}-key ({name}_key).")


def _voigt(stress: Array, where: str) -> Array:
    if stress.shape == (6,):
        return stress
    if stress.size != 9:
        raise InputError(f"{where}: the stress must hold 6 or 9 numbers, got shape {stress.shape}; check the key.")
    full = stress.reshape(3, 3)
    if np.abs(full - full.T).max() > 1e-3 * max(1e-3, np.abs(full).max()):
        raise InputError(f"{where}: the stress must be symmetric, got {full.tolist()}; check how it was written.")
    return np.array([full[0, 0], full[1, 1], full[2, 2], full[1, 2], full[0, 2], full[0, 1]])
