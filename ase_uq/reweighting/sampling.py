"""Sampling error of a reweighed average from the blocks of a run: influence series, jackknife blocks, effective frames.

=======================================  =======================================================================
symbol                                   variable
=======================================  =======================================================================
psi, z                                   `z`: what one frame adds to the reported mean, times T
g                                        `SamplingError.g`
sum w^2, sum w^2 a, sum w^2 a^2          `Moments.ww`, `wwa`, `wwaa`
=======================================  =======================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 20 to 24.
Kish, Survey Sampling (1965): the effective number of frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ase_uq.reweighting import estimators
from ase_uq.reweighting.frame_blocks import FrameSums, Sums
from ase_uq.reweighting.jackknife import MIN_BLOCKS, jackknife_blocks
from ase_uq.statistics import SamplingError, sampling_error_of_blocks, statistical_inefficiency

Array = NDArray[np.float64]

USUAL_G = 0.9  # quantile over the entries of a vector; the largest of many is noise


def sampling_errors(sums: FrameSums, *, weighted: bool) -> list[SamplingError]:
    """Of the mean over members, for every column."""
    s, total, n = sums.blocks, sums.blocks.total(), sums.n_frames
    z, variance = _weighted_influence(sums, total) if weighted else _influence(sums, total)
    whole = s.n == sums.length
    z = (z / s.n[:, None])[whole if whole.sum() > 1 else slice(None)]
    variance = variance * n / (n - 1)
    if weighted and sums.length > 1 and len(z) > 1:
        # That of single members is more than that of their mean; blocks of a white series know the latter.
        variance = np.minimum(variance, sums.length * z.var(axis=0, ddof=1))
    return [
        sampling_error_of_blocks(column, length=sums.length, n_frames=n, variance=float(v))
        for column, v in zip(z.T, variance, strict=True)
    ]


def _influence(sums: FrameSums, total: Sums) -> tuple[Array, Array]:
    """Sums over blocks (B, K) and variance (K,) of what one frame adds to a (1 - h) about both means."""
    s, n, b = sums.blocks, sums.n_frames, total.b
    a, h, ah = total.a / b, total.h.mean() / b, total.ah.mean(axis=-1) / b
    # Derivatives of a - (ah - a h) with respect to the averages of b, b a, b h, b a h.
    slopes = np.stack([ah - a - 2.0 * a * h, np.full_like(a, 1.0 + h), a, np.full_like(a, -1.0)]) * n / b
    series = (s.b[:, None], s.a, s.h.mean(axis=-1)[:, None], s.ah.mean(axis=-1))
    z = sum(slope * part for slope, part in zip(slopes, series, strict=True))
    powers = ((0, 0), (1, 0), (0, 1), (1, 1))
    second = np.array([[sums.moments.second[:, p + r, q + t] for r, t in powers] for p, q in powers]) / n
    variance = np.einsum("ik,ijk,jk->k", slopes, second, slopes)
    return np.asarray(z), np.maximum(variance, 0.0)


def _weighted_influence(sums: FrameSums, total: Sums) -> tuple[Array, Array]:
    """The same of direct weights; with blocks of several frames the variance is that of single members, averaged."""
    s, n = sums.blocks, sums.n_frames
    z = n * ((s.wa - estimators.direct(total) * s.w[:, None, :]) / total.w).mean(axis=-1)
    if sums.length == 1:
        return z, z.var(axis=0)
    return z, member_variances(sums, total).mean(axis=-1)


def member_variances(sums: FrameSums, total: Sums) -> Array:
    """Variance of the residual series w_i (a - <a>_i)/<w_i>, (K, M)."""
    r, m, n = estimators.direct(total), sums.moments, sums.n_frames
    variance = n * (m.wwaa - 2.0 * r * m.wwa + r * r * m.ww) / total.w**2
    return np.asarray(np.maximum(variance, 0.0))


def blocks_for_jackknife(sums: FrameSums, followed: FrameSums, g: float) -> Sums:
    """Blocks of at least 5 g frames, or one block a run where there are enough runs."""
    if len(sums.run_starts) >= MIN_BLOCKS:
        # Runs are independent, whatever the correlation inside them.
        return sums.blocks.map(lambda row: np.add.reduceat(row, sums.run_starts, axis=0))
    return sums.blocks.merged(jackknife_blocks(sums.n_frames, max(g, _member_inefficiency(followed))))


def _member_inefficiency(sums: FrameSums) -> float:
    """Inefficiency, in frames, of a (1 - h_i) for the member that moves most, as far as blocks can tell."""
    s, total = sums.blocks, sums.blocks.total()
    h = total.h / total.b
    widest = int((total.hh / total.b - h**2).argmax())
    a, h_i, ah = total.a / total.b, h[widest], total.ah[:, widest] / total.b
    z = (1.0 + h_i) * s.a + a * s.h[:, widest, None] - s.ah[:, :, widest] - (a - ah + 2.0 * a * h_i) * s.b[:, None]
    whole = s.n == sums.length
    z = (z / s.n[:, None])[whole if whole.sum() > 1 else slice(None)]
    return sums.length * float(np.quantile(statistical_inefficiency(z).g, USUAL_G)) if len(z) > 1 else 1.0


def effective_weights(sums: FrameSums) -> float:
    """Kish's effective number of frames of the weights of a biased run."""
    total = float(sums.blocks.b.sum())
    return total**2 / float(sums.moments.second[0, 0, 0])


def effective_frames(sums: FrameSums, deviations: Array, g: Array, *, own_g: bool) -> Array:
    """Kish's number divided by the inefficiency of the residual series, the smallest over members.

    Parameters
    ----------
    deviations
        (B, K, M), of the jackknife of the estimates.
    g
        Inefficiency of the mean.
    own_g
        Whether columns are the entries of the result, so that every member has an inefficiency of its own.
    """
    total = sums.blocks.total()
    kish = total.w**2 / sums.moments.ww
    if not own_g:
        return np.asarray(kish.min() / g)
    variance = member_variances(sums, total) / sums.n_frames
    found = np.divide((deviations**2).sum(axis=0), variance, out=np.ones_like(variance), where=variance > 0)
    # A ratio that the noise of so many blocks explains is no correlation.
    correlated = found > 1.0 + 2.0 * np.sqrt(2.0 / len(deviations))
    return np.asarray((kish / np.where(correlated, found, 1.0)).min(axis=-1))
