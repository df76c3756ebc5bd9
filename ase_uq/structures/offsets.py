"""Common zero of energy for two potentials: one additive constant per element, by least squares.

=======  =====================================================================
symbol   variable
=======  =====================================================================
n_fz     `counts[f, z]`, atoms of element z in frame f; N_f = sum_z n_fz
E_f      `model_energies[f]`
B_f      `baseline_energies[f]`
o_z      the returned offsets: minimise sum_f (E_f - B_f - sum_z n_fz o_z)^2 / N_f^2
=======  =====================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from ase_uq.errors import InputError

# Element counts are exact: singular values this far below the largest are rounding, not information.
_RANK_TOLERANCE = 1e-10


def fit_offsets(
    frames: Sequence[Atoms], *, model_energies: ArrayLike, baseline_energies: ArrayLike
) -> dict[str, float]:
    """Fit the energy per atom of each element that turns the baseline's zero into the model's.

    Parameters
    ----------
    frames
        S structures; only their compositions are read.
    model_energies, baseline_energies
        (S,), total energies, eV.

    Returns
    -------
    dict
        Offset in eV per atom of every element in the frames, alphabetically, to be **added** to the baseline.

    Raises
    ------
    InputError
        For no frames, energies of another shape, or an energy that is not finite.

    Notes
    -----
    Frames count per atom, so that small and large ones weigh alike. When compositions do not vary enough to tell the
    elements apart (all frames are the same molecule, say), the smallest offsets that fit are returned (minimum norm):
    the sum over a composition like those fitted is right, a single element's number has no meaning by itself.

    Examples
    --------
    >>> from ase.build import molecule
    >>> frames = [molecule("H2O"), molecule("H2")]
    >>> offsets = fit_offsets(frames, model_energies=[-10.0, -2.0], baseline_energies=[0.0, 0.0])
    >>> {symbol: round(value, 6) for symbol, value in offsets.items()}
    {'H': -1.0, 'O': -8.0}
    """
    model = np.array(model_energies, dtype=np.float64)
    baseline = np.array(baseline_energies, dtype=np.float64)
    if len(frames) == 0:
        raise InputError("`frames` must hold at least one structure to align the baseline, got none; pass some.")
    for name, values in (("model_energies", model), ("baseline_energies", baseline)):
        if values.shape != (len(frames),):
            raise InputError(
                f"`{name}` must hold one energy per frame, shape ({len(frames)},), got {values.shape}; check the lists."
            )
        if not np.isfinite(values).all():
            bad = int(np.argmin(np.isfinite(values)))
            raise InputError(f"`{name}` must be finite, frame {bad} has {values[bad]} eV; leave that frame out.")
    symbols = sorted({symbol for atoms in frames for symbol in atoms.symbols})
    counts = np.array([[np.count_nonzero(atoms.symbols == symbol) for symbol in symbols] for atoms in frames], float)
    n_atoms = counts.sum(axis=1)
    solution = np.linalg.lstsq(counts / n_atoms[:, None], (model - baseline) / n_atoms, rcond=_RANK_TOLERANCE)[0]
    return dict(zip(symbols, solution.tolist(), strict=True))


def offset_energy(atoms: Atoms, offsets: Mapping[str, float]) -> float:
    """Return the sum of the offsets over the atoms of a structure, eV.

    Raises
    ------
    InputError
        If an element of the structure has no offset.
    """
    counts = atoms.symbols.formula.count()
    missing = sorted(set(counts) - set(offsets))
    if missing:
        raise InputError(
            f"`offsets` must cover every element of the structure, {', '.join(missing)} is missing from "
            f"{sorted(offsets)}; align on frames that contain it."
        )
    return float(sum(count * offsets[symbol] for symbol, count in counts.items()))
