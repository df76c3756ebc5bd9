"""`Circle`: averages of values that come round again, as torsions do.

=================  =========================================================================================
symbol             variable
=================  =========================================================================================
P                  `period`
c                  `origin`, the first value
v'                 unrolled: c + ((v - c + P/2) mod P) - P/2, within half a period of c
=================  =========================================================================================

The average of v' is that of v on the circle, wherever 0 lies on it, as long as the values stay away from the far side
of c, where the circle is cut. Values that go all the way round have no average, only a distribution; that is said.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ase_uq.arrays import Array
from ase_uq.reweighting.gate import Gate
from ase_uq.reweighting.result import ReweightResult

# Beyond this share of the period from c a value is near the cut, and more than this share of such values is material.
_NEAR_CUT = 3.0 / 8.0
_MOST_NEAR = 1e-3
# Units of what may be on a circle without saying so, and its period; "" is a unit that is not known.
_SUSPECTS = ((360.0, ("°", "deg", "degree", "degrees", "")), (2.0 * np.pi, ("rad", "radian", "radians", "")))
_JUMP = 0.8  # of the period, from one frame to the next: across the seam


@dataclass
class Circle:
    """The values of one observable, with or without a period.

    Attributes
    ----------
    period
        P, or `None` for values on a line; of those it is watched whether they look like angles.
    unit
        Of the values.
    """

    period: float | None
    unit: str = ""
    origin: Array | None = None
    _n: int = 0
    _n_near: int = 0
    _lowest: float = np.inf
    _highest: float = -np.inf
    _jump: float = 0.0
    _last: float | None = field(default=None)

    def unrolled(self, values: Array) -> Array:
        """Return values (t, ...) about the first one, as they are without a period; what is not finite stays so."""
        whole = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        seen = values[whole]
        if seen.size == 0:
            return values
        self._lowest = min(self._lowest, float(seen.min()))
        self._highest = max(self._highest, float(seen.max()))
        if self.period is None:
            self._watch(seen)
            return values
        if self.origin is None:
            self.origin = seen[0].copy()
        half = 0.5 * self.period
        found = self.origin + np.mod(values - self.origin + half, self.period) - half
        self._n += seen.size
        self._n_near += int((np.abs(found[whole] - self.origin) > _NEAR_CUT * self.period).sum())
        return np.asarray(found)

    def told(self, result: ReweightResult) -> ReweightResult:
        """Return an average within the range the values came in."""
        if self.period is None:
            return result
        start = 0.0 if self._lowest >= 0.0 else -0.5 * self.period
        turns = np.floor((np.asarray(result.mean) - start) / self.period) * self.period
        mean, members = np.asarray(result.mean) - turns, np.asarray(result.member_means) - turns
        return replace(result, mean=float(mean) if mean.ndim == 0 else mean, member_means=members)

    def gates(self, name: str) -> tuple[Gate, ...]:
        """Check that the values have an average."""
        if self.period is not None:
            return (self._gate(name),)
        period = self._suspected()
        if period is None:
            return ()
        sentence = (
            f"{name!r} jumps by {self._jump:.4g} {self.unit} between frames, as values on a circle of {period:.4g} do "
            "where it closes: their plain average means nothing; give the observable its period, "
            f"Observable(function, unit, period={period:.4g}), or average a histogram."
        )
        return (
            Gate("jumps across the seam of a circle", self._jump, _JUMP * period, self.unit, False, True, sentence),
        )

    def _gate(self, name: str) -> Gate:
        share = self._n_near / max(self._n, 1)
        sentence = (
            f"{100.0 * share:.2g} % of the values of {name!r} lie on the far side of their circle: they go round, and "
            "their average depends on where the circle is cut; take a histogram (histogram:dihedral:...,0,360,36) and "
            "its free energy."
        )
        return Gate(
            "values on the far side of a circle",
            100.0 * share,
            100.0 * _MOST_NEAR,
            "%",
            False,
            share > _MOST_NEAR,
            sentence,
        )

    def _watch(self, seen: Array) -> None:
        if seen.ndim != 1:
            return
        # One by one they follow each other; arrays may be of any frames.
        line = seen if self._last is None or len(seen) > 1 else np.concatenate([[self._last], seen])
        if len(line) > 1:
            self._jump = max(self._jump, float(np.abs(np.diff(line)).max()))
        self._last = float(seen[-1])

    def _suspected(self) -> float | None:
        for period, names in _SUSPECTS:
            slack = 1e-6 * period
            inside = self._lowest >= -slack and self._highest <= period + slack
            inside = inside or max(-self._lowest, self._highest) <= 0.5 * period + slack
            if self.unit in names and inside and self._jump > _JUMP * period:
                return period
        return None
