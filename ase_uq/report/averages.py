"""What a log says about its observables: averages, running averages, and vectors against their axis.

An observable that cannot be averaged does not stop the others: the reason is kept as a sentence in place of its result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase.units import kB
from numpy.typing import NDArray

from ase_uq.averages.run_checks import target_temperature
from ase_uq.averages.text import model_error
from ase_uq.errors import InputError
from ase_uq.log.reader import RunLog, check_spacing
from ase_uq.report.figures import RunningAverage
from ase_uq.reweighting import MIN_FRAMES, ReweightResult, reweight
from ase_uq.reweighting.axis import Axis
from ase_uq.reweighting.spread import MemberSeries, SpreadLaw
from ase_uq.reweighting.statistics import sampling_error
from ase_uq.reweighting.thermostat import relaxation_frames

Array = NDArray[np.float64]

N_PREFIXES = 40
# Running averages of longer runs are formed from every k-th frame: 40 of them cost 20 times the whole average.
LONGEST_PREFIX_RUN = 20_000

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


@dataclass(frozen=True, slots=True)
class _Frames:
    time_fs: Array  # (T,)
    values: Array  # (T, ...)
    energy: Array
    deviations: Array  # (T, M), eV
    log_weights: Array | None  # (T,), of a biased run
    temperature_K: float
    relaxation_frames: float
    law: SpreadLaw
    paired: bool


def averages(run: RunLog, names: Sequence[str] | None = None, *, skip_fs: float = 0.0) -> list[Average]:
    """Average observables of a run; of a biased one without the bias that it recorded.

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


def _average(run: RunLog, name: str, *, skip_fs: float) -> Average:
    values, unit = run.observables[name], run.units.get(name, "")
    paired = name in run.observables_of_members
    shown = (
        values if values.ndim == 1 else values.mean(axis=1) if paired else values.reshape(len(values), -1).sum(axis=1)
    )
    try:
        frames = _frames(run, name, skip_fs)
        result = _reweight(frames, slice(None))
        running = _running_average(frames, result) if np.ndim(result.mean) == 0 else None
    except InputError as error:
        return Average(name, unit, shown, None, str(error), None, ())
    axis = None if running is not None else _axis(run, name, np.size(result.mean))
    warnings = (*result.warnings, *_drift(shown[len(shown) - len(frames.values) :]))
    return Average(name, unit, shown, result, "", running, warnings, axis)


def _axis(run: RunLog, name: str, n_entries: int) -> Axis:
    return run.axes.get(name) or Axis.of_entries(n_entries)


def _frames(run: RunLog, name: str, skip_fs: float) -> _Frames:
    target = target_temperature(run)
    if run.energy_members_minus_energy is None:
        raise InputError(
            "`energy_members` must be in the log for a model error, it has none; run a model with members."
        )
    keep = run.time_fs >= run.time_fs[0] + skip_fs
    log_weights = run.log_weights
    check_spacing(run.step[keep], run.path)
    return _Frames(
        time_fs=run.time_fs[keep],
        values=run.observables[name][keep],
        deviations=run.energy_members_minus_energy[keep],
        log_weights=None if log_weights is None else log_weights[keep],
        energy=run.energy[keep] - run.energy[keep][0],
        relaxation_frames=relaxation_frames(run.attributes, run.time_fs[keep]),
        temperature_K=np.nan if target is None else target,
        law=SpreadLaw.of_log(run.attributes),
        paired=name in run.observables_of_members,
    )


def _running_average(frames: _Frames, whole: ReweightResult) -> RunningAverage:
    n_frames = len(frames.values)
    stride = -(-n_frames // LONGEST_PREFIX_RUN)
    shortest = max(MIN_FRAMES * stride, n_frames // N_PREFIXES)
    ends = np.unique(np.linspace(shortest, n_frames, N_PREFIXES).astype(int)).tolist()
    results = [(_reweight(frames, slice(0, end, stride)), end) for end in ends if end < n_frames]
    results.append((whole, n_frames))
    model, bound = (np.array(values) for values in zip(*(model_error(result) for result, _ in results), strict=True))
    sampling = np.array([result.std_sampling for result, _ in results])
    return RunningAverage(
        time_fs=frames.time_fs[[end - 1 for _, end in results]],
        mean=np.array([result.mean for result, _ in results]),
        std_sampling=sampling,
        std_model=model,
        std_total=np.hypot(sampling, model),
        bound=bound,
    )


def _reweight(frames: _Frames, part: slice) -> ReweightResult:
    # Without the large common energy differences are exact.
    return reweight(
        frames.values[part],
        energy_members=MemberSeries(frames.energy[part, None] + frames.deviations[part], frames.law),
        energy_reference=frames.energy[part],
        temperature_K=frames.temperature_K,
        observable_members="paired" if frames.paired else None,
        relaxation_frames=frames.relaxation_frames / (part.step or 1),
        log_weights=None if frames.log_weights is None else frames.log_weights[part],
    )


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
