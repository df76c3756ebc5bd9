"""Averages under every member, as functions of sums over frames.

All take `Sums` with any leading axes, so that a jackknife can hand in many at once; the scale of the sums is free.
Values are relative to the origin the sums were taken about.

======  ======================================================================================================
cea     <a>_i = <a> - cov(a, h_i), the full covariance; exact for jointly Gaussian a and h_i
direct  <a>_i = <w_i a> / <w_i>
gap     F_i(s) = F(s) + <V_i - V>_s for the bins s of a histogram, p_i(s) = p(s) exp(-<h_i>_s) / sum_s of the same;
        exact where V_i - V is constant inside a bin, or Gaussian with the same width in all of them
======  ======================================================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 20 to 24: cea and direct.
Zwanzig, J. Chem. Phys. 22, 1420 (1954): the first term of the perturbation series, here within every bin.
"""

from __future__ import annotations

import numpy as np

from ase_uq.arrays import Array
from ase_uq.reweighting.frame_blocks import Sums


def plain(s: Sums) -> Array:
    """Averages over the run itself, (..., n_columns)."""
    return np.asarray(s.a / _total_weight(s)[..., None])


def cea(s: Sums) -> Array:
    """Cumulant expansion, (..., n_columns, M)."""
    a, h = _means(s)
    return np.asarray(a - (s.ah / _total_weight(s)[..., None, None] - a * h))


def direct(s: Sums) -> Array:
    """Exponential weights, (..., n_columns, M)."""
    w = s.w[..., None, :]
    return np.divide(s.wa, w, out=np.zeros_like(s.wa), where=w > 0)


def second_order(s: Sums) -> Array:
    """Half the third cumulant of (a, h_i, h_i), (..., n_columns, M): the first term that the expansion leaves out."""
    a, h = _means(s)
    b = _total_weight(s)[..., None, None]
    ah, ahh, hh = s.ah / b, s.ahh / b, s.hh[..., None, :] / b
    return np.asarray(0.5 * (ahh - 2.0 * ah * h - a * hh + 2.0 * a * h * h))


def gap(s: Sums, *, second: bool = False) -> Array:
    """Probabilities of the bins of a histogram, (..., n_columns, M), from columns that are 1 for the frames of a bin.

    With `second` the next term, -var_s(h_i)/2 in units of kT, is added to the free energies.
    """
    counts = s.a[..., None]
    # What is left of an empty bin after a block was subtracted may be rounding.
    filled = counts > 1e-12 * s.b[..., None, None]
    mean_h = np.divide(s.ah, counts, out=np.zeros_like(s.ah), where=filled)
    log_p = np.where(filled, np.log(np.where(filled, counts, 1.0)) - mean_h, -np.inf)
    if second:
        mean_hh = np.divide(s.ahh, counts, out=np.zeros_like(s.ahh), where=filled)
        log_p = log_p + 0.5 * (mean_hh - mean_h**2)
    p = np.exp(log_p - log_p.max(axis=-2, keepdims=True))
    return np.asarray(p / p.sum(axis=-2, keepdims=True))


def gap_mean(s: Sums, *, second: bool = False) -> Array:
    """Average of a scalar by `gap` over bins of its own, (..., 1, M).

    The first half of the columns counts the frames of each bin, the second sums the scalar over them.
    """
    k = s.a.shape[-1] // 2
    counts = s.columns(slice(0, k))
    within = np.divide(s.a[..., k:], counts.a, out=np.zeros_like(counts.a), where=counts.a > 0)
    return np.asarray((gap(counts, second=second) * within[..., None]).sum(axis=-2, keepdims=True))


def _means(s: Sums) -> tuple[Array, Array]:
    return plain(s)[..., None], (s.h / _total_weight(s)[..., None])[..., None, :]


def _total_weight(s: Sums) -> Array:
    # Without the block that carries all the weight of a biased run there may be none left, or less than rounding.
    return np.maximum(s.b, 1e-300)
