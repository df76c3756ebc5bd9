"""The frames of a training from their files: read, split, checked, with what is to be said about their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase_uq.errors import InputError
from ase_uq.structures.frames import Frame, label_notes, read_frames, split_frames
from ase_uq.structures.isolated import check_covered, parse_e0s, without_isolated_atoms
from ase_uq.training.consistency import label_warnings
from ase_uq.training.energy_residuals import MAX_RESIDUAL, check_residuals, zeros_far_off
from ase_uq.training.signs_and_units import unjudged_stresses


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Frames of a training.

    Attributes
    ----------
    train, valid
        Labelled frames, without isolated atoms.
    e0s
        Energies of isolated atoms by element, eV, if they are the zeros of energy.
    notes
        Sentences on what was done with the labels.
    warnings
        Sentences on labels that do not belong together.
    """

    train: list[Frame]
    valid: list[Frame]
    e0s: dict[str, float] | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def read_training_data(
    data: Path,
    valid: Path | None = None,
    *,
    valid_fraction: float = 0.1,
    seed: int = 0,
    e0s: str | None = None,
    max_residual: float = MAX_RESIDUAL,
    **reading: Any,
) -> TrainingData:
    """Read the frames of a training.

    Parameters
    ----------
    data, valid
        Files; without the second a random part of the first is held out.
    valid_fraction, seed
        Of that part.
    e0s
        Energies of isolated atoms, see `ase_uq.structures.isolated.parse_e0s`. By default those of frames that are
        isolated atoms, if there is one of every element, otherwise the average: constants fitted to all energies.
    max_residual
        eV per atom, see `check_residuals`.
    **reading
        As for `read_frames`.

    Raises
    ------
    InputError
        For labels that are refused, see `read_frames` and `label_warnings`.
    """
    given = None if e0s is None else parse_e0s(e0s)
    read = read_frames(data, **reading)
    notes = list(label_notes(read, data.name))
    frames, atoms = without_isolated_atoms(read)
    if not frames:
        raise InputError(f"`{data}` must hold more than isolated atoms, got {len(read)} of them; add other frames.")
    if valid is None:
        train, held_out = split_frames(frames, valid_fraction=valid_fraction, seed=seed)
    else:
        of_valid = read_frames(valid, **reading)
        notes += label_notes(of_valid, valid.name)
        train, (held_out, _) = frames, without_isolated_atoms(of_valid)
        if not any(frame.forces is not None for frame in held_out):
            raise InputError(f"`{valid}` must have frames with forces to judge by, got none; choose others.")
        notes += _sources(data.name, frames, valid.name, held_out)
    zeros, said = _zeros(given, atoms, train, held_out)
    # First: what is far off spoils all other comparisons.
    known = [[frame for frame in each if frame.has_energy] for each in (train, held_out)]
    if not known[0]:
        raise InputError(
            f"`{data}` must have energies to train on, all {len(train)} have the weight 0 (config_weight or "
            "config_energy_weight); give some of them a weight."
        )
    check_residuals([*known[0], *known[1]], max_residual=max_residual, n_train=len(known[0]))
    far_off = () if zeros is None else zeros_far_off(known[0], zeros, max_residual=max_residual)
    warnings = (*far_off, *label_warnings(train, held_out))
    return TrainingData(train, held_out, zeros, (*notes, *said, *unjudged_stresses(train)), warnings)


def _sources(name: str, train: Sequence[Frame], other: str, valid: Sequence[Frame]) -> list[str]:
    one, two = train[0].source, valid[0].source
    if one == two:
        return []
    return [f"energies of {name} are under {one}, those of {other} under {two}: see that they are of one calculation."]


def _zeros(
    given: Mapping[str, float] | str | None, atoms: Mapping[str, float], *frames: Sequence[Frame]
) -> tuple[dict[str, float] | None, list[str]]:
    """Return the zeros of energy, `None` for an average, and what is to be said of them."""
    elements = {symbol for each in frames for frame in each for symbol in frame.atoms.symbols}
    if given == "average":
        return None, [_left_out(atoms)] if atoms else []
    if isinstance(given, Mapping):
        check_covered(given, elements)
        return dict(given), [_left_out(atoms)] if atoms else []
    if given == "isolated":
        check_covered(atoms, elements)
    if atoms and elements <= set(atoms):
        listed = ", ".join(f"{symbol} {energy:.6g}" for symbol, energy in sorted(atoms.items()))
        return dict(atoms), [f"isolated atoms ({listed} eV) are the zeros of energy, and not trained on."]
    if atoms:
        missing = ", ".join(sorted(elements - set(atoms)))
        return None, [f"{_left_out(atoms)[:-1]}, of {missing} there is none: zeros of energy are fitted to all frames."]
    return None, []


def _left_out(atoms: Mapping[str, float]) -> str:
    return f"frames of isolated atoms ({', '.join(sorted(atoms))}) are not trained on."
