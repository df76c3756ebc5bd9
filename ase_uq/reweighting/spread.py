"""What the spread of members says about the error of their mean, and member energies that carry it along.

=========  ======================================================================
symbol     variable
=========  ======================================================================
alpha      calibration factor inside the members
m          `mean_share`: 1/M for M independent members, 0 where the mean is pinned
nu         `dof`: M - 1, or infinite for an exact covariance
=========  ======================================================================

References
----------
arXiv:2011.08828, appendix A: the mean of M members carries 1/M of their variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ase_uq.arrays import Array


@dataclass(frozen=True, slots=True)
class SpreadLaw:
    """How the spread of M members stands to the error of their mean.

    Attributes
    ----------
    alpha
        Calibration factor inside the members.
    mean_share
        Share of the raw variance that the mean carries; `None` for 1/M.
    dof
        Degrees of freedom; `None` for M - 1.
    """

    alpha: float = 1.0
    mean_share: float | None = None
    dof: float | None = None

    @classmethod
    def of_log(cls, attributes: Mapping[str, Any]) -> SpreadLaw:
        """From the root attributes of a log; those of earlier versions say `alpha` only."""
        found = {name: float(attributes[name]) for name in ("alpha", "mean_share", "dof") if name in attributes}
        return cls(**found)

    def of_members(self, n_members: int) -> tuple[float, float]:
        """Return (1 + m/alpha^2, nu) for M members."""
        share = 1.0 / n_members if self.mean_share is None else self.mean_share
        return 1.0 + share / self.alpha**2, n_members - 1.0 if self.dof is None else self.dof


UNCALIBRATED = SpreadLaw()


def attributes_of(prediction: Any) -> dict[str, float]:
    """How the spread of a `Prediction` is to be read, for the attributes of a log; nothing of what it does not know."""
    names = ("alpha", "alpha_forces", "alpha_stress", "mean_share", "dof")
    values = {name: getattr(prediction, name) for name in names}
    return {name: float(value) for name, value in values.items() if value is not None}


class MemberSeries(np.ndarray):
    """Energies of members, (T, M), eV, that remember where they come from.

    An ordinary array in every other respect; parts of it remember, too. So what `read_log` gives can be handed to
    `reweight` as it is, and intervals come out as those of the log.

    Attributes
    ----------
    law
        How the spread of the members is to be read.
    relaxation_frames
        Relaxation time of the thermostat, in frames; every tenth frame has a tenth of it.
    biased
        Whether a bias drove the run.
    at_several_temperatures
        Whether the temperature changed along the run, which then sampled no ensemble.
    exploded
        What shows that the run has exploded, "" for a sound one.
    """

    law: SpreadLaw
    relaxation_frames: float
    biased: bool
    at_several_temperatures: bool
    exploded: str

    def __new__(
        cls,
        values: ArrayLike,
        law: SpreadLaw,
        *,
        relaxation_frames: float = 0.0,
        biased: bool = False,
        at_several_temperatures: bool = False,
        exploded: str = "",
    ) -> Self:
        """Take values of any shape, eV."""
        own = np.asarray(values, dtype=np.float64).view(cls)
        own.law, own.relaxation_frames, own.biased = law, relaxation_frames, biased
        own.at_several_temperatures, own.exploded = at_several_temperatures, exploded
        return own

    def __array_finalize__(self, source: Any) -> None:
        self.law = getattr(source, "law", UNCALIBRATED)
        self.relaxation_frames = getattr(source, "relaxation_frames", 0.0)
        self.biased = getattr(source, "biased", False)
        self.at_several_temperatures = getattr(source, "at_several_temperatures", False)
        self.exploded = getattr(source, "exploded", "")

    def __getitem__(self, key: Any) -> Any:
        """Take a part; the frames of a stride lie further apart."""
        part = super().__getitem__(key)
        frames = key[0] if isinstance(key, tuple) and key else key
        if isinstance(part, MemberSeries) and isinstance(frames, slice) and frames.step is not None:
            part.relaxation_frames /= abs(frames.step)
        return part

    def __reduce__(self) -> Any:
        """Pickle with what it remembers."""
        names = ("relaxation_frames", "biased", "at_several_temperatures", "exploded")
        return _member_series, (np.asarray(self), self.law, {name: getattr(self, name) for name in names})


def _member_series(values: Array, law: SpreadLaw, known: Mapping[str, Any]) -> MemberSeries:
    return MemberSeries(values, law, **known)
