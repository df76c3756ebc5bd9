"""A run in memory, looked at as an open log: so that averages of both go the same way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ase_uq.log.columns import KINDS, OBSERVABLES
from ase_uq.log.observables import axis_attributes
from ase_uq.log.reader import OpenLog, RunLog


class Held:
    """An array with attributes, as a dataset of a file has them."""

    __slots__ = ("attrs", "values")

    def __init__(self, values: NDArray[Any], attrs: dict[str, Any]) -> None:
        self.values, self.attrs = values, attrs

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: Any) -> NDArray[Any]:
        return np.asarray(self.values[part])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape over all frames, (T, ...)."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """Number of axes, that of frames included."""
        return self.values.ndim


def log_of(run: RunLog) -> OpenLog:
    """Return a run as the log it was read from, or could have been."""
    columns = {name: getattr(run, name) for name in KINDS}
    datasets = {
        name: Held(np.asarray(values), {"unit": KINDS[name].unit})
        for name, values in columns.items()
        if values is not None
    }
    for name, values in run.observables.items():
        attributes = {"unit": run.units.get(name, ""), **axis_attributes(run.axes.get(name))}
        if name in run.observables_of_members:
            attributes["members"] = True
        datasets[OBSERVABLES + name] = Held(np.asarray(values), attributes)
    return OpenLog(run.path, dict(run.attributes), datasets, run.n_frames, run.damage)
