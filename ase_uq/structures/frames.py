"""Labelled frames: read them, check them, split them."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import UnknownFileTypeError

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.structures.checks import check_structure, is_periodic
from ase_uq.structures.labels import check_stress_size, find_labels

# eV/Å^3, 800 GPa.
MAX_STRESS = 5.0


@dataclass(frozen=True, slots=True)
class Frame:
    """A structure with its labels.

    Attributes
    ----------
    atoms
        The structure, without a calculator.
    energy
        Total energy, eV.
    forces
        (N, 3), eV/Å.
    stress
        (6,) Voigt, eV/Å^3, ASE's sign, or `None`.
    group
        `config_type` of the frame, or the empty string.
    source
        Where the energy was found.
    notes
        What was done with the label of the stress, where that is not obvious.
    """

    atoms: Atoms
    energy: float
    forces: Array
    stress: Array | None
    group: str
    source: str = ""
    notes: tuple[str, ...] = ()


def read_frames(
    path: str | Path,
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    max_force: float = 300.0,
    max_stress: float = MAX_STRESS,
) -> list[Frame]:
    """Read labelled frames from extended XYZ (also .gz) or any file ASE reads.

    Parameters
    ----------
    path
        The file.
    energy_key, forces_key, stress_key
        Names of the labels in `atoms.info` and `atoms.arrays`. By default REF_energy, REF_forces and REF_stress where a
        frame has them, otherwise the labels of ASE's own attached calculator. Stress is optional. Virials (eV) are read
        as stress = -virial / V: REF_virial, REF_virials, virial and virials, and any `stress_key` with "virial" in it.
    max_force
        eV/Å. A larger force component is taken for a mistake, in units or convergence.
    max_stress
        eV/Å^3. A larger component of the stress is taken for a mistake in units.

    Raises
    ------
    InputError
        For a file that cannot be read, a missing label, a label that is not finite or too large, energies from two
        sources; the frame is named.
    """
    keys = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    frames = []
    for index, atoms in enumerate(read_structures(path)):
        where = f"frame {index} of {path}"
        frames.append(_frame(atoms, keys, where, max_force, max_stress))
    _one_source(frames, path)
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


def label_notes(frames: Sequence[Frame], name: str) -> tuple[str, ...]:
    """Say what was done with the stress of frames, and in how many of them there is one; a sentence for each thing.

    Parameters
    ----------
    frames
        As `read_frames` returns them.
    name
        Of the file, for the sentences.
    """
    noted = Counter(note for frame in frames for note in frame.notes)
    found = [f"{name}: {note} (in {count} of {len(frames)} frames)." for note, count in noted.items()]
    n_stress = sum(frame.stress is not None for frame in frames)
    n_cells = sum(is_periodic(frame.atoms) for frame in frames)
    if 0 < n_stress < n_cells:
        found.append(
            f"{name}: {n_stress} of {n_cells} periodic frames have a stress; the others count by energies and forces."
        )
    return tuple(found)


def _frame(atoms: Atoms, keys: dict[str, str | None], where: str, max_force: float, max_stress: float) -> Frame:
    raw = find_labels(atoms, keys, where)
    energy, forces = (np.asarray(value, dtype=np.float64) for value in (raw.energy, raw.forces))
    if energy.shape != () or forces.shape != (len(atoms), 3):
        raise InputError(
            f"{where}: the energy must be one number and the forces ({len(atoms)}, 3), got shapes {energy.shape} and "
            f"{forces.shape}; check the keys."
        )
    for name, value in (("energy", energy), ("forces", forces), ("stress", raw.stress)):
        if value is not None and not np.isfinite(value).all():
            raise InputError(f"{where}: the {name} label must be finite, got nan or inf; remove the frame.")
    largest = float(np.abs(forces).max())
    if largest > max_force:
        raise InputError(
            f"{where}: a force of {largest:.4g} eV/Å exceeds `max_force` {max_force:g}; "
            "check units and convergence, remove the frame, or raise the limit."
        )
    if raw.stress is not None:
        check_stress_size(raw.stress, max_stress, where)
    own = atoms.copy()
    own.calc = None
    group = str(atoms.info.get("config_type", ""))
    return Frame(own, float(energy), forces, raw.stress, group, source=raw.source, notes=tuple(raw.notes))


def _one_source(frames: Sequence[Frame], path: str | Path) -> None:
    """Refuse energies from two places in a file: codes differ in their zero of energy."""
    first = frames[0].source
    for index, frame in enumerate(frames):
        if frame.source != first:
            raise InputError(
                f"the energies of `{path}` must have one source: frame 0 has it under {first}, frame {index} under "
                f"{frame.source}, perhaps with another zero; name it with --energy-key (energy_key), or make two files."
            )
