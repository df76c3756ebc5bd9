"""Averages over frames some of which have no value: which are left out, how many, and that it is said."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ase_uq.arrays import Array
from ase_uq.averages.circle import Circle
from ase_uq.errors import InputError
from ase_uq.reweighting.columns import Columns
from ase_uq.reweighting.gate import Gate, sentences
from ase_uq.reweighting.result import ReweightResult


@dataclass(frozen=True, slots=True)
class Place:
    """Where the columns of an observable stand, the shape of its values, and the circle they may be on."""

    columns: Columns
    where: slice
    shape: tuple[int, ...]
    circle: Circle

    def row(self, value: Array) -> tuple[Array, bool]:
        """Return the columns (n,) of one frame, and whether it has a value; those of zeros stand for none."""
        found = self.circle.unrolled(value[None])
        known = bool(np.isfinite(found).all())
        return self.columns.build(found if known else np.zeros((1, *self.shape)))[0], known


def check_any_value(name: str, n_known: int, n_frames: int) -> None:
    """Refuse an average over no frame at all."""
    if n_known == 0:
        raise InputError(
            f"`observables[{name!r}]` must have a value in some frame, it had none in {n_frames}; check its function, "
            "or leave it out."
        )


def without_values(result: ReweightResult, name: str, n_missing: int, gates: tuple[Gate, ...] = ()) -> ReweightResult:
    """Return a result with checks of its values before its own: `gates`, and one for frames that had none."""
    if n_missing:
        n_frames = result.n_frames + n_missing
        sentence = (
            f"{name!r} has no value in {n_missing} of {n_frames} frames ({100.0 * n_missing / n_frames:.2g} %), which "
            "are left out of its average: what it would be there is not known; see why its function fails in them."
        )
        gates = (*gates, Gate("frames without a value", float(n_missing), 0.0, "frames", False, True, sentence))
    return replace(result, gates=(*gates, *result.gates), warnings=(*sentences(gates), *result.warnings))
