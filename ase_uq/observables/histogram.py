"""`Histogram`: the bin a number falls into, whose average over a run is a distribution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.observables.observable import Observable
from ase_uq.reweighting.axis import Axis


class Histogram(Observable):
    """Indicator of the bin that a function of the atoms falls into.

    Its average P_k over frames is the probability of bin k, and -k_B T ln(P_k / width_k) a free-energy profile up to a
    constant.

    Parameters
    ----------
    function
        Gives one number for a frame, such as a collective variable.
    edges
        (n_bins + 1,), rising, in the unit of that number; a bin holds its lower edge, the last one its upper edge, too.
    unit
        Of the indicator, which is a pure number.
    axis_name, axis_unit
        Name and unit of what `function` gives.

    Attributes
    ----------
    axis
        Middles of the bins, (n_bins,), with that name and unit.
    is_histogram
        `True`.

    Raises
    ------
    InputError
        If `function` cannot be called or the edges do not rise; when called, if the value is not one number.

    Examples
    --------
    >>> from ase import Atoms
    >>> bins = Histogram(lambda atoms: atoms.get_distance(0, 1), [0.5, 1.0, 1.5], axis_name="r", axis_unit="Å")
    >>> bins(Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])).tolist(), bins.centres.tolist()
    ([1.0, 0.0], [0.75, 1.25])
    """

    def __init__(
        self,
        function: Callable[[Atoms], float],
        edges: ArrayLike,
        *,
        unit: str = "",
        axis_name: str = "",
        axis_unit: str = "",
    ) -> None:
        self.edges = _checked(edges)
        axis = Axis(0.5 * (self.edges[1:] + self.edges[:-1]), axis_name, axis_unit)
        super().__init__(function, unit, axis=axis, is_histogram=True)

    def __call__(self, atoms: Atoms) -> Array:
        """Return 1 for the bin and 0 for the others, (n_bins,); zeros alone for a value outside the edges."""
        value = super().__call__(atoms)
        if np.ndim(value) != 0:
            raise InputError(
                f"`function` must return one number, got shape {np.shape(value)}; pick an entry, as f(atoms)[0]."
            )
        indicator = np.zeros(len(self.centres))
        if self.edges[0] <= value <= self.edges[-1]:
            last = len(self.centres) - 1
            indicator[min(int(np.searchsorted(self.edges, value, side="right")) - 1, last)] = 1.0
        return indicator


def _checked(edges: ArrayLike) -> Array:
    values = np.array(edges, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all() or not (np.diff(values) > 0).all():
        raise InputError(
            f"`edges` must be at least 2 rising numbers, got {np.array2string(values, threshold=8)}; "
            "pass for example numpy.linspace(low, high, n_bins + 1)."
        )
    values.setflags(write=False)
    return values
