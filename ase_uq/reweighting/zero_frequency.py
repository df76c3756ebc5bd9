"""Variance of the mean of a correlated series, from its spectrum at low frequencies.

The variance of a mean is the spectrum at frequency zero, so that what oscillates faster than the run is long cannot
close a window too early: a sum over the autocorrelation would have to be cut, and the first trough of a vibration looks
like its end. The lowest ordinates of the periodogram are fitted by a level, and by a level with one slow motion, which
Whittle's likelihood weighs against each other; a resonance among them is first divided out by an autoregression.

===========================  ==================================================================================
symbol                       variable
===========================  ==================================================================================
n                            `len(x)`, values of a series, often averages over blocks of frames
I_j                          `periodogram[:, j - 1]`, ordinate at frequency j/n
f(j/n)                       `spectrum[:, j]`, sum over all lags of the autocovariance at j = 0
f_AR                         `resonance`, of an autoregression of order 0, 2, 6 or 24
c (1 + q/(1 + (j/j_c)^2))    level, strength and half width of the slow motion, `_Shapes`
j_half                       frequency at which f has fallen to half of f(0)
pi j_half = T/(2 tau)        `ZeroFrequency.lengths`; tau is the relaxation time of the slow motion
===========================  ==================================================================================

References
----------
Whittle, J. Roy. Stat. Soc. B 15, 125 (1953): likelihood of a spectrum.
Heidelberger and Welch, Commun. ACM 24, 233 (1981): variance of a mean from the spectrum at low frequencies.
Akaike, J. Econom. 16, 3 (1981): averages over models, each weighted by its likelihood.
Andrews and Monahan, Econometrica 60, 953 (1992): prewhitening by an autoregression.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft
from scipy.special import expit

from ase_uq.arrays import Array

Integers = NDArray[np.int64]

MOST_ORDINATES = 64
_FEW_ORDINATES = 24  # short series use half of all frequencies instead of a third
_ORDERS = (0, 2, 6, 24)  # a vibration by itself needs 2; under noise, it needs many
_NEEDED_GAIN = 1.5  # in log likelihood, for two more parameters
_GAIN_PER_OCTAVE = 0.35  # more, for motions seen in fewer ordinates than
_MANY_ORDINATES = 16.0
_KNOWN_TO = 0.3  # of its logarithm: how well a relaxation time known from elsewhere is that of the series
_GAIN_PER_ORDER = 0.5
_DOUBTFUL_GAIN = 1.0  # of a slow motion that is not counted, but may be there
_DIP_COST = 1.0  # a gain from anticorrelation takes more evidence than a loss
_FLAT = 0.1  # of the variance: how much blocks may miss or add
_BLOCK_NUMBERS = (100, 80, 64, 50, 40, 32, 25, 20, 16, 13, 10, 8)


@dataclass(frozen=True, slots=True)
class ZeroFrequency:
    """Spectra of several series at frequency zero.

    Attributes
    ----------
    value
        (n_series,), f(0): the variance of the mean times the number of values.
    lengths
        (n_series,), length of the series in units of twice the relaxation time of its slowest motion; infinite where
        none is seen. For an autoregression of order 1 this is T/g. Of a motion that is in doubt, a bound from above: no
        longer run is as likely.
    n_blocks
        (n_series,), the largest number of blocks, at most 100, that behave as if they were independent.
    """

    value: Array
    lengths: Array
    n_blocks: Integers


class _Shapes(NamedTuple):
    """Spectra of a level and one slow motion on a grid of G widths and strengths, for m ordinates."""

    half_width: Array  # (G,)
    strength: Array  # (G,)
    inverse: Array  # (m, G), 1/(m shape)
    penalty: Array  # (G,), what costs likelihood


def zero_frequency(x: Array, *, relaxation: float = 0.0) -> ZeroFrequency:
    """Spectra at frequency zero of the columns of `x` (n, n_series).

    Parameters
    ----------
    relaxation
        A relaxation time known from elsewhere, in values of the series: of the thermostat, for instance. What relaxes
        that slowly then needs no evidence of its own to be counted.
    """
    n = len(x)
    d = np.ascontiguousarray((x - x[0] - (x - x[0]).mean(axis=0)).T)
    scale = np.sqrt((d**2).mean(axis=1))
    moves = scale > 0
    d = d / np.where(moves, scale, 1.0)[:, None]
    m = _n_ordinates(n)
    amplitudes = rfft(d, axis=1)[:, 1:]
    ordinates = np.where(moves[:, None], (amplitudes.real**2 + amplitudes.imag**2) / n, 1.0)
    periodogram, beyond = ordinates[:, :m], ordinates[:, m:]
    known = n / (2.0 * np.pi * relaxation) if relaxation > 0 else 0.0
    spectrum, likelier, widest = _best_spectrum(d, periodogram, known)
    value = np.where(moves, spectrum[:, 0] * scale**2, 0.0)
    lengths = np.where(moves, np.pi * np.minimum(_half_width(spectrum), widest), np.inf)
    return ZeroFrequency(value, lengths, np.where(moves, _independent_blocks(likelier, beyond), _BLOCK_NUMBERS[0]))


def not_resolved_below(value: Array, variance: Array, n: int) -> Array:
    """Spectra at zero, raised to the variance of uncorrelated values where they are not clearly below it."""
    clearly = value * (1.0 + 2.5 / np.sqrt(_n_ordinates(n))) < variance
    return np.where(clearly, value, np.maximum(value, variance))


def _n_ordinates(n: int) -> int:
    half = (n - 1) // 2
    return max(1, min(MOST_ORDINATES, max((n - 1) // 3, min(half, _FEW_ORDINATES))))


def _best_spectrum(d: Array, periodogram: Array, known: float) -> tuple[Array, Array, Array]:
    """Spectra (n_series, m + 1) from frequency zero on, by the autoregression that makes the ordinates most likely.

    The first is the average over a level with and without slow motion, the second the likelier one. The third result is
    the largest half width (n_series,) of a slow motion, which an autoregression must not hide by taking it for its own.
    """
    n, m = d.shape[1], periodogram.shape[1]
    best, most = np.empty((2, len(d), m + 1)), np.full(len(d), -np.inf)
    plain = widest = np.full(len(d), np.inf)
    for order in _ORDERS:
        if order > n // 10:
            break
        resonance = _autoregression(d, order, m)
        shapes, likelihood, width = _slow_motion(periodogram / resonance[:, 1:], known)
        likelihood = likelihood - np.log(resonance[:, 1:]).sum(axis=1) - _GAIN_PER_ORDER * order
        better = likelihood > most
        best[:, better], most[better] = (resonance * shapes)[:, better], likelihood[better]
        plain = width if order == 0 else plain
        widest = np.where(better, width, widest)
    return best[0], best[1], np.minimum(plain, widest)


def _autoregression(d: Array, order: int, m: int) -> Array:
    """Spectra (n_series, m + 1) of autoregressions, by the Levinson recursion, of series (n_series, n) about zero."""
    k, n = d.shape
    if order == 0:
        return np.ones((k, m + 1))
    lags = np.stack([(d[:, : n - t] * d[:, t:]).sum(axis=1) / n for t in range(order + 1)], axis=1)
    lags[:, 0] = np.maximum(lags[:, 0], 1e-300)
    a, error = np.zeros((k, order + 1)), lags[:, 0].copy()
    a[:, 0] = 1.0
    for p in range(1, order + 1):
        reflection = -(a[:, :p] * lags[:, p:0:-1]).sum(axis=1) / error
        a[:, 1 : p + 1] += reflection[:, None] * a[:, :p][:, ::-1].copy()
        # A perfect prediction, as of an alternating series, would leave nothing to divide by.
        error *= np.maximum(1.0 - reflection**2, 1e-9)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(order + 1), np.arange(m + 1) / n))
    return np.asarray(error[:, None] / np.maximum(np.abs(a @ waves) ** 2, 1e-12))


def _slow_motion(periodogram: Array, known: float) -> tuple[Array, Array, Array]:
    """Level and slow motion of ordinates (n_series, m): spectra (2, n_series, m + 1), half widths (n_series,) as above.

    Between them the log likelihoods (n_series,) of the average.
    """
    m = periodogram.shape[1]
    shapes = _shapes(m)
    levels = np.maximum(periodogram @ shapes.inverse, 1e-300)
    likelihood = -m * np.log(levels) - shapes.penalty
    level = np.maximum(periodogram.mean(axis=1), 1e-300)
    flat = -m * np.log(level)
    apart = np.abs(np.log(shapes.half_width / known)) if known > 0 else np.full(len(shapes.half_width), np.inf)
    expected = (apart < _KNOWN_TO) & (shapes.strength > 0)
    best = (likelihood + np.where(expected, _NEEDED_GAIN, 0.0)).argmax(axis=1)
    rows, width = np.arange(len(periodogram)), shapes.half_width[best]
    # What is seen in a few ordinates only is more often an accident.
    needed = _NEEDED_GAIN + _GAIN_PER_OCTAVE * np.maximum(np.log2(_MANY_ORDINATES / width), 0.0)
    gain = likelihood[rows, best] - flat - np.where(expected[best], 0.0, needed)
    slow = 1.0 + shapes.strength[best][:, None] / (1.0 + (np.arange(m + 1) / width[:, None]) ** 2)
    # Both models, each as likely as it is: a choice would leave out what is just not seen.
    share = np.stack([expit(gain), gain > 0])[:, :, None]
    spectra = (1.0 - share) * level[:, None] + share * levels[rows, best][:, None] * slow
    return spectra, flat + np.logaddexp(0.0, gain) - m, _largest_width(likelihood, flat, shapes)


def _largest_width(likelihood: Array, flat: Array, shapes: _Shapes) -> Array:
    """Half width (n_series,) that no slow motion exceeds, by the likelihoods (n_series, G) and a level's (n_series,).

    All that is wider, and a level without slow motion, is then less likely; infinite where nothing says so.
    """
    slow = shapes.strength > 0
    widths = np.unique(shapes.half_width[slow])
    profile = likelihood[:, slow].reshape(len(likelihood), len(widths), -1).max(axis=2)
    narrower = np.maximum.accumulate(profile, axis=1)
    wider = np.maximum.accumulate(np.column_stack([flat, profile[:, :0:-1]]), axis=1)[:, ::-1]
    known = narrower - wider > _DOUBTFUL_GAIN
    edges = np.sqrt(widths * np.append(widths[1:], np.inf))
    return np.where(known.any(axis=1), edges[known.argmax(axis=1)], np.inf)


@lru_cache
def _shapes(m: int) -> _Shapes:
    widths = np.geomspace(1.0, max(0.75 * m, 1.5), 16)
    strengths = np.concatenate([[-0.95, -0.85, -0.65, -0.4], np.geomspace(0.5, 2000.0, 18)])
    width, strength = (grid.ravel() for grid in np.meshgrid(widths, strengths, indexing="ij"))
    shape = 1.0 + strength[:, None] / (1.0 + (np.arange(1, m + 1) / width[:, None]) ** 2)
    penalty = np.log(shape).sum(axis=1) + np.where(strength < 0, _DIP_COST, 0.0)
    return _Shapes(width, strength, 1.0 / shape.T / m, penalty)


def _half_width(spectrum: Array) -> Array:
    """Frequency j (n_series,) at which a spectrum first falls to half of its value at zero; infinite where never."""
    below = spectrum <= 0.5 * spectrum[:, :1]
    first = below.argmax(axis=1)
    rows = np.arange(len(spectrum))
    logs = np.log(2.0 * spectrum / spectrum[:, :1])
    above, beyond = logs[rows, np.maximum(first - 1, 0)], logs[rows, first]
    step = np.divide(above, above - beyond, out=np.zeros_like(above), where=above > beyond)
    return np.where(below.any(axis=1), first - 1 + step, np.inf)


def _independent_blocks(spectrum: Array, beyond: Array) -> Integers:
    """Largest number of blocks (n_series,) whose averages scatter as f(0) says: f through a filter sinc^2(j/B).

    What vibrates faster than the spectra (n_series, m + 1) reach, by the ordinates `beyond` them, leaks through its
    tail.
    """
    m = spectrum.shape[1] - 1
    numbers, fast = np.array(_BLOCK_NUMBERS), np.arange(m + 1, m + 1 + beyond.shape[1])
    filters = np.sinc(np.arange(1, m + 1) / numbers[:, None]) ** 2
    tail = 0.5 * (numbers / np.pi) ** 2  # over j^2: the mean of sin^2 is a half
    leaks = (beyond / fast**2).sum(axis=1)[:, None] * tail
    whole = filters.sum(axis=1) + tail * (1.0 / fast**2).sum()
    seen = (spectrum[:, 1:] @ filters.T + leaks) / whole / spectrum[:, :1]
    right = np.abs(seen - 1.0) < _FLAT
    # A number counts only if all smaller ones are right, too.
    first = np.where(right.all(axis=1), 0, len(numbers) - right[:, ::-1].argmin(axis=1))
    return np.asarray(numbers[np.minimum(first, len(numbers) - 1)])
