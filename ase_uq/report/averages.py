"""What a log says about its observables: averages, running averages, and warnings that concern the run as a whole.

An observable that cannot be averaged does not stop the others: the reason is kept as a sentence in place of its result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase.units import kB
from numpy.typing import NDArray

from ase_uq.errors import InputError
from ase_uq.report.figures import RunningAverage
from ase_uq.reweighting import MIN_FRAMES, ReweightResult, reweight
from ase_uq.runlog import RunLog
from ase_uq.statistics import standard_error

Array = NDArray[np.float64]

N_PREFIXES = 40
# Running averages of longer runs are formed from every k-th frame: 40 of them cost 20 times the whole average.
LONGEST_PREFIX_RUN = 20_000

_LOW_WEIGHT = 0.5
_NOTABLE_SHARE = 0.01
_DRIFT_ERRORS = 4.0
_TEMPERATURE_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Average:
    """An observable of a run with its average, or with the reason why there is none.

    Attributes
    ----------
    name, unit
        As logged; the unit may be empty.
    values
        (T,), all frames, also those the average leaves out.
    result
        `None` when it could not be averaged.
    problem
        The reason, one sentence; empty when there is a result.
    running
        `None` without a result.
    warnings
        Those of the reweighting and those about drift.
    """

    name: str
    unit: str
    values: Array
    result: ReweightResult | None
    problem: str
    running: RunningAverage | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Frames:
    time_fs: Array  # (T,)
    values: Array  # (T,)
    deviations: Array  # (T, M), eV
    temperature_K: float


def averages(run: RunLog, names: Sequence[str] | None = None, *, skip_fs: float = 0.0) -> list[Average]:
    """Average observables of a run.

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
    length = float(run.time_fs[-1] - run.time_fs[0])
    if not 0 <= skip_fs <= length:
        raise InputError(f"`skip_fs` must lie within the run of {length:g} fs, got {skip_fs:g}; leave out less.")
    return [_average(run, name, skip_fs=skip_fs) for name in chosen]


def target_temperature(run: RunLog) -> float | None:
    """Target of the thermostat in K, or `None` when the log does not know it."""
    value = float(run.attributes.get("temperature_K", np.nan))
    return value if np.isfinite(value) and value > 0 else None


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


def run_warnings(run: RunLog) -> tuple[str, ...]:
    """Sentences about the run that touch every number drawn from it."""
    return (*_calibration(run), *_ensemble(run), *_temperature(run), *_fallback(run))


def _average(run: RunLog, name: str, *, skip_fs: float) -> Average:
    values, unit = run.observables[name], run.units.get(name, "")
    try:
        frames = _frames(run, name, skip_fs)
        result = _reweight(frames, slice(None))
        running = _running_average(frames, result)
    except InputError as error:
        return Average(name, unit, values, None, str(error), None, ())
    return Average(name, unit, values, result, "", running, (*result.warnings, *_drift(frames.values)))


def _frames(run: RunLog, name: str, skip_fs: float) -> _Frames:
    target = target_temperature(run)
    if run.energy_members_minus_energy is None:
        raise InputError(
            "`energy_members` must be in the log for a model error, it has none; run a model with members."
        )
    keep = run.time_fs >= run.time_fs[0] + skip_fs
    return _Frames(
        time_fs=run.time_fs[keep],
        values=run.observables[name][keep],
        deviations=run.energy_members_minus_energy[keep],
        temperature_K=np.nan if target is None else target,
    )


def _running_average(frames: _Frames, whole: ReweightResult) -> RunningAverage:
    n_frames = len(frames.values)
    stride = -(-n_frames // LONGEST_PREFIX_RUN)
    shortest = max(MIN_FRAMES * stride, n_frames // N_PREFIXES)
    ends = np.unique(np.linspace(shortest, n_frames, N_PREFIXES).astype(int)).tolist()
    results = [(_reweight(frames, slice(0, end, stride)), end) for end in ends if end < n_frames]
    results.append((whole, n_frames))
    return RunningAverage(
        time_fs=frames.time_fs[[end - 1 for _, end in results]],
        mean=np.array([result.mean for result, _ in results]),
        std_sampling=np.array([result.std_sampling for result, _ in results]),
        std_model=np.array([result.std_model for result, _ in results]),
        std_total=np.array([result.std_total for result, _ in results]),
    )


def _reweight(frames: _Frames, part: slice) -> ReweightResult:
    # Only differences matter, and without the large common energy they are exact.
    values = frames.values[part]
    return reweight(
        values,
        energy_members=frames.deviations[part],
        energy_reference=np.zeros(len(values)),
        temperature_K=frames.temperature_K,
    )


def _drift(values: Array) -> Iterator[str]:
    first, second = np.array_split(values, 2)
    if len(second) < MIN_FRAMES:
        return
    error = float(np.hypot(standard_error(first), standard_error(second)))
    gap = float(second.mean() - first.mean())
    if abs(gap) > _DRIFT_ERRORS * error > 0:
        yield (
            f"the averages of the two halves of the run differ by {abs(gap):.2g}, {abs(gap) / error:.0f} times their "
            "standard error: the observable still drifts; leave the start of the run out, or run longer."
        )


def _calibration(run: RunLog) -> Iterator[str]:
    if float(run.attributes.get("alpha", 1.0)) == 1.0:
        yield (
            "the model is not calibrated (alpha = 1): committees usually spread less than they err, so take every "
            "standard deviation and every model error below as a lower bound until the model is calibrated."
        )


def _ensemble(run: RunLog) -> Iterator[str]:
    if _constant_energy(run):
        yield (
            "the run was made at constant energy, while model errors are worked out for constant temperature: take "
            "them as an estimate, or run with a thermostat."
        )


def _temperature(run: RunLog) -> Iterator[str]:
    target, t = target_temperature(run), run.temperature_K[np.isfinite(run.temperature_K)]
    if target is None or len(t) < MIN_FRAMES or _constant_energy(run):
        return
    gap, error = float(t.mean()) - target, float(standard_error(t))
    if abs(gap) > max(_DRIFT_ERRORS * error, _TEMPERATURE_TOLERANCE * target) and error > 0:
        yield (
            f"the mean temperature is {t.mean():.0f} K where {target:g} K was asked for, {abs(gap) / error:.0f} "
            "standard errors away: the run is not equilibrated, or not in the ensemble it claims."
        )


def _fallback(run: RunLog) -> Iterator[str]:
    share = 0.0 if run.weight is None else float(np.mean(run.weight < _LOW_WEIGHT))
    if share > _NOTABLE_SHARE:
        yield (
            f"in {share:.0%} of the frames the weight of the model was below {_LOW_WEIGHT:g}: there the run followed "
            "the baseline, whose own error no bar below contains."
        )


def _constant_energy(run: RunLog) -> bool:
    return str(run.attributes.get("ensemble", "")).lower() == "nve"
