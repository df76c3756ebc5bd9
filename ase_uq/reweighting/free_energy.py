"""Free energies along a collective variable under every member.

=====================  ===============================================================================
symbol                 variable
=====================  ===============================================================================
s                      bins of `values`
p_i(s)                 probability of a bin under member i, by mean gap
F_i(s)                 -kB T ln(p_i(s)/p_i(s_0)), s_0 the bin most visited by the run
=====================  ===============================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828: errors of free energies from members.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.units import kB
from numpy.typing import ArrayLike, NDArray

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.reweighting import ReweightResult, reweight


def free_energy_profile(
    values: ArrayLike,
    *,
    bins: ArrayLike = 40,
    energy_members: ArrayLike,
    energy_reference: ArrayLike,
    temperature_K: float,
    method: str = "gap",
    **options: Any,
) -> tuple[Array, ReweightResult]:
    """Free energy along a collective variable, relative to the bin the run visited most, with its errors.

    Parameters
    ----------
    values
        (T,), the collective variable.
    bins
        Number of bins between its extremes, or edges (n_bins + 1,).
    energy_members, energy_reference, temperature_K
        As for `reweight`.
    method
        "gap", which keeps probabilities positive, or another one of `reweight`.
    options
        Further arguments of `reweight`, such as `log_weights` of a biased run.

    Returns
    -------
    centres, result
        (n_bins,), and the profile in eV. Bins that were never visited are left out, and errors of those visited during
        a single stretch of the run are NaN; in the bin of reference everything is zero.

    Raises
    ------
    InputError
        As `reweight`, or if all values lie outside the edges.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=20_000)
    >>> members = 0.005 * x[:, None] * np.array([-1.0, -0.5, 0.5, 1.0])
    >>> centres, free = free_energy_profile(
    ...     x,
    ...     bins=np.linspace(-2, 2, 9),
    ...     energy_members=members,
    ...     energy_reference=np.zeros(len(x)),
    ...     temperature_K=300.0,
    ... )
    >>> free.mean.shape, bool(free.std_model[0] > free.std_model[3])
    ((8,), True)
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise InputError(f"`values` must be one finite number a frame, got shape {x.shape}; drop other frames.")
    histogram, thermal = ProfileBins.of(x, bins), kB * temperature_K
    result = reweight(
        histogram.columns(x),
        energy_members=energy_members,
        energy_reference=energy_reference,
        temperature_K=temperature_K,
        method=method,
        function=lambda p: histogram.free_energy(p, thermal),
        **options,
    )
    return histogram.centres, result


@dataclass(frozen=True, slots=True)
class ProfileBins:
    """Bins of a collective variable that a run has visited.

    Attributes
    ----------
    edges
        (n_all + 1,).
    visited
        (n_all,), bool.
    reference
        Of the visited bins, the one with most frames.
    """

    edges: Array
    visited: NDArray[np.bool_]
    reference: int

    @classmethod
    def of(cls, x: Array, bins: ArrayLike) -> ProfileBins:
        """Choose bins for values (T,): a number of them, or edges."""
        edges = np.histogram_bin_edges(x, bins)
        counts = np.histogram(x, edges)[0]
        if not counts.any():
            raise InputError(
                f"`bins` must hold some of the values, which go from {x.min():g} to {x.max():g}; move them."
            )
        visited = counts > 0
        return cls(edges, visited, int(counts[visited].argmax()))

    @property
    def centres(self) -> Array:
        """Middles of the visited bins, (n_bins,)."""
        return (0.5 * (self.edges[1:] + self.edges[:-1]))[self.visited]

    def columns(self, x: Array) -> Array:
        """1 for the bin of each value (t,), 0 for the others, (t, n_bins); the last bin holds its upper edge, too."""
        n = len(self.edges) - 1
        which = np.searchsorted(self.edges, x, side="right") - 1
        which[x == self.edges[-1]] = n - 1
        inside = np.flatnonzero((which >= 0) & (which < n))
        columns = np.zeros((len(x), n))
        columns[inside, which[inside]] = 1.0
        return columns[:, self.visited]

    def free_energy(self, p: Array, thermal: float) -> Array:
        """-kB T ln(p/p_0) for probabilities (n_bins,), eV; `thermal` is kB T."""
        # Without one block of frames a bin may be empty: its error is then not known.
        return np.asarray(-thermal * np.log(np.where(p > 0, p, np.nan) / p[self.reference]))
