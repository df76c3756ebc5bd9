"""What is asked of the sums of a run, and the answer under every member: values, and corrections that should be small.

An observable may have members of its own, and may be followed by a function of its averages. With the expansion, and
only there, the function is taken to first order about the averages of the run, so that it sees centred moments: a heat
capacity from <V> and <V^2> expanded separately is wrong by more than its value.

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 20 to 27.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.reweighting import estimators
from ase_uq.reweighting.frame_blocks import Sums
from ase_uq.reweighting.spread import UNCALIBRATED, SpreadLaw

_FIRST_ORDER_STEP = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of the sums of a run.

    Attributes
    ----------
    method
        "cea", "direct" or "gap".
    shape
        Of the observable, without the axis of its own members.
    n_followed
        Columns at the end that hold the observable itself, for its sampling error; 0 where the columns of the
        estimator do.
    own_members
        `None`, "paired" or "independent": columns are (M', *shape) then.
    binned
        "gap": whether columns are the bins of a scalar, followed by that scalar in the bins; else they are a histogram
        with what lies outside of it as the last column.
    open_ended
        Whether bins of a scalar hold ranges, so that members may go beyond the first and the last.
    function
        Of the averages, an array of `shape`, or `None`.
    law
        How the spread of the members is to be read.
    energy_step
        Resolution of the energies handed in, kT.
    biased
        Whether frames carry weights.
    relaxation_frames
        A relaxation time known from elsewhere, as of the thermostat, in frames.
    stratified
        Whether every stretch of the run holds frames of several states in fixed proportions.
    """

    method: str
    shape: tuple[int, ...] = ()
    n_followed: int = 0
    own_members: str | None = None
    binned: bool = False
    open_ended: bool = False
    function: Callable[[Any], Any] | None = None
    law: SpreadLaw = UNCALIBRATED
    energy_step: float = 0.0
    biased: bool = False
    relaxation_frames: float = 0.0
    stratified: bool = False


@dataclass(frozen=True, slots=True)
class Estimates:
    """Estimates and corrections under every member, (..., O, M), or (..., M', O, M) for independent own members."""

    value: Array
    second: Array | None
    direct: Array | None
    shape: tuple[int, ...]


def estimate(s: Sums, origin: Array, q: Question) -> Estimates:
    """Answer a question from sums with any leading axes, taken about `origin` (n_columns,)."""
    shift = origin[:, None]
    if q.method == "gap":
        means = estimators.gap_mean(s) if q.binned else estimators.gap(s)[..., :-1, :]
        beyond = estimators.gap_mean(s, second=True) if q.binned else estimators.gap(s, second=True)[..., :-1, :]
        direct = estimators.direct(s)
        direct = direct[..., s.a.shape[-1] // 2 :, :].sum(axis=-2, keepdims=True) if q.binned else direct[..., :-1, :]
        if q.function is None:
            return Estimates(means, beyond - means, direct - means, q.shape)
        value, shape = _apply(q.function, means, q.shape)
        second, exact = (_apply(q.function, other, q.shape)[0] - value for other in (beyond, direct))
        return Estimates(value, second, exact, shape)
    cea, direct = (_paired(part + shift, q) for part in (estimators.cea(s), estimators.direct(s)))
    second = _paired(estimators.second_order(s), q)
    if q.function is None:
        return Estimates(direct if q.method == "direct" else cea, second, direct - cea, q.shape)
    plain = estimators.plain(s) + origin
    base = _paired(np.broadcast_to(plain[..., None], (*plain.shape, s.h.shape[-1])), q)
    at_base, shape = _apply(q.function, base, q.shape)
    first = at_base + _along(q.function, base, cea - base, q.shape)
    exact, _ = _apply(q.function, direct, q.shape)
    return Estimates(
        exact if q.method == "direct" else first, _along(q.function, base, second, q.shape), exact - first, shape
    )


def _paired(values: Array, q: Question) -> Array:
    """Columns (..., n_columns, M) with the axis of own members brought out, (..., M', O, M), and matched if paired."""
    if q.own_members is None:
        return values
    size = int(np.prod(q.shape, dtype=int))
    grid = values.reshape(*values.shape[:-2], -1, size, values.shape[-1])
    return np.asarray(np.einsum("...ipi->...pi", grid)) if q.own_members == "paired" else grid


def plain_members(s: Sums, origin: Array, q: Question) -> Array:
    """Plain averages of the own members, or the function of them, (..., O, M')."""
    values = (estimators.plain(s) + origin).reshape(*s.a.shape[:-1], -1, int(np.prod(q.shape, dtype=int)))
    means = np.swapaxes(values, -1, -2)
    return means if q.function is None else _apply(q.function, means, q.shape)[0]


def _apply(function: Callable[[Any], Any], means: Array, shape: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """Values (..., Q, M) of a function of averages (..., O, M), and the shape of one of them."""
    rows = np.moveaxis(means, -2, -1)
    flat = rows.reshape(-1, *shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = [np.asarray(function(row if shape else float(row)), dtype=np.float64) for row in flat]
    out = np.stack(values)
    if not np.isfinite(values[0]).any():
        raise InputError(
            f"`function` must be finite at the averages, got {values[0]} at {flat[0]}; use method 'gap' for the "
            "logarithm of a probability."
        )
    return np.moveaxis(out.reshape(*rows.shape[:-1], -1), -1, -2), values[0].shape


def _along(function: Callable[[Any], Any], base: Array, step: Array, shape: tuple[int, ...]) -> Array:
    """First-order change of a function from `base` along `step`."""
    ahead = _apply(function, base + _FIRST_ORDER_STEP * step, shape)[0]
    behind = _apply(function, base - _FIRST_ORDER_STEP * step, shape)[0]
    return (ahead - behind) / (2.0 * _FIRST_ORDER_STEP)
