"""One trial of an error bar, that is one run against one truth, and what many of them come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase.units import kB
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import lfilter

from ase_uq import reweight
from ase_uq.reweighting import ReweightResult
from ase_uq.reweighting.statistics import sampling_error

Array = NDArray[np.float64]

LEVELS = (0.68, 0.95)
METHODS = ("cea", "direct")


@dataclass(frozen=True, slots=True)
class Run:
    """Energies along a run, eV: what drove it (T,), the members (T, M), and the potential taken for true (T,)."""

    energy_reference: Array
    energy_members: Array
    energy_truth: Array
    temperature_K: float


@dataclass(frozen=True, slots=True)
class Truth:
    """Average under the true potential, with its sampling error where it comes from a run of its own."""

    mean: float
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """Whether the interval of each level holds the truth, and the numbers behind it.

    `z` is what reweighing to the true potential, as if it were a member, gives minus the truth, in units of both their
    sampling errors: it tests the average of one member and its error, apart from the spread between members.
    """

    inside: tuple[bool, ...]
    z: float
    std_sampling: float
    std_model: float
    std_h: float
    warned: bool


@dataclass(frozen=True, slots=True)
class Row:
    """Trials of one observable and method: coverage at `LEVELS`, root mean square of z, medians of what is behind."""

    case: str
    observable: str
    method: str
    repeats: int
    coverage: tuple[float, ...]
    rms_z: float
    model_to_sampling: float
    std_h: float
    warned: float

    @classmethod
    def of(cls, case: str, observable: str, method: str, trials: Sequence[Trial]) -> Row:
        """Count."""
        return cls(
            case,
            observable,
            method,
            len(trials),
            tuple(float(share) for share in np.mean([trial.inside for trial in trials], axis=0)),
            float(np.sqrt(np.mean([trial.z**2 for trial in trials]))),
            float(
                np.median([trial.std_model / trial.std_sampling if trial.std_sampling else np.nan for trial in trials])
            ),
            float(np.median([trial.std_h for trial in trials])),
            float(np.mean([trial.warned for trial in trials])),
        )

    @property
    def binomial_errors(self) -> tuple[float, ...]:
        """Standard error of each coverage, if it is nominal."""
        return tuple(float(np.sqrt(level * (1.0 - level) / self.repeats)) for level in LEVELS)

    @property
    def passes(self) -> bool:
        """Whether each coverage is within two standard errors of its level."""
        return all(
            abs(found - level) <= 2.0 * error
            for found, level, error in zip(self.coverage, LEVELS, self.binomial_errors, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Bar:
    """Sampling errors of many independent runs, against what these runs scatter by.

    `ratio` is the median of `std_sampling` over the scatter, which `repeats` runs know to 1/sqrt(2 repeats); `coverage`
    is that of the mean plus or minus normal quantiles of `std_sampling`; `warned` is the share of runs that a gate
    calls too short.
    """

    case: str
    repeats: int
    ratio: float
    coverage: tuple[float, ...]
    warned: float

    @classmethod
    def of(cls, case: str, means: Array, results: Sequence[ReweightResult], truth: float) -> Bar:
        """Count, over results whose plain averages are `means`."""
        errors = np.array([result.std_sampling for result in results])
        away = np.abs(means - truth) / errors
        short = ("length of the run", "blocking has a plateau", "frames that the bias leaves")
        warned = [any(g.failed and g.name.startswith(short) for g in result.gates) for result in results]
        held = tuple(float(np.mean(away < stats.norm.isf(0.5 - 0.5 * level))) for level in LEVELS)
        return cls(case, len(means), float(np.median(errors) / means.std(ddof=1)), held, float(np.mean(warned)))


@dataclass(frozen=True, slots=True)
class FitTrial:
    """One calibration, judged on other frames.

    `coverage` is the share of their errors inside the intervals, `ratio` alpha over the true one, `near` whether the
    two are within two of alpha's own errors, `warnings` what the calibration said.
    """

    coverage: tuple[float, ...]
    ratio: float
    near: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fit:
    """Many calibrations of one quantity.

    `coverage` is the mean over the repeats and `coverage_error` its standard error, from their scatter; `alpha` the
    median of alpha over the true one, `near` the share within two of its own errors, `warned` the share in which the
    calibration said what the case is about.
    """

    case: str
    quantity: str
    repeats: int
    coverage: tuple[float, ...]
    coverage_error: tuple[float, ...]
    alpha: float | None
    near: float | None
    warned: float

    @classmethod
    def of(cls, case: str, quantity: str, trials: Sequence[FitTrial], *, word: str = "", one_alpha: bool = True) -> Fit:
        """Count; `word` is what a warning must contain, and without one true alpha none is compared."""
        shares = np.array([trial.coverage for trial in trials])
        return cls(
            case,
            quantity,
            len(trials),
            tuple(float(share) for share in shares.mean(axis=0)),
            tuple(float(share) for share in shares.std(axis=0, ddof=1) / np.sqrt(len(trials))),
            float(np.median([trial.ratio for trial in trials])) if one_alpha else None,
            float(np.mean([trial.near for trial in trials])) if one_alpha else None,
            float(np.mean([any(word in text for text in trial.warnings) for trial in trials])),
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Averages of each member from the one run, and from runs of its own; all (M, K) for K observables."""

    observables: tuple[str, ...]
    run_mean: Array  # (K,)
    reweighed: Array
    reweighed_error: Array
    own: Array
    own_error: Array

    @property
    def z(self) -> Array:
        """Differences in units of both sampling errors, (M, K)."""
        return (self.reweighed - self.own) / np.hypot(self.reweighed_error, self.own_error)


