"""What energies leave of one constant per element: beyond a limit something else was labelled.

=======  ==========================================================================================
symbol   variable
=======  ==========================================================================================
r_s      `residuals[s]`: energy of frame s less constants of its elements, eV per atom; the constants minimise
         sum_s |r_s|, so that wrong energies do not spoil what they are compared with
m        `typical`: 1.4826 x median of |r - median r|, a standard deviation that outliers do not change
F_s      `pulls[s]`: rms force of frame s
=======  ==========================================================================================

Atoms are bound by less than 10 eV. A frame may lie further off where its atoms are pushed together, which its forces
say: the limit is `max_residual` + 1 Å F_s, and never less than ten times m. That is no judgement of a set with atoms,
molecules and crystals in it; it finds energies of another unit, of another zero, and sums over other atoms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.structures.frames import Frame

# eV per atom.
MAX_RESIDUAL = 20.0
_ALONG = 1.0  # Å
_TYPICAL = 10.0
_ROUNDS, _LEAST = 30, 1e-3


def check_residuals(frames: Sequence[Frame], *, max_residual: float = MAX_RESIDUAL, n_train: int | None = None) -> None:
    """Refuse energies that no constants per element explain.

    Parameters
    ----------
    frames
        Training frames, perhaps with those of validation behind them.
    max_residual
        eV per atom.
    n_train
        How many are training frames; all by default.

    Raises
    ------
    InputError
        For single energies that far off, and for two groups that far apart; a frame of each is named.
    """
    if not max_residual > 0.0:
        raise InputError(f"`max_residual` must be a number above 0, got {max_residual}; {MAX_RESIDUAL:g} is usual.")
    residuals = robust_residuals(frames)
    off = residuals - np.median(residuals)
    typical = 1.4826 * float(np.median(np.abs(off)))
    pulls = np.array([0.0 if frame.forces is None else float(np.sqrt(np.mean(frame.forces**2))) for frame in frames])
    allowed = max_residual + _ALONG * pulls
    _check_groups(residuals, allowed, n_train)
    far = np.flatnonzero(np.abs(off) > np.maximum(allowed, _TYPICAL * typical))
    if len(far):
        worst = int(far[np.argmax(np.abs(off[far]))])
        others = f" ({len(far)} frames are like that)" if len(far) > 1 else ""
        raise InputError(
            f"{_named(worst, n_train)}: its energy of {frames[worst].energy:.6g} eV lies {off[worst]:+.4g} eV per atom "
            f"off what its composition suggests, where {typical:.2g} is usual and `max_residual` {max_residual:g}"
            f"{others}; check its unit, its zero and its level of theory, remove it, or raise the limit."
        )


def zeros_far_off(
    frames: Sequence[Frame], e0s: Mapping[str, float], *, max_residual: float = MAX_RESIDUAL
) -> tuple[str, ...]:
    """Say so if energies of isolated atoms are of another zero than those of the frames.

    Parameters
    ----------
    frames
        Those with energies.
    e0s
        By element, eV.
    max_residual
        eV per atom by which atoms may be bound, in the middle of the frames.
    """
    bound = [(frame.energy - sum(e0s[each] for each in frame.atoms.symbols)) / len(frame.atoms) for frame in frames]
    middle = float(np.median(bound))
    if abs(middle) <= max_residual:
        return ()
    said = (
        f"energies of isolated atoms are hardly of the calculation of the frames, whose energies lie {middle:+.4g} eV "
        "per atom off them: see that program, functional and pseudopotentials are the same, or let `e0s` be average."
    )
    return (said,)


def _named(index: int, n_train: int | None) -> str:
    of_training = n_train is None or index < n_train
    return f"training frame {index}" if of_training else f"validation frame {index - (n_train or 0)}"


def robust_residuals(frames: Sequence[Frame]) -> Array:
    """Return energies less constants per element that a few wrong ones do not change, (S,) eV per atom."""
    numbers = np.unique(np.concatenate([frame.atoms.numbers for frame in frames]))
    counts = np.array([(frame.atoms.numbers[:, None] == numbers).sum(axis=0) for frame in frames])
    n_atoms = np.array([len(frame.atoms) for frame in frames])
    shares, energies = counts / n_atoms[:, None], np.array([frame.energy for frame in frames]) / n_atoms
    weights = np.ones(len(frames))
    for _ in range(_ROUNDS):
        constants = np.linalg.lstsq(shares * weights[:, None], energies * weights, rcond=1e-10)[0]
        residuals = energies - shares @ constants
        # Least absolute values by least squares with weights of their own.
        weights = 1.0 / np.sqrt(np.maximum(np.abs(residuals), _LEAST))
    return np.asarray(residuals)


def _check_groups(residuals: Array, allowed: Array, n_train: int | None) -> None:
    """Refuse a gap that parts the frames in two, at least two on either side."""
    n = len(residuals)
    order = np.argsort(residuals)
    gaps = np.diff(residuals[order])
    for k in np.flatnonzero(gaps >= allowed.min()):
        low, high = order[: k + 1], order[k + 1 :]
        if min(len(low), len(high)) < 2 or gaps[k] < max(float(allowed[low].min()), float(allowed[high].min())):
            continue
        raise InputError(
            f"energies of the frames fall into two groups, {gaps[k]:.3g} eV per atom apart for alike "
            f"compositions ({len(low)} of {n} as {_named(int(low.min()), n_train)}, {len(high)} as "
            f"{_named(int(high.min()), n_train)}): two zeros or "
            "methods in one set; train on one of them, or align the zeros first."
        )
