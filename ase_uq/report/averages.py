"""What a log says about its observables: averages, running averages, and vectors against their axis.

An observable that cannot be averaged does not stop the others: the reason is kept as a sentence in place of its result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase.units import kB

from ase_uq.arrays import Array
from ase_uq.averages import of_run
from ase_uq.averages.plain import has_members, plain_average
from ase_uq.averages.run_checks import target_temperature
from ase_uq.averages.running import RunningAverage, running_average
from ase_uq.errors import InputError
from ase_uq.log.reader import RunLog
from ase_uq.reweighting import MIN_FRAMES, ReweightResult
from ase_uq.reweighting.axis import Axis
from ase_uq.reweighting.statistics import sampling_error

_DRIFT_ERRORS = 4.0


@dataclass(frozen=True, slots=True)
class Average:
    """An observable of a run with its average, or with the reason why there is none.

    Attributes
    ----------
    name, unit
        As logged; the unit may be empty.
    values
        (T,), all frames, also those the average leaves out; of a vector its sum over entries, and of an observable with
        members their mean.
    result
        `None` when it could not be averaged.
    problem
        The reason, one sentence; empty when there is a result.
    running
        `None` without a result, and for vectors.
    warnings
        Those of the reweighting and those about drift.
    axis
        Of a vector: what its entries stand for; `None` for a number.
    """

    name: str
    unit: str
    values: Array
    result: ReweightResult | None
    problem: str
    running: RunningAverage | None
    warnings: tuple[str, ...]
    axis: Axis | None = None


def averages(run: RunLog, names: Sequence[str] | None = None, *, skip_fs: float = 0.0) -> list[Average]:
    """Average observables of a run; of a biased one without the bias that it recorded.

    Of a model without members there are mean and sampling error, as `ase_uq.averages.plain` gives them.

    Parameters
    ----------
    names
        Which; all by default.
    skip_fs
        Time at the start to leave out as equilibration, fs.

    Raises
    ------
    InputError
        If the log has no observable of a name, or ends before `skip_fs`.
    """
    chosen = list(run.observables) if names is None else list(names)
    for name in chosen:
        if name not in run.observables:
            known = ", ".join(run.observables) or "none"
            raise InputError(f"`observables` must be in the log, got {name!r}; the log has: {known}.")
    kept = run.after(skip_fs)
    return [_average(run, kept, name) for name in chosen]


def reduced_deviations(run: RunLog) -> Array | None:
    """h_i = beta (V_i - V) about its mean over frames, (T, M), without frames in which it is not finite.

    `None` where the log has no members, no temperature, or fewer than two such frames.
    """
    kelvin = target_temperature(run)
    if run.energy_members_minus_energy is None or kelvin is None:
        return None
    h = run.energy_members_minus_energy / (kB * kelvin)
    h = h[np.isfinite(h).all(axis=1)]
    return np.asarray(h - h.mean(axis=0)) if len(h) >= 2 else None


def _average(run: RunLog, kept: RunLog, name: str) -> Average:
    unit, shown = run.units.get(name, ""), _shown(run, name)
    try:
        # The page says once for all what is wrong with the run.
        result = of_run(kept, [name], run_checks=False)[name] if has_members(run) else plain_average(kept, name)
        running = running_average(kept, name, result) if np.ndim(result.mean) == 0 else None
    except InputError as error:
        return Average(name, unit, shown, None, str(error), None, ())
    warnings = (*result.warnings, *_drift(_shown(kept, name)))
    return Average(name, unit, shown, result, "", running, warnings, result.axis)


def _shown(run: RunLog, name: str) -> Array:
    values = run.observables[name]
    if values.ndim == 1:
        return values
    if name in run.observables_of_members:
        return np.asarray(values.mean(axis=1))
    return np.asarray(values.reshape(len(values), -1).sum(axis=1))


def _drift(values: Array) -> Iterator[str]:
    first, second = np.array_split(values, 2)
    if len(second) < MIN_FRAMES:
        return
    halves = [sampling_error(half) for half in (first, second)]
    error = float(np.hypot(halves[0].std, halves[1].std))
    gap = float(second.mean() - first.mean())
    # The half that drifts least knows best how long the correlation is.
    if abs(gap) > max(halves, key=lambda half: half.resolved).as_rare_as(_DRIFT_ERRORS) * error > 0:
        yield (
            f"the averages of the two halves of the run differ by {abs(gap):.2g}, {abs(gap) / error:.0f} times their "
            "standard error: the observable still drifts; leave the start of the run out, or run longer."
        )