def attempt(observable: Array, run: Run, truth: Truth, method: str) -> Trial:
    """Reweigh one observable (T,) of a run, and compare with the truth."""
    result = reweight(
        observable,
        energy_members=run.energy_members,
        energy_reference=run.energy_reference,
        temperature_K=run.temperature_K,
        method=method,
    )
    inside = []
    for level in LEVELS:
        low, high = result.interval(level)
        # The average of a run scatters about the truth that the interval is for.
        margin = np.hypot(0.5 * (high - low), stats.norm.ppf(0.5 + 0.5 * level) * truth.error)
        inside.append(bool(abs(truth.mean - 0.5 * (low + high)) <= margin))
    mean, error = member_average(observable, run, run.energy_truth, method)
    return Trial(
        tuple(inside),
        (mean - truth.mean) / float(np.hypot(error, truth.error)),
        result.std_sampling,
        result.std_model,
        result.max_std_h,
        bool(result.warnings),
    )


def member_average(observable: Array, run: Run, energy: Array, method: str) -> tuple[float, float]:
    """Average of an observable (T,) under one potential with energies (T,), and its sampling error."""
    h = (energy - run.energy_reference) / (kB * run.temperature_K)
    h -= h.mean()
    if method == "cea":
        deviation = observable - observable.mean()
        return float((observable - deviation * h).mean()), sampling_error(deviation * (1.0 - h)).std
    weight = np.exp(h.min() - h)
    weight /= weight.mean()
    mean = float((weight * observable).mean())
    return mean, sampling_error(weight * (observable - mean)).std


def compare(driven: Mapping[str, Array], run: Run, members: Sequence[Mapping[str, Array]]) -> Comparison:
    """Reweigh the series of a run by the expansion to each member, and put the members' own runs beside them."""
    shape = len(members), len(driven), 2
    reweighed, own = np.empty(shape), np.empty(shape)
    for i, member in enumerate(members):
        for k, (name, series) in enumerate(driven.items()):
            reweighed[i, k] = member_average(series, run, run.energy_members[:, i], "cea")
            own[i, k] = member[name].mean(), sampling_error(member[name]).std
    means = np.array([series.mean() for series in driven.values()])
    return Comparison(tuple(driven), means, *np.moveaxis(reweighed, 2, 0), *np.moveaxis(own, 2, 0))


def correlated(rng: np.random.Generator, grid: Array, energy: Array, frames: int, memory: float) -> Array:
    """Draw a series (frames,) from exp(-energy), in kT on a grid; ranks remember the last one, the density is exact."""
    cumulative = np.cumsum(np.exp(energy.min() - energy))
    noise = rng.normal(size=frames)
    noise[1:] *= np.sqrt(1.0 - memory**2)
    ranks = stats.norm.cdf(lfilter([1.0], [1.0, -memory], noise))
    return np.interp(ranks, cumulative / cumulative[-1], grid)


def joined(runs: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Put the series of several runs of one potential one after another."""
    return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}
