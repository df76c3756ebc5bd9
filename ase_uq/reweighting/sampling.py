"""Sampling error of a reweighed average from the blocks of a run: influence series, jackknife blocks, effective frames.

=======================================  =======================================================================
symbol                                   variable
=======================================  =======================================================================
psi, z                                   `z`: what one frame adds to the reported mean, times T
g                                        `SamplingError.g`
T/(2 tau)                                `Pace.own`, `Pace.others`; tau is a relaxation time
sum w^2, sum w^2 a, sum w^2 a^2          `Moments.ww`, `wwa`, `wwaa`
=======================================  =======================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 20 to 24.
Kish, Survey Sampling (1965): the effective number of frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ase_uq.arrays import Array
from ase_uq.reweighting import estimators
from ase_uq.reweighting.frame_blocks import FrameSums, Sums
from ase_uq.reweighting.jackknife import MIN_BLOCKS, jackknife_blocks
from ase_uq.reweighting.statistics import SamplingError, sampling_errors_of_blocks
from ase_uq.reweighting.zero_frequency import ZeroFrequency, zero_frequency

USUAL_G = 0.9  # quantile over the entries of a vector; the largest of many is noise
_FEW_ENTRIES = 4  # of which each is judged by itself


@dataclass(frozen=True, slots=True)
class Pace:
    """How slowly a run moves.

    Attributes
    ----------
    own
        (n_columns,), length of the run over twice the relaxation time of the slowest motion in each column and in its
        product with the energy difference of the member that moves most; infinite where none is seen.
    others
        The same of what else is at hand: the energy of the run, energy differences of members, the thermostat.
    rare
        (n_columns,), skewness of each column; of many columns the median, since some are always seldom visited.
    n_blocks
        As many blocks as are independent of each other, for the jackknife.
    """

    own: Array
    others: float
    rare: Array
    n_blocks: int


def sampling_errors(
    sums: FrameSums, *, weighted: bool, relaxation_frames: float = 0.0, stratified: bool = False
) -> list[SamplingError]:
    """Of the mean over members, for every column; the options are those of `sampling_errors_of_blocks`."""
    s, total, n = sums.blocks, sums.blocks.total(), sums.n_frames
    z, variance = _weighted_influence(sums, total) if weighted else _influence(sums, total)
    whole = s.n == sums.length
    z = (z / s.n[:, None])[whole if whole.sum() > 1 else slice(None)]
    variance = variance * n / (n - 1)
    if weighted and sums.length > 1 and len(z) > 1:
        # That of single members is more than that of their mean; blocks of a white series know the latter.
        variance = np.minimum(variance, sums.length * z.var(axis=0, ddof=1))
    return sampling_errors_of_blocks(
        z,
        length=sums.length,
        n_frames=n,
        variance=variance,
        relaxation_frames=relaxation_frames,
        stratified=stratified,
    )


def _influence(sums: FrameSums, total: Sums) -> tuple[Array, Array]:
    """Block sums (B, n_columns) and variance (n_columns,) of what one frame adds to a (1 - h) about both means."""
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
    """Variance of the residual series w_i (a - <a>_i)/<w_i>, (n_columns, M)."""
    r, m, n = estimators.direct(total), sums.moments, sums.n_frames
    variance = n * (m.wwaa - 2.0 * r * m.wwa + r * r * m.ww) / total.w**2
    return np.asarray(np.maximum(variance, 0.0))


def pace(sums: FrameSums, sampling: Sequence[SamplingError], *, relaxation_frames: float = 0.0) -> Pace:
    """Slowest motions in the columns, of which the sampling errors are known, and in all that moves beside them."""
    product = _of_blocks(sums, _products(sums))
    lengths = np.stack([[each.lengths for each in sampling], product.lengths])
    n_blocks = np.stack([[each.n_blocks for each in sampling], product.n_blocks])
    few = len(sampling) <= _FEW_ENTRIES
    own = lengths.min(axis=0) if few else np.full(len(sampling), _slowest(lengths))
    rare = np.array([each.skewness for each in sampling])
    rare = rare if few else np.full(len(sampling), float(np.median(rare)))
    usual = int(n_blocks.min() if few else _slowest(n_blocks))
    beside = _of_blocks(sums, np.column_stack([sums.blocks.h, sums.energy]))
    others = [_slowest(beside.lengths[:-1]), float(beside.lengths[-1])]
    if relaxation_frames > 0:
        others.append(sums.n_frames / (2.0 * relaxation_frames))
        usual = min(usual, jackknife_blocks(sums.n_frames, 2.0 * relaxation_frames))
    return Pace(own, min(others), rare, usual)


def blocks_for_jackknife(sums: FrameSums, n_blocks: int) -> Sums:
    """So many blocks, or one block a run where there are enough runs."""
    if len(sums.run_starts) >= MIN_BLOCKS:
        # Runs are independent, whatever the correlation inside them.
        return sums.blocks.map(lambda row: np.add.reduceat(row, sums.run_starts, axis=0))
    return sums.blocks.merged(n_blocks)


def _slowest(values: Array) -> float:
    """The smallest of a few values; of many the one that a tenth of them reach, since chance makes some slow."""
    return float(np.quantile(values, 1.0 - USUAL_G, method="higher"))


def _of_blocks(sums: FrameSums, totals: Array) -> ZeroFrequency:
    """Spectra at zero of series of which the sums over blocks (B, n_columns) are known."""
    whole = sums.blocks.n == sums.length
    means = (totals / sums.blocks.n[:, None])[whole if whole.sum() > 1 else slice(None)]
    if len(means) < 2:
        k = totals.shape[1]
        return ZeroFrequency(np.zeros(k), np.full(k, np.inf), np.full(k, MIN_BLOCKS))
    return zero_frequency(means)


def _products(sums: FrameSums) -> Array:
    """Sums over blocks (B, n_columns) of (a - <a>)(h_i - <h_i>) for the member that moves most."""
    s, total = sums.blocks, sums.blocks.total()
    h = total.h / total.b
    widest = int((total.hh / total.b - h**2).argmax())
    a, h_i = total.a / total.b, h[widest]
    return np.asarray(s.ah[:, :, widest] - h_i * s.a - a * s.h[:, widest, None] + a * h_i * s.b[:, None])


def effective_weights(sums: FrameSums) -> float:
    """Kish's effective number of frames of the weights of a biased run."""
    total = float(sums.blocks.b.sum())
    return total**2 / float(sums.moments.second[0, 0, 0])


def effective_frames(sums: FrameSums, deviations: Array, g: Array, *, own_g: bool) -> Array:
    """Kish's number divided by the inefficiency of the residual series, the smallest over members.

    Parameters
    ----------
    deviations
        (B, n_columns, M), of the jackknife of the estimates.
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
