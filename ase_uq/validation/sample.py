"""What a calibration is fitted on: errors and spreads that say something, without what a composition shares.

=============================  ==============================================================
symbol                         variable
=============================  ==============================================================
y_ref - Ebar                   `error`, less the constants of its composition
s                              `spread` of the members (divisor M-1), likewise
v                              `noise`, variances that a model has beside its spread
=============================  ==============================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.validation.centring import Centring
from ase_uq.validation.inputs import group_indices, noise_variances
from ase_uq.validation.resolution import zero_by_symmetry

MIN_STRUCTURES = 10  # alpha is then known to about 30 % at best
# A spread this far below the typical one is rounding noise around a zero that symmetry or a shared constant forces.
NEGLIGIBLE_SPREAD = 1e-6


class RawValues(NamedTuple):
    """Errors, spreads above zero and variances of noise, (n,) each, constants included."""

    error: Array
    spread: Array
    noise: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Values of which errors and spreads can be compared.

    Attributes
    ----------
    used
        (S,), which of all values are among them.
    error, spread, weights
        (n,): without constants, spreads above zero, and how often each error counts.
    noise
        (n,), variances without constants; `None` where the model has none.
    labels
        (n,), the number of the group of each.
    deviations
        (M, n), of the members from their mean, without constants; `None` without members.
    centred
        What was taken out: the constant of each "composition", of each "element", or "none".
    raw
        All values with a spread, constants included.
    """

    used: NDArray[np.bool_]
    error: Array
    spread: Array
    weights: Array
    noise: Array | None
    labels: NDArray[np.intp]
    deviations: Array | None
    centred: str
    raw: RawValues

    @classmethod
    def of(
        cls,
        reference: Array,
        mean: Array,
        std: Array,
        deviations: Array | None,
        n_members: float,
        *,
        noise: ArrayLike | None,
        compositions: Sequence[Any] | ArrayLike | None,
        groups: Sequence[Any] | None,
        resolution: float | None,
        values: str,
    ) -> Sample:
        """Take what `calibration_inputs` returns; the other arguments are those of `calibrate`.

        Raises
        ------
        InputError
            For compositions without members or of another number, or where too few values have a spread.
        """
        _check_compositions(compositions, deviations, len(reference))
        labels = group_indices(groups, len(reference))
        centring = Centring.none(len(reference))
        if compositions is not None:
            centring = Centring.within(compositions, fewest=MIN_STRUCTURES)
        raw = RawValues(reference - mean, std, noise_variances(noise, reference))
        error, spread = centring.of(raw.error), std
        if deviations is not None:
            deviations = centring.of(deviations)
            spread = np.sqrt((deviations**2).sum(axis=0) / (n_members - 1.0))
        used = _resolved(spread, mean, reference, resolution, values) & centring.left
        if used.sum() < MIN_STRUCTURES:
            raise InputError(
                f"`std` must be above zero in at least {MIN_STRUCTURES} {values} to calibrate, got {int(used.sum())} "
                f"of {len(spread)}; add validation structures."
            )
        known = std > 0.0
        return cls(
            used=used,
            error=error[used],
            spread=spread[used],
            weights=1.0 - centring.leverage[used],
            noise=centring.variance_of(raw.noise)[used] if raw.noise.any() else None,
            labels=labels[used],
            deviations=None if deviations is None else deviations[:, used],
            centred=centring.kind,
            raw=RawValues(*(each[known] for each in raw)),
        )


def _check_compositions(compositions: Any, deviations: Array | None, n: int) -> None:
    if compositions is None:
        return
    if deviations is None:
        raise InputError("`compositions` needs `members` (M, S), got none; constants of members lie in them.")
    if len(np.asarray(compositions)) != n:
        raise InputError(
            f"`compositions` must have one entry a structure, {n}, got {len(np.asarray(compositions))}; "
            "give the formula of each."
        )


def _resolved(s: Array, centre: Array, y: Array, resolution: float | None, values: str) -> NDArray[np.bool_]:
    positive = s[s > 0.0]
    typical = float(np.median(positive)) if len(positive) else 0.0
    if resolution is not None or values == "structures":
        zero = zero_by_symmetry(mean=centre, std=s, resolution=resolution or 0.0)
    else:
        zero = zero_by_symmetry(mean=centre, std=s, reference=y)
    return np.asarray((s > NEGLIGIBLE_SPREAD * typical) & ~zero)
