"""What a training achieved, judged on validation frames: sentences for what went wrong, none when all is well.

=======  ==========================================================================================
symbol   variable
=======  ==========================================================================================
e        `energy`: RMSE of the mean energies, eV per atom
e_0      `energy_of_constants`: the same of one constant per element, fitted to the training frames
f, f_0   `forces`, `forces_of_zero`: RMSE of the mean forces, and of no forces at all, eV/Å
s, s_0   `stress`, `stress_of_zero`: likewise, eV/Å^3
f_m      `member_forces[m]`: of member m, (M,)
=======  ==========================================================================================

Energies are left behind where e is no better than half of e_0 though f is below a quarter of f_0, where e is worse than
e_0 though f is below half of f_0, or where e then exceeds what an error f of all forces adds up to along 1 Å. Members
that were trained apart should differ by tens of per cent. Forces are hardly learnt where f is above half of f_0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase.units import GPa
from numpy.typing import NDArray

from ase_uq.potentials import abilities_of
from ase_uq.potentials.base import Evaluation, evaluate
from ase_uq.structures.frames import Frame
from ase_uq.structures.offsets import fit_offsets
from ase_uq.training.batches import Batch, Batches

MOST_FRAMES = 100
FAR_WORSE = 2.0  # forces of a member against the median of the others
LEFT_BEHIND, LEARNT, HALF_LEARNT = 0.5, 0.25, 0.5  # e / e_0 above the first, though f / f_0 below the second
HARDLY_LEARNT = 0.5  # f / f_0
NOT_LEARNT = 0.7  # s / s_0
ALONG = 1.0  # Å
# eV per atom; energies that scatter less say nothing.
_LEAST_SCATTER = 1e-4


@dataclass(frozen=True, slots=True)
class Achieved:
    """Errors on validation frames; the symbols are those of the module."""

    energy: float
    energy_of_constants: float
    energy_constant: float
    forces: float
    forces_of_zero: float
    stress: float | None
    stress_of_zero: float | None
    stress_correlation: float | None
    member_forces: NDArray[np.float64]


def training_warnings(potential: Any, train: Sequence[Frame], valid: Sequence[Frame]) -> tuple[str, ...]:
    """Judge what was trained on at most 100 of the validation frames.

    Parameters
    ----------
    potential
        A potential with members, on the CPU.
    train, valid
        Labelled frames.
    """
    found = achieved(potential, train, valid[:: -(-len(valid) // MOST_FRAMES)])
    apart = not abilities_of(potential).pinned_mean
    worse = _worse_members(found.member_forces) if apart else ()
    return (*worse, *_forces(found), *_energies(found), *_stresses(found))


def achieved(potential: Any, train: Sequence[Frame], valid: Sequence[Frame]) -> Achieved:
    """Evaluate a potential on validation frames, every member by itself."""
    batches = Batches(valid, cutoff=potential.cutoff, batch_size=1)
    evaluated = [(batch, _evaluated(potential, batch)) for batch in batches.in_order()]
    n_atoms = np.array([len(frame.atoms) for frame in valid])
    energy = np.array([e.energies.mean(dim=0).item() - b.labels.energies.item() for b, e in evaluated]) / n_atoms
    forces = torch.cat([e.forces - b.labels.forces for b, e in evaluated], dim=1).numpy()
    labelled = [
        (evaluation.stresses.mean(dim=0)[0], batch.labels.stresses[0])
        for batch, evaluation in evaluated
        if evaluation.stresses is not None
    ]
    stress, label = (torch.stack(each).numpy() for each in zip(*labelled, strict=True)) if labelled else (None, None)
    constants = fit_offsets(
        [frame.atoms for frame in train],
        model_energies=[frame.energy for frame in train],
        baseline_energies=np.zeros(len(train)),
    )
    of_constants = [
        (frame.energy - sum(constants.get(symbol, math.nan) for symbol in frame.atoms.symbols)) / len(frame.atoms)
        for frame in valid
    ]
    return Achieved(
        energy=_rms(energy),
        energy_of_constants=_rms(np.array(of_constants)),
        energy_constant=float(np.mean(energy)),
        forces=_rms(forces.mean(axis=0)),
        forces_of_zero=_rms(np.concatenate([frame.forces for frame in valid])),
        stress=None if stress is None else _rms(stress - label),
        stress_of_zero=None if label is None else _rms(label),
        stress_correlation=None if stress is None or label is None else _correlation(stress, label),
        member_forces=np.sqrt((forces**2).mean(axis=(1, 2))),
    )


def _evaluated(potential: Any, batch: Batch) -> Evaluation:
    return evaluate(potential, batch.graph, stress=bool(batch.labels.has_stress.all()))


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float((a * b).sum() / max(np.sqrt((a**2).sum() * (b**2).sum()), 1e-300))


def _worse_members(forces: NDArray[np.float64]) -> tuple[str, ...]:
    found = []
    for m, own in enumerate(forces):
        others = float(np.median(np.delete(forces, m)))
        if own > FAR_WORSE * others:
            found.append(
                f"member {m} is far worse than the others, forces off by {1e3 * own:.3g} against {1e3 * others:.3g} "
                "meV/Å on validation: its spread would be taken for uncertainty; train again with another `--seed` or "
                "a lower `--learning-rate`."
            )
    return tuple(found)


def _forces(found: Achieved) -> tuple[str, ...]:
    if found.forces < HARDLY_LEARNT * found.forces_of_zero:
        return ()
    said = (
        f"forces are hardly learnt, off by {1e3 * found.forces:.3g} of {1e3 * found.forces_of_zero:.3g} meV/Å on "
        "validation: train longer, or with another `--seed` or a lower `--learning-rate`, at which no network dies."
    )
    return (said,)


def _energies(found: Achieved) -> tuple[str, ...]:
    said = (
        f"energies are left behind, off by {1e3 * found.energy:.3g} meV/atom on validation (mean {_signed(found)}) "
        f"where forces are off by {1e3 * found.forces:.3g} of {1e3 * found.forces_of_zero:.3g} meV/Å"
    )
    cure = "train longer, raise `--energy-weight`, or check that energies and forces are of one method and unit."
    if not found.forces < HALF_LEARNT * found.forces_of_zero:
        return ()
    allowed = LEFT_BEHIND if found.forces < LEARNT * found.forces_of_zero else 1.0
    if found.energy_of_constants > _LEAST_SCATTER and found.energy > allowed * found.energy_of_constants:
        return (f"{said}; one constant per element is off by {1e3 * found.energy_of_constants:.3g} meV/atom: {cure}",)
    if found.energy > ALONG * found.forces:
        return (f"{said}, more than such forces add up to: {cure}",)
    return ()


def _signed(found: Achieved) -> str:
    return f"{1e3 * found.energy_constant:+.3g}"


def _stresses(found: Achieved) -> tuple[str, ...]:
    if found.stress is None or found.stress_of_zero is None or found.stress_correlation is None:
        return ()
    if found.stress < NOT_LEARNT * found.stress_of_zero or found.forces > LEARNT * found.forces_of_zero:
        return ()
    sign = " and of the other sign" if found.stress_correlation < -0.5 else ""
    said = (
        f"stresses are not learnt, off by {found.stress / GPa:.3g} GPa on validation where labels are "
        f"{found.stress_of_zero / GPa:.3g} GPa (RMS){sign}: check that labels are in eV/Å^3 and positive under tension "
        "(VASP: kbar and the other sign)."
    )
    return (said,)
