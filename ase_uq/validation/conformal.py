"""Split conformal intervals: a width with a guarantee, and nothing behind it.

=======================  ==============================================================
symbol                   variable
=======================  ==============================================================
|e_i| / s_i              score of calibration point i
q                        `conformal_multiplier`, the ceil((n + 1) coverage)-th smallest
=======================  ==============================================================

References
----------
Lei et al., J. Am. Stat. Assoc. 113, 1094 (2018), arXiv:1604.04173.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ase_uq.errors import InputError
from ase_uq.validation.inputs import checked_values


def conformal_multiplier(*, error: ArrayLike, std: ArrayLike, coverage: float) -> float:
    """Half-width, in units of `std`, of an interval that covers a new point with at least the given probability.

    The guarantee holds on average over calibration sets, and only where the new point is drawn like them: frames of
    a run are not. It gives no members, so that gates may use it and the propagation of errors may not.

    Parameters
    ----------
    error, std
        (S,), errors of the mean and predicted standard deviations above zero, same unit.
    coverage
        Between 0 and 1.

    Raises
    ------
    InputError
        If a value is not finite, a standard deviation not above zero, or there are too few points for the coverage.

    References
    ----------
    arXiv:1604.04173, split conformal prediction with a normalised score.
    """
    e, s = checked_values(error=error, std=std)
    if not 0.0 < coverage < 1.0:
        raise InputError(f"`coverage` must lie between 0 and 1, got {coverage}; use 0.95, for example.")
    if (s == 0.0).any():
        raise InputError(
            f"`std` must be above zero, got 0 at index {np.flatnonzero(s == 0.0)[0]}; leave such points out."
        )
    # The small number undoes the rounding of products such as 0.95 * 20.
    rank = int(np.ceil((len(e) + 1) * coverage - 1e-9))
    if rank > len(e):
        raise InputError(
            f"`error` must have at least {int(np.ceil(coverage / (1.0 - coverage) - 1e-9))} points for a coverage of "
            f"{coverage}, got {len(e)}; add points or lower the coverage."
        )
    return float(np.sort(np.abs(e) / s)[rank - 1])
