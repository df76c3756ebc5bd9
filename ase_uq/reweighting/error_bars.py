"""From the sums of a run to an average with its errors and gates, for every method and every kind of observable.

=======================================  =======================================================================
symbol                                   variable
=======================================  =======================================================================
r_i                                      `full.value[..., i]`
C                                        `deviations.T @ deviations`, sampling covariance from the jackknife
P = 1 - 11^T/M                           subtracts the mean over members
tr(P C)/(M - 1)                          `noise`
sigma_V, sigma_a                         `potential`, `observable` of `Spread`
=======================================  =======================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 20 to 28.
Busing, Meijer and van der Leeden, Stat. Comput. 9, 3 (1999): the jackknife.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ase_uq.arrays import Array
from ase_uq.reweighting.diagnosis import Evidence, gates_of, widths
from ase_uq.reweighting.frame_blocks import FrameSums
from ase_uq.reweighting.gate import Gate, sentences
from ase_uq.reweighting.jackknife import MIN_BLOCKS, jackknife_deviations
from ase_uq.reweighting.question import Estimates, Question, estimate, plain_members
from ase_uq.reweighting.result import ReweightResult
from ase_uq.reweighting.sampling import (
    USUAL_G,
    blocks_for_jackknife,
    effective_frames,
    effective_weights,
    pace,
    sampling_errors,
)
from ase_uq.reweighting.zero_frequency import zero_frequency

MIN_FRAMES = 20  # with fewer there are means, and no error bars
_INFLUENCE_BLOCKS = 256  # enough for all that a mean sees of the spectrum
_FEWEST_WEIGHTS = 3.0  # effective frames of a biased run, likewise


@dataclass(frozen=True, slots=True)
class Spread:
    """Spread between members, (O,) each: as it is, its noise (variance), without it, and its two parts."""

    naive: Array
    noise: Array
    model: Array
    potential: Array
    observable: Array


@dataclass(frozen=True, slots=True)
class _UnderMembers:
    """Answers under every member: from all frames, without each block of frames in turn, and how far they spread."""

    full: Estimates
    left_out: Estimates
    sizes: Array
    deviations: Array
    spread: Spread


@dataclass(frozen=True, slots=True)
class _Independent:
    """How many frames count: inefficiency g and motions `own`, both (O,), T/g, and the effective sample size."""

    g: Array
    own: Array
    frames: Array
    ess: Array


def average(sums: FrameSums, question: Question) -> ReweightResult:
    """Answer a question about the frames of a run; with fewer than 20 of them all errors are NaN."""
    q, k = question, sums.blocks.a.shape[-1]
    asked = sums.columns(slice(0, k - q.n_followed))
    weight_frames = effective_weights(sums) if q.biased else float(sums.n_frames)
    if sums.n_frames < MIN_FRAMES or weight_frames < _FEWEST_WEIGHTS:
        return _without_errors(asked, q, weight_frames)
    followed = sums.columns(slice(k - q.n_followed, k)) if q.n_followed else asked
    sampling = sampling_errors(
        followed,
        weighted=q.method == "direct",
        relaxation_frames=q.relaxation_frames,
        stratified=q.stratified,
    )
    paced = pace(followed, sampling, relaxation_frames=q.relaxation_frames)
    members = _under_members(asked, paced.n_blocks, q)
    mean, spread = _mean(members.full.value, q), members.spread
    std = _sampling_std(asked, members, np.array([each.std for each in sampling]), q)
    # Fewer than one frame a frame is a gain for the mean, and makes no more frames of them.
    g = np.array([max(1.0, each.g) for each in sampling])
    counted = _independent(asked, members.deviations, g, paced.own, weight_frames, mean.shape, q)
    evidence = Evidence(
        asked=asked,
        followed=followed,
        full=members.full,
        left_out=members.left_out,
        sizes=members.sizes,
        deviations=members.deviations,
        mean=mean,
        naive=spread.naive,
        noise=spread.noise,
        std=np.broadcast_to(std, mean.shape),
        independent=np.broadcast_to(counted.frames, mean.shape),
        ess=counted.ess,
        weight_frames=weight_frames if q.biased else None,
        own=counted.own,
        others=paced.others,
        rare=paced.rare if paced.rare.shape == mean.shape else np.full(mean.shape, float(paced.rare.max())),
        plateau=all(each.blocking.plateau for each in sampling),
    )
    gates, max_std_h = gates_of(evidence, q)
    return _result(
        asked,
        members.full,
        q,
        mean=mean,
        std_sampling=std,
        std_model=spread.model,
        std_total=np.hypot(std, spread.model),
        ess=counted.ess,
        gates=gates,
        std_model_naive=spread.naive,
        noise=spread.noise,
        std_potential=spread.potential,
        std_observable=spread.observable,
        statistical_inefficiency=counted.g,
        max_std_h=max_std_h,
        n_blocks=len(members.sizes),
    )


def _under_members(asked: FrameSums, n_blocks: int, q: Question) -> _UnderMembers:
    blocks = blocks_for_jackknife(asked, n_blocks)
    whole, without = asked.blocks.total(), blocks.left_out()
    full, left_out = (estimate(s, asked.origin_a, q) for s in (whole, without))
    deviations = jackknife_deviations(full.value, left_out.value, blocks.n)
    spread = _spread(full.value, deviations, q)
    if q.own_members:
        plain, plain_left = (plain_members(s, asked.origin_a, q) for s in (whole, without))
        spread = _with_own_members(spread, full, plain, jackknife_deviations(plain, plain_left, blocks.n), q)
    return _UnderMembers(full, left_out, blocks.n, deviations, spread)


def _sampling_std(asked: FrameSums, members: _UnderMembers, of_series: Array, q: Question) -> Array:
    """Sampling error of the mean over members; `of_series` where that is an average of one series of frames."""
    if len(asked.run_starts) >= MIN_BLOCKS:
        return np.asarray(np.sqrt((_over_members(members.deviations, q) ** 2).sum(axis=0)))
    return _error_from_influence(asked, members.full, q) if _needs_jackknife(q) else of_series


def _independent(
    asked: FrameSums,
    deviations: Array,
    g: Array,
    own: Array,
    weight_frames: float,
    shape: tuple[int, ...],
    q: Question,
) -> _Independent:
    if g.shape != shape:
        g, own = np.full(shape, float(np.quantile(g, USUAL_G))), np.full(shape, float(own.min()))
    # A weight of its own for every frame leaves fewer of them, correlated or not.
    frames = np.asarray(np.minimum(asked.n_frames / g, weight_frames))
    ess = frames
    if q.method == "direct":
        plain_columns = q.function is None and q.own_members is None
        ess = np.minimum(effective_frames(asked, deviations, g, own_g=plain_columns), weight_frames)
    return _Independent(g, own, frames, ess)


def _needs_jackknife(q: Question) -> bool:
    """Whether the mean over members is no average of one series of frames."""
    return q.function is not None or q.own_members == "paired" or q.method == "gap"


def _error_from_influence(asked: FrameSums, full: Estimates, q: Question) -> Array:
    """Sampling error (O,) of the mean over members, from the series of what each of many short blocks adds to it."""
    blocks = asked.blocks.merged(_INFLUENCE_BLOCKS)
    left_out = estimate(blocks.left_out(), asked.origin_a, q)
    series = _over_members(jackknife_deviations(full.value, left_out.value, blocks.n), q)
    known = np.isfinite(series).all(axis=0)
    relaxation = q.relaxation_frames * len(series) / asked.n_frames
    found = zero_frequency(np.where(known, series, 0.0), relaxation=relaxation)
    return np.where(known, np.sqrt(len(series) * found.value), np.nan)


def _over_members(deviations: Array, q: Question) -> Array:
    return np.asarray(deviations.mean(axis=(1, -1) if q.own_members == "independent" else -1))


def _without_errors(asked: FrameSums, q: Question, weight_frames: float) -> ReweightResult:
    full = estimate(asked.blocks.total(), asked.origin_a, q)
    few = f"only {asked.n_frames} frames so far (at least {MIN_FRAMES} are needed): no error bars yet."
    gate = Gate("frames", asked.n_frames, MIN_FRAMES, "", at_least=True, failed=True, sentence=few)
    if asked.n_frames >= MIN_FRAMES:
        few = f"the weights of the biased run leave {weight_frames:.2g} of {asked.n_frames} frames: no error bars."
        gate = Gate("frames that the bias leaves", weight_frames, _FEWEST_WEIGHTS, "", True, True, few)
    unknown = dict.fromkeys(
        ("std_sampling", "std_model", "std_total", "ess", "noise", "std_potential", "std_observable"), np.nan
    )
    return _result(
        asked,
        full,
        q,
        mean=_mean(full.value, q),
        std_model_naive=_spread(full.value, np.zeros((1, *full.value.shape)), q).naive,
        statistical_inefficiency=np.nan,
        gates=(gate,),
        max_std_h=float(widths(asked.blocks.total(), q).max()),
        n_blocks=1,
        **unknown,
    )


def _result(
    asked: FrameSums,
    full: Estimates,
    q: Question,
    *,
    mean: Array,
    gates: tuple[Gate, ...],
    max_std_h: float,
    n_blocks: int,
    **entries: Any,
) -> ReweightResult:
    def shaped(values: Any) -> Any:
        array = np.broadcast_to(values, mean.shape).reshape(full.shape)
        return float(array) if array.ndim == 0 else np.array(array)

    members = np.moveaxis(full.value, -1, 0)
    return ReweightResult(
        mean=shaped(mean),
        warnings=sentences(gates),
        gates=gates,
        member_means=members.reshape(*members.shape[:-1], *full.shape),
        n_frames=asked.n_frames,
        method=q.method,
        max_std_h=max_std_h,
        n_members=full.value.shape[-1],
        n_blocks=n_blocks,
        law=q.law,
        **{name: shaped(values) for name, values in entries.items()},
    )


def _mean(values: Array, q: Question) -> Array:
    # By way of the first member, so that equal members have exactly their own value as mean.
    axes, first = (-1, values[..., :1]) if q.own_members != "independent" else ((-3, -1), values[..., :1, :, :1])
    return np.asarray((first + (values - first).mean(axis=axes, keepdims=True)).squeeze(axes))


def spread_noise(deviations: Array) -> Array:
    """Sampling noise in the squared spread over the last axis, tr(P C)/(M - 1), from deviations (B, ..., M)."""
    m = deviations.shape[-1]
    trace = (deviations**2).sum(axis=(0, -1)) - (deviations.sum(axis=-1) ** 2).sum(axis=0) / m
    return np.asarray(np.maximum(trace, 0.0) / (m - 1))


def _spread(values: Array, deviations: Array, q: Question) -> Spread:
    naive, noise = values.std(axis=-1, ddof=1), spread_noise(deviations)
    if q.own_members == "independent":  # over the axis of observable members, too
        naive, noise = np.sqrt((naive**2).mean(axis=0)), noise.mean(axis=0)
    model = np.sqrt(np.maximum(naive**2 - noise, 0.0))
    return Spread(naive, noise, model, model, np.zeros_like(model))


def _with_own_members(spread: Spread, full: Estimates, plain: Array, deviations: Array, q: Question) -> Spread:
    observable = np.sqrt(np.maximum(plain.var(axis=-1, ddof=1) - spread_noise(deviations), 0.0))
    if q.own_members == "paired":
        # The two parts are correlated: what remains of the whole is the part of the potentials.
        potential = np.sqrt(np.maximum((full.value - plain).var(axis=-1, ddof=1) - spread.noise, 0.0))
        return Spread(spread.naive, spread.noise, spread.model, potential, observable)
    m, own = full.value.shape[-1], plain.shape[-1]
    share_a, share_v = m * (own - 1) / (m * own - 1), own * (m - 1) / (m * own - 1)
    noise_a = spread_noise(deviations)
    return Spread(
        naive=np.sqrt(share_a * plain.var(axis=-1, ddof=1) + share_v * spread.naive**2),
        noise=share_a * noise_a + share_v * spread.noise,
        model=np.sqrt(share_a * observable**2 + share_v * spread.model**2),
        potential=spread.model,
        observable=observable,
    )
