"""The numbers behind the gates, from the sums of a run and the estimates made of them.

=======================================  =======================================================================
symbol                                   variable
=======================================  =======================================================================
sd(h_i)                                  `widths`; inside bins for "gap"
mu_3, mu_4                               central moments in `_shape`
skewness, bimodality                     mu_3/mu_2^(3/2), (skewness^2 + 1)/kurtosis
k                                        `tail_shapes`
=======================================  =======================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 20 to 25.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ase_uq.arrays import Array
from ase_uq.reweighting import estimators
from ase_uq.reweighting.frame_blocks import FrameSums, Sums
from ase_uq.reweighting.gate import Gate
from ase_uq.reweighting.gates import (
    END_FRAMES,
    END_RATIO,
    SHAPED_STD_H,
    THIN_FRAMES,
    Diagnostics,
    Discrepancy,
    gates_for,
    worst_of,
)
from ase_uq.reweighting.jackknife import jackknife_deviations
from ase_uq.reweighting.pareto import tail_shapes
from ase_uq.reweighting.question import Estimates, Question

HEALTHY_SHARE = 0.1  # of the frames: with less, direct weights are no judge of the expansion
_NEGATIVE_ERRORS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What an average was made of.

    Attributes
    ----------
    asked, followed
        Sums of the columns of the estimator, and of the observable itself.
    full, left_out
        Estimates from all frames and without each block.
    sizes, deviations
        Of the jackknife.
    mean, naive, noise, std, independent, ess
        Of the result, (O,): mean, spread of members and its noise, sampling error, independent and effective frames.
    weight_frames
        Effective frames of the weights of a biased run, else `None`.
    own, others
        Length of the run over twice the slowest relaxation time, in each observable (O,) and in what moves beside it.
    rare
        Skewness of the observable, of many the usual one, where it makes the sampling error uncertain.
    plateau
        Whether blocking found one for every entry.
    """

    asked: FrameSums
    followed: FrameSums
    full: Estimates
    left_out: Estimates
    sizes: Array
    deviations: Array
    mean: Array
    naive: Array
    noise: Array
    std: Array
    independent: Array
    ess: Array
    weight_frames: float | None
    own: Array
    others: float
    rare: Array
    plateau: bool


def gates_of(e: Evidence, q: Question) -> tuple[tuple[Gate, ...], float]:
    """All gates of a result, of each kind the worst over its entries; and the largest width of h_i, kT."""
    total = e.asked.blocks.total()
    std_h = widths(total, q)
    shared = _of_the_run(e, q, total, std_h)
    second = _corrections(e.full.second, e.left_out.second, e.sizes, np.ones(len(std_h), dtype=bool))
    healthy = total.w**2 / e.asked.moments.ww > HEALTHY_SHARE * e.asked.n_frames
    direct = _corrections(e.full.direct, e.left_out.direct, e.sizes, healthy)
    plain = estimators.plain(e.followed.blocks.total()) + e.followed.origin_a
    if q.method == "gap" and not q.binned:
        plain = plain[:-1]  # the last is what lies outside
    comparable = plain.shape == e.mean.shape and q.function is None
    negative = _negative(e, q)
    entries = [
        Diagnostics(
            **shared,
            independent=float(e.independent[p]),
            own=float(e.own[p]),
            rare=float(e.rare[p]),
            sampling=float(e.std[p]),
            spread=float(e.naive[p] ** 2),
            noise=float(e.noise[p]),
            mean_shift=float(e.mean[p] - plain[p]) if comparable else None,
            ess=float(np.broadcast_to(e.ess, e.mean.shape)[p]),
            second_order=None if second is None else second[p],
            disagreement=None if direct is None else direct[p],
            negative=None if negative is None else float(negative[p]),
        )
        for p in range(len(e.mean))
    ]
    return worst_of([gates_for(entry) for entry in entries]), float(std_h.max())


def discrepancies(values: Array, deviations: Array) -> list[Discrepancy]:
    """Size of a correction (O, M) and its significance, both as root mean squares over members, for each entry."""
    variance = (deviations**2).sum(axis=0)
    ratio = np.divide(values**2, variance, out=np.zeros_like(values), where=variance > 0)
    sizes, significances = np.sqrt((values**2).mean(axis=-1)), np.sqrt(ratio.mean(axis=-1))
    return [Discrepancy(float(size), float(sign)) for size, sign in zip(sizes, significances, strict=True)]


def _of_the_run(e: Evidence, q: Question, total: Sums, std_h: Array) -> dict[str, Any]:
    moments, tails = e.followed.moments, e.asked.tails
    skewness, bimodality = _shape(e.asked, total)
    # The shape of what hardly moves changes no average.
    wide = std_h > SHAPED_STD_H
    skewness, bimodality = np.where(wide, skewness, 0.0), np.where(wide, bimodality, 0.0)
    unit, mean, square = moments.second[0, 0] / moments.second[0, 0, 0]
    worst = int(np.argmax(np.abs(skewness) * std_h)) if q.method != "gap" else 0
    return {
        "method": q.method,
        "n_members": len(std_h),
        "n_frames": e.asked.n_frames,
        "plateau": e.plateau,
        "others": e.others,
        "max_std_h": float(std_h.max()),
        "std_mean_h": float(np.sqrt(max(square - (mean / unit) ** 2, 0.0))),
        "energy_step": q.energy_step,
        "skewness": float(skewness[worst]),
        "skewed_std_h": float(std_h[worst]),
        "bimodality": float(bimodality.max()),
        "pareto_k": None if tails is None else float(np.nanmax([*tail_shapes(tails), -1.0])),
        "thin_share": _thin_share(e, q, total),
        "end_share": _end_share(e, q, total),
        "blurred_share": _blurred_share(e, q, total),
        "weight_frames": e.weight_frames,
    }


