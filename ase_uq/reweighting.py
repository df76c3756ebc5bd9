"""Averages of a trajectory under every member of a committee, with sampling and model error apart.

The run was driven by V, the energy the integrator saw; member i would have sampled exp(-beta V_i).

========================================  =========================================================
symbol                                    variable
========================================  =========================================================
beta = 1/(kB T)                           `beta`, 1/eV
V_i, V                                    `energy_members[:, i]`, `energy_reference`
h_i = beta (V_i - V)                      `h`
a                                         `observable`
<a>_i                                     `member_means[i]`, r_i
w_i = exp(-h_i)                           `w`, divided by its average over frames
psi, z                                    `influence`: what one frame adds to the reported mean, times T
C                                         `covariance` of r over block-jackknife samples
P = 1 - 11^T/M                            subtracts the mean over members
tr(P C)/(M - 1)                           `noise`
g                                         `statistical_inefficiency`
========================================  =========================================================

cea:    <a>_i = <a> - cov(a, h_i), the full covariance with divisor T; exact for jointly Gaussian a and h_i.
direct: <a>_i = <w_i a> / <w_i>, normalised over frames.

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 20 to 28.
Kish, Survey Sampling (1965).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from ase.units import kB
from numpy.typing import ArrayLike, NDArray

from ase_uq.errors import InputError
from ase_uq.gates import Diagnostics, Discrepancy, warnings_for
from ase_uq.jackknife import block_edges, block_means, jackknife_blocks, jackknife_covariance, merge_blocks
from ase_uq.statistics import kish_ess, sampling_error, statistical_inefficiency

Array = NDArray[np.float64]

METHODS = ("cea", "direct")
MIN_FRAMES = 20
FINE_BLOCKS = 1024  # blocks kept while the length they need is not known yet
HEALTHY_SHARE = 0.1  # of the frames: with less, direct weights are no judge of the expansion
A, H, AH, W, WA, HH, AHH = range(7)  # rows of the averages from which all estimates are formed


@dataclass(frozen=True, slots=True)
class ReweightResult:
    """Average of an observable over a committee, with its errors.

    Attributes
    ----------
    mean
        Mean over members of `member_means`; with "cea", and a run driven by the members' mean, the plain average.
    std_sampling
        Standard error of `mean` from the finite run, sqrt(g var / T) of its influence series.
    std_model
        Spread between members (divisor M - 1) without the part that is sampling noise: sqrt(max(0, naive^2 - noise)).
    std_total
        sqrt(std_sampling^2 + std_model^2).
    ess
        "cea": number of independent frames, T/g. "direct": the smallest over members of Kish's number divided by the
        inefficiency of that member's residual series w_i (a - <a>_i), which is close to 1 where weights, not time
        correlation, limit the average.
    warnings
        Sentences that say when not to believe the numbers.
    member_means
        (M,).
    n_frames
        T.
    method
        "cea" or "direct".
    std_model_naive
        Spread between members as it is.
    noise
        Sampling noise inside the squared spread, tr(P C)/(M - 1).
    statistical_inefficiency
        g of the influence series, as it enters `std_sampling`.
    max_std_h
        Largest standard deviation of h_i along the run, kT.
    """

    mean: float
    std_sampling: float
    std_model: float
    std_total: float
    ess: float
    warnings: tuple[str, ...]
    member_means: Array
    n_frames: int
    method: str
    std_model_naive: float
    noise: float
    statistical_inefficiency: float
    max_std_h: float


@dataclass(frozen=True, slots=True)
class ModelError:
    """Spread between members as it is, the sampling noise (variance) inside it, and the spread without it."""

    naive: float
    noise: float
    std: float


@dataclass(frozen=True, slots=True)
class _Frames:
    average: float
    a: Array  # (T,), about its average
    members: Array  # (T, M)
    reference: Array  # (T,)
    energy_step: float  # kT


@dataclass(frozen=True, slots=True)
class _Sweep:
    blocks: Array  # (B, 7, M), averages over fine blocks of the products named by the row constants
    sizes: NDArray[np.int64]  # (B,)
    totals: Array  # (7, M), the same over all frames
    mean_h: Array  # (T,), mean over members
    mean_residual: Array  # (T,), z of the mean over members; zero for "cea"
    kish: Array  # (M,)
    residual_g: Array  # (M,), inefficiency of z_i; one for "cea"


def reweight(
    observable: ArrayLike,
    *,
    energy_members: ArrayLike,
    energy_reference: ArrayLike,
    temperature_K: float,
    method: str = "cea",
) -> ReweightResult:
    """Average `observable` under every member of a committee.

    Parameters
    ----------
    observable
        (T,), one value a frame.
    energy_members
        (T, M) as in the log, or (M, T), eV: energies of the members, calibrated.
    energy_reference
        (T,), eV: the energy the integrator saw. Only its differences from the members matter, and of these only the
        fluctuation along the run.
    temperature_K
        Target temperature of the thermostat.
    method
        "cea" (cumulant expansion) or "direct" (exponential weights).

    Raises
    ------
    InputError
        For shapes that do not match, fewer than 20 frames or 2 members, a value that is not finite, a temperature that
        is not positive, or a method that does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> x = rng.normal(size=5000)
    >>> members = 0.01 * x[:, None] * np.array([-1.0, -0.5, 0.5, 1.0])
    >>> result = reweight(x, energy_members=members, energy_reference=np.zeros(5000), temperature_K=300.0)
    >>> result.member_means.round(1).tolist(), result.warnings
    ([0.4, 0.2, -0.2, -0.4], ())

    References
    ----------
    arXiv:2011.08828, Eqs. 20 to 28.
    """
    beta = inverse_temperature(temperature_K)
    check_method(method)
    frames = _frames(observable, energy_members, energy_reference, beta)
    n_members = frames.members.shape[1]
    sweep = _sweep(frames, beta=beta, weighted=method == "direct")
    std_h = np.sqrt(np.maximum(sweep.totals[HH] - sweep.totals[H] ** 2, 0.0))
    which = METHODS.index(method)
    shifts = member_estimates(sweep.totals)[which]

    sampling = sampling_error(sweep.mean_residual if method == "direct" else _influence(frames.a, sweep.mean_h))
    g = max(sampling.g, _widest_inefficiency(frames, int(std_h.argmax()), beta))
    blocks, sizes = merge_blocks(sweep.blocks, sweep.sizes, jackknife_blocks(len(frames.a), g))
    # One jackknife for all three vectors, because the gates compare them.
    covariance = jackknife_covariance(_all_estimates, blocks, sizes).reshape(3, n_members, 3, n_members)
    error = model_error(shifts, covariance[which, :, which])
    ess = len(frames.a) / sampling.g if method == "cea" else float((sweep.kish / sweep.residual_g).min())
    result = ReweightResult(
        mean=frames.average + float(shifts.mean()),
        std_sampling=sampling.std,
        std_model=error.std,
        std_total=float(np.hypot(sampling.std, error.std)),
        ess=ess,
        warnings=(),
        member_means=frames.average + shifts,
        n_frames=len(frames.a),
        method=method,
        std_model_naive=error.naive,
        noise=error.noise,
        statistical_inefficiency=sampling.g,
        max_std_h=float(std_h.max()),
    )
    numbers = _diagnostics(result, frames, sweep, covariance, plateau=sampling.blocking.plateau)
    return replace(result, warnings=warnings_for(numbers))


def inverse_temperature(temperature_K: float) -> float:
    """1/(kB T) in 1/eV."""
    if not (np.isfinite(temperature_K) and temperature_K > 0):
        raise InputError(f"`temperature_K` must be positive, got {temperature_K}; pass the thermostat's target in K.")
    return 1.0 / (kB * temperature_K)


def check_method(method: str) -> None:
    """Refuse a method that does not exist (yet)."""
    if method not in METHODS:
        reason = "'gap' comes in a later version" if method == "gap" else f"got {method!r}"
        raise InputError(f"`method` must be one of {', '.join(map(repr, METHODS))}: {reason}; choose one of these.")


def member_estimates(averages: Array) -> Array:
    """Estimates of both methods, (..., 2, M), from averages (..., at least 5, M) in the order A, H, AH, W, WA."""
    cea = averages[..., A, :] - (averages[..., AH, :] - averages[..., A, :] * averages[..., H, :])
    weight = averages[..., W, :]
    direct = np.divide(averages[..., WA, :], weight, out=np.zeros_like(weight), where=weight > 0)
    return np.stack([cea, direct], axis=-2)


def second_order(averages: Array) -> Array:
    """Half the third cumulant of (a, h_i, h_i), (..., M): the first term that the expansion leaves out."""
    a, h, ah, _, _, hh, ahh = np.moveaxis(averages, -2, 0)
    return np.asarray(0.5 * (ahh - 2.0 * ah * h - a * hh + 2.0 * a * h * h))


def model_error(member_means: Array, covariance: Array) -> ModelError:
    """Spread between members (M,), freed from the sampling noise that their covariance (M, M) puts into it."""
    naive = float(member_means.std(ddof=1))
    # trace(P C) with P = 1 - 11^T/M
    noise = float(np.trace(covariance) - covariance.mean() * len(covariance)) / (len(covariance) - 1)
    noise = max(noise, 0.0)
    return ModelError(naive=naive, noise=noise, std=float(np.sqrt(max(naive**2 - noise, 0.0))))


def discrepancy(values: Array, covariance: Array) -> Discrepancy:
    """Size of a correction (M,) and its significance, both as root mean squares over members."""
    variance = np.diagonal(covariance)
    ratio = np.divide(values**2, variance, out=np.zeros_like(values), where=variance > 0)
    return Discrepancy(size=float(np.sqrt((values**2).mean())), significance=float(np.sqrt(ratio.mean())))


def disagreement(averages: Array, covariance: Array, share: Array) -> Discrepancy | None:
    """Expansion minus direct weights for the members whose weights keep enough frames.

    `covariance` has shape (2 or more, M, 2 or more, M); `share` (M,) is Kish's number divided by T.
    """
    healthy = share > HEALTHY_SHARE
    if not healthy.any():
        return None
    cea, direct = member_estimates(averages)
    joint = covariance[0, :, 0] + covariance[1, :, 1] - covariance[0, :, 1] - covariance[1, :, 0]
    return discrepancy((cea - direct)[healthy], joint[np.ix_(healthy, healthy)])


def _diagnostics(
    result: ReweightResult, frames: _Frames, sweep: _Sweep, covariance: Array, *, plateau: bool
) -> Diagnostics:
    return Diagnostics(
        method=result.method,
        n_members=len(result.member_means),
        n_frames=result.n_frames,
        g=result.statistical_inefficiency,
        plateau=plateau,
        max_std_h=result.max_std_h,
        std_mean_h=float(sweep.mean_h.std()),
        spread=result.std_model_naive**2,
        noise=result.noise,
        mean_shift=result.mean - frames.average,
        ess=result.ess,
        second_order=discrepancy(second_order(sweep.totals), covariance[2, :, 2]),
        disagreement=disagreement(sweep.totals, covariance, sweep.kish / result.n_frames),
        energy_step=frames.energy_step,
    )


def _all_estimates(averages: Array) -> Array:
    stacked = np.concatenate([member_estimates(averages), second_order(averages)[..., None, :]], axis=-2)
    return stacked.reshape(*stacked.shape[:-2], -1)


def _influence(a: Array, h: Array) -> Array:
    # a has zero mean; dropping the constant cov(a, h) leaves the mean, which no error bar depends on.
    return np.asarray(a * (1.0 - (h - h.mean())))


def _widest_inefficiency(frames: _Frames, member: int, beta: float) -> float:
    h = beta * (frames.members[:, member] - frames.reference)
    return float(np.max(statistical_inefficiency(_influence(frames.a, h)).g))


def _sweep(frames: _Frames, *, beta: float, weighted: bool) -> _Sweep:
    # One member at a time: temporaries are series, never (T, M).
    n_frames, n_members = frames.members.shape
    a = frames.a
    edges = block_edges(n_frames, min(n_frames, FINE_BLOCKS))
    blocks = np.empty((len(edges) - 1, 7, n_members))
    mean_h, mean_residual = np.zeros(n_frames), np.zeros(n_frames)
    kish, residual_g = np.empty(n_members), np.ones(n_members)
    for i in range(n_members):
        h = beta * (frames.members[:, i] - frames.reference)
        h -= h.mean()
        w = np.exp(h.min() - h)
        w /= w.mean()
        ah = a * h
        for row, series in ((A, a), (H, h), (AH, ah), (W, w), (WA, w * a), (HH, h * h), (AHH, ah * h)):
            blocks[:, row, i] = block_means(series, edges)
        mean_h += h / n_members
        kish[i] = kish_ess(-h)
        if weighted:
            residual = w * (a - (w * a).mean())
            mean_residual += residual / n_members
            residual_g[i] = np.max(statistical_inefficiency(residual).g)
    sizes = np.diff(edges)
    totals = np.einsum("b,bkm->km", sizes / n_frames, blocks)
    return _Sweep(blocks, sizes, totals, mean_h, mean_residual, kish, residual_g)


def _frames(observable: ArrayLike, energy_members: ArrayLike, energy_reference: ArrayLike, beta: float) -> _Frames:
    a = np.asarray(observable, dtype=np.float64)
    members = np.asarray(energy_members, dtype=np.float64)
    reference = np.asarray(energy_reference, dtype=np.float64)
    if a.ndim != 1 or len(a) < MIN_FRAMES:
        raise InputError(
            f"`observable` must be one number a frame, at least {MIN_FRAMES} of them, got shape {a.shape}; run longer."
        )
    if reference.shape != a.shape:
        raise InputError(
            f"`energy_reference` must have one energy a frame, {a.shape}, got {reference.shape}; match frames by step."
        )
    if members.ndim == 2 and members.shape[0] != len(a) and members.shape[1] == len(a):
        members = members.T
    if members.ndim != 2 or len(members) != len(a):
        raise InputError(
            f"`energy_members` must have shape ({len(a)}, M), got {members.shape}; match frames by step number."
        )
    if members.shape[1] < 2:
        raise InputError(f"`energy_members` must hold at least 2 members, got {members.shape[1]}; add members.")
    for name, array in (("observable", a), ("energy_reference", reference), ("energy_members", members)):
        bad = np.flatnonzero(~np.isfinite(array.reshape(len(a), -1)).all(axis=1))
        if len(bad):
            raise InputError(f"`{name}` must be finite, got {array[bad[0]]} in frame {bad[0]}; drop that frame.")
    step = max(_single_precision_step(energy_members), _single_precision_step(energy_reference))
    a = a - (first := float(a[0]))  # a constant observable is then exactly zero
    average = float(a.mean())
    return _Frames(first + average, a - average, members, reference, beta * step)


def _single_precision_step(energies: ArrayLike) -> float:
    values = np.asarray(energies)
    return float(np.spacing(np.abs(values).max())) if values.dtype == np.float32 else 0.0
