"""Labelled frames: read them, check them, split them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.structures.checks import check_apart, check_structure, is_periodic
from ase_uq.structures.electrons import electron_notes
from ase_uq.structures.frame_weights import frame_weights
from ase_uq.structures.labels import check_stress_size, find_labels, missing_forces
from ase_uq.structures.numbers import check_finite

# eV/Å^3, 800 GPa.
MAX_STRESS = 5.0
_LONGEST_REASON = 120
ISOLATED = {"isolatedatom", "isolatedatoms"}
Weights = tuple[float, float, float]
"""Of the energy, the forces and the stress of a frame."""


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
        (N, 3), eV/Å, or `None`: such a frame counts by its energy.
    stress
        (6,) Voigt, eV/Å^3, ASE's sign, or `None`.
    group
        `config_type` of the frame, or the empty string.
    source
        Where the energy was found.
    notes
        What was done with the label of the stress, where that is not obvious; charge and spin.
    weights
        Of the energy, the forces and the stress in the loss of a training. An energy of weight 0 is as good as none.
    sources
        Where forces and stress were found.
    """

    atoms: Atoms
    energy: float
    forces: Array | None
    stress: Array | None
    group: str
    source: str = ""
    notes: tuple[str, ...] = ()
    weights: Weights = (1.0, 1.0, 1.0)
    sources: tuple[str, str] = ("", "")

    @property
    def has_energy(self) -> bool:
        """Whether the energy is to be learnt."""
        return self.weights[0] > 0.0

    @property
    def is_isolated_atom(self) -> bool:
        """Whether this is an atom by itself that is there for its energy (`config_type=IsolatedAtom`)."""
        return len(self.atoms) == 1 and self.group.lower().replace("_", "") in ISOLATED


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
        frame has them, otherwise the labels of ASE's own attached calculator; a free energy where there is no other.
        Some frames may be without forces. Stress is optional. Virials (eV) are read as stress = -virial / V:
        REF_virial, REF_virials, virial and virials, and any `stress_key` with "virial" in it.
    max_force
        eV/Å. A larger force component is taken for a mistake, in units or convergence.
    max_stress
        eV/Å^3. A larger component of the stress is taken for a mistake in units.

    Raises
    ------
    InputError
        For a file that cannot be read, a missing label, a label that is no number, not finite or too large, energies or
        forces from two sources, and charges or spins that differ; the frame is named.
    """
    for name, limit in (("max_force", max_force), ("max_stress", max_stress)):
        if not limit > 0.0:
            raise InputError(f"`{name}` must be a number above 0, got {limit}; the usual one is the default.")
    keys = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    structures = read_structures(path)
    of_electrons = electron_notes(structures, path)
    frames = []
    for index, atoms in enumerate(structures):
        where = f"frame {index} of {path}"
        frames.append(_frame(atoms, keys, where, max_force, max_stress, of_electrons))
    _one_source([frame.source for frame in frames], "energies", "energy", path)
    _one_source([frame.sources[0] for frame in frames], "forces", "forces", path)
    if all(frame.forces is None for frame in frames):
        if not any(frame.weights[1] for frame in frames):
            raise InputError(
                f"`{path}` must have forces that count, all {len(frames)} frames give them the weight 0 "
                "(config_weight or config_forces_weight); give some of them a weight."
            )
        raise missing_forces(structures[0], forces_key, f"frame 0 of {path}, as all others,")
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
    except Exception as e:  # readers of some fifty formats, each with errors of its own for a damaged file
        reason = " ".join(str(e).replace("\0", " ").split())[:_LONGEST_REASON] or type(e).__name__
        raise InputError(
            f"`{path}` could not be read as structures ({reason}); it may be truncated or of another format."
        ) from e
    if not structures:
        raise InputError(f"`{path}` must hold at least one structure, got none; check the file.")
    for index, atoms in enumerate(structures):
        try:
            check_structure(atoms)
            check_apart(atoms)
        except InputError as e:
            raise InputError(f"frame {index} of {path}: {e}") from e
    return structures


def split_frames(frames: Sequence[Frame], *, valid_fraction: float, seed: int = 0) -> tuple[list[Frame], list[Frame]]:
    """Split at random into training and validation frames, at least one of each; the latter have forces.

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
    # Frames without forces judge none: they are trained on.
    judged = [i for i in order.tolist() if frames[i].forces is not None]
    chosen = set(judged[: min(n_valid, max(1, len(judged) - 1))])
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
    n_bare = sum(frame.forces is None for frame in frames)
    if n_bare:
        found.append(f"{name}: {n_bare} of {len(frames)} frames have no forces, and count by their energies.")
    weighted = [frame.weights for frame in frames if set(frame.weights) != {1.0}]
    if weighted:
        low, high = min(map(min, weighted)), max(map(max, weighted))
        found.append(
            f"{name}: {len(weighted)} of {len(frames)} frames have weights of their own (config_weight, "
            f"config_energy_weight, ...), from {low:g} to {high:g}; they are used."
        )
    by_source = Counter(frame.sources[1] for frame in frames if frame.stress is not None)
    if len(by_source) > 1:
        listed = ", ".join(f"{count} of {source}" for source, count in by_source.most_common())
        found.append(f"{name}: the stresses of frames have several sources, {listed}.")
    n_stress = sum(frame.stress is not None for frame in frames)
    n_cells = sum(is_periodic(frame.atoms) for frame in frames)
    if 0 < n_stress < n_cells:
        found.append(
            f"{name}: {n_stress} of {n_cells} periodic frames have a stress; the others count by energies and forces."
        )
    return tuple(found)


def _frame(
    atoms: Atoms,
    keys: dict[str, str | None],
    where: str,
    max_force: float,
    max_stress: float,
    of_electrons: tuple[str, ...],
) -> Frame:
    raw, weights = find_labels(atoms, keys, where), frame_weights(atoms.info, where)
    for name, value in (("energy", raw.energy), ("forces", raw.forces), ("stress", raw.stress)):
        check_finite(value, name, where)
    if raw.forces is None and len(atoms) == 1 and not atoms.pbc.any():
        raw.forces = np.zeros((1, 3))  # nothing is there to pull
    largest = 0.0 if raw.forces is None else float(np.abs(raw.forces).max())
    if largest > max_force:
        raise InputError(
            f"{where}: a force of {largest:.4g} eV/Å exceeds `max_force` {max_force:g}; "
            "check units and convergence, remove the frame, or raise the limit."
        )
    if raw.stress is not None:
        check_stress_size(raw.stress, max_stress, where)
    own = atoms.copy()
    own.calc = None
    return Frame(
        own,
        raw.energy,
        raw.forces if weights[1] else None,
        raw.stress if weights[2] else None,
        str(atoms.info.get("config_type", "")),
        source=raw.source,
        notes=(*raw.notes, *of_electrons),
        weights=weights,
        sources=(raw.forces_source, raw.stress_source),
    )


def _one_source(sources: Sequence[str], what: str, name: str, path: str | Path) -> None:
    """Refuse labels from two places in a file: codes differ in their zero of energy."""
    said = [(index, source) for index, source in enumerate(sources) if source]
    if not said:
        return
    start, first = said[0]
    for index, source in said:
        if source != first:
            counts = Counter(source for _, source in said)
            raise InputError(
                f"the {what} of `{path}` must have one source: frame {start} has it under {first}, frame {index} under "
                f"{source} ({counts[first]} and {counts[source]} of {len(sources)} frames), perhaps of another method "
                f"or with another zero; name it with `{name}_key`, or make two files."
            )