def _corrections(
    full: Array | None, left_out: Array | None, sizes: Array, members: NDArray[np.bool_]
) -> list[Discrepancy] | None:
    if full is None or left_out is None or not members.any():
        return None
    deviations = jackknife_deviations(full, left_out, sizes)
    if full.ndim == 3:  # independent members of the observable: one more axis to take together
        full, deviations = np.concatenate(full, axis=-1), np.concatenate(np.moveaxis(deviations, 1, 0), axis=-1)
        members = np.tile(members, full.shape[-1] // len(members))
    return discrepancies(full[:, members], deviations[:, :, members])


def _negative(e: Evidence, q: Question) -> Array | None:
    if q.method != "cea" or q.function is not None or q.own_members or (e.followed.moments.lowest < 0).all():
        return None
    std = np.sqrt((e.deviations**2).sum(axis=0))
    below = np.where(e.full.value < -_NEGATIVE_ERRORS * std, -e.full.value, 0.0).max(axis=-1)
    spread = np.where(e.naive > 0, e.naive, np.inf)
    return np.where(e.followed.moments.lowest >= 0, below / spread, 0.0)


def _thin_share(e: Evidence, q: Question, total: Sums) -> float | None:
    if q.method != "gap":
        return None
    counts = total.columns(slice(0, total.a.shape[-1] // 2)) if q.binned else total
    thin = counts.a / total.b * e.asked.n_frames < THIN_FRAMES
    return float((estimators.gap(counts) * thin[:, None]).sum(axis=0).max())


def _end_share(e: Evidence, q: Question, total: Sums) -> float | None:
    """Largest part of a member's weight in the first or last bin of a scalar, where few frames stand for much more.

    Beyond it the run knows nothing, and what a member would have there is missing from its average.
    """
    if not q.binned or not q.open_ended:
        return None
    bins = total.a.shape[-1] // 2
    counts = total.columns(slice(0, bins))
    ends, share = [0, bins - 1], estimators.gap(counts)
    own = counts.a / total.b
    few = own[ends] * e.asked.n_frames < END_FRAMES
    preferred = share[ends] > END_RATIO * own[ends, None]
    return float(np.where(few[:, None] & preferred, share[ends], 0.0).max())


def _blurred_share(e: Evidence, q: Question, total: Sums) -> float | None:
    """Part of the variance of a scalar that lies inside the bins."""
    if not q.binned:
        return None
    second = e.followed.moments.second[0] / e.followed.moments.second[0, 0, 0]
    mean = float(second[1, 0])
    bins = total.a.shape[-1] // 2
    counts, sums = total.a[:bins], total.a[bins:]
    # `followed` has no origin of its own for "gap": its second moment is that of the values themselves.
    between = float((sums**2 / np.where(counts > 0, counts, 1.0)).sum() / total.b) - mean**2
    variance = float(second[2, 0]) - mean**2
    return 0.0 if variance <= 1e-24 * max(mean**2, 1e-300) or e.weight_frames else max(1.0 - between / variance, 0.0)


def _shape(sums: FrameSums, total: Sums) -> tuple[Array, Array]:
    """Skewness and coefficient of bimodality of h_i, (M,) each; 0 and 1/3, as of a Gaussian, where h_i is constant."""
    b, mean = total.b, total.h / total.b
    variance = total.hh / b - mean**2
    third = sums.moments.hhh / b - 3.0 * mean * total.hh / b + 2.0 * mean**3
    fourth = sums.moments.hhhh / b - 4.0 * mean * sums.moments.hhh / b + 6.0 * mean**2 * total.hh / b - 3.0 * mean**4
    moves = variance > 1e-24
    skewness = np.divide(third, variance**1.5, out=np.zeros_like(mean), where=moves)
    kurtosis = np.divide(fourth, variance**2, out=np.full_like(mean, 3.0), where=moves)
    return skewness, (skewness**2 + 1.0) / kurtosis


def widths(total: Sums, q: Question) -> Array:
    """Standard deviation of h_i along the run, or inside the bins of a histogram, (M,)."""
    b = total.b
    if q.method == "gap":
        bins = total.a.shape[-1] // 2 if q.binned else total.a.shape[-1]
        counts, ah = total.a[:bins, None], total.ah[:bins]
        mean = np.divide(ah, counts, out=np.zeros_like(ah), where=counts > 0)
        return np.asarray(np.sqrt(np.maximum((total.ahh[:bins] - ah * mean).sum(axis=0) / b, 0.0)))
    return np.asarray(np.sqrt(np.maximum(total.hh / b - (total.h / b) ** 2, 0.0)))
