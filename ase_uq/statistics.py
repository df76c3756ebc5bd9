"""Error bars of averages over a correlated time series.

==========================  ==============================================================
symbol                      variable
==========================  ==============================================================
T                           `n_frames`, the number of values in the series
C(t)                        `autocorrelation(x)[t]`, normalised to C(0) = 1
g = 1 + 2 sum_t C(t)        `Inefficiency.g`; T/g is the number of independent frames
W                           `Inefficiency.window`, the lag at which the sum stops
SE_k, n_k                   standard error and number of blocks after k halvings
B = 2^k                     `Blocking.block_length`
==========================  ==============================================================

References
----------
Sokal, in Functional Integration (NATO ASI, 1997), section 3: the self-consistent window; c = 5 in units of g.
Wolff, Comput. Phys. Commun. 156, 143 (2004), arXiv:hep-lat/0306017: the bias from the estimated mean.
Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989): blocking.
Lee, Conduit, Nemec, Lopez Rios and Drummond, Phys. Rev. E 83, 066706 (2011), arXiv:1006.1798: the automatic level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import irfft, next_fast_len, rfft

from ase_uq.errors import InputError

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

WINDOW_FACTOR = 5.0
RELIABLE_LENGTH = 50.0  # in units of g: below this g itself is not known
PLATEAU_BLOCKS = 4  # a plateau seen in fewer blocks than this is an accident
RELIABLE_BLOCKS = 16  # SE_k is known to 18 % or better
_CORRELATED_BLOCKS = 1.5


@dataclass(frozen=True, slots=True)
class Inefficiency:
    """Statistical inefficiency of a series, or of each of K series.

    Attributes
    ----------
    g
        1 + 2 sum of the normalised autocorrelation, never below 1; float, or (K,).
    window
        Lag at which the sum stops; int, or (K,).
    reliable
        Whether the series is at least 50 g long; bool, or (K,).
    """

    g: float | Array
    window: int | Integers
    reliable: bool | NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Blocking:
    """Standard error of a mean from blocking.

    Attributes
    ----------
    std
        Standard error of the mean; a lower bound where `plateau` is false.
    std_error
        Standard error of `std`.
    plateau
        Whether the automatic choice found a level at which blocks are independent.
    block_length, n_blocks
        Of the level chosen.
    std_by_level
        (L,), the whole curve, for plots; entry k belongs to blocks of 2^k values.
    """

    std: float
    std_error: float
    plateau: bool
    block_length: int
    n_blocks: int
    std_by_level: Array


@dataclass(frozen=True, slots=True)
class SamplingError:
    """Standard error of a mean: the larger of autocorrelation and blocking.

    Attributes
    ----------
    std
        Standard error of the mean.
    g
        Inefficiency that belongs to it: std^2 = g var / T.
    reliable
        Whether T is at least 50 g.
    blocking
        The blocking analysis.
    """

    std: float
    g: float
    reliable: bool
    blocking: Blocking


def autocorrelation(x: ArrayLike) -> Array:
    """Autocorrelation of a series at every lag, normalised to 1 at lag 0; a constant series gives 1, 0, 0, ...

    Parameters
    ----------
    x
        (T,).

    Returns
    -------
    (T,). Products are summed over the T - t pairs and divided by T, as the variance of a mean needs them.

    Raises
    ------
    InputError
        If `x` has fewer than 2 values or one that is not finite.
    """
    return _autocorrelation(as_series(x))


def statistical_inefficiency(x: ArrayLike) -> Inefficiency:
    """Number of frames per independent frame, g = 1 + 2 sum_t C(t), with Sokal's window.

    The sum stops at the smallest lag W >= 5 g(W). g never falls below 1: a gain from anticorrelation is not claimed.

    Parameters
    ----------
    x
        (T,), or (T, K) for K series, each treated by itself.

    Raises
    ------
    InputError
        If `x` has fewer than 2 frames or a value that is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(size=10_000)
    >>> result = statistical_inefficiency(noise)
    >>> bool(result.g < 1.1), result.reliable
    (True, True)

    References
    ----------
    Sokal (1997); arXiv:hep-lat/0306017.
    """
    values = as_series(x, columns=True)
    if values.ndim == 1:
        g, window = _inefficiency(values)
        return Inefficiency(g=g, window=window, reliable=len(values) >= RELIABLE_LENGTH * g)
    gs, windows = (np.array(column) for column in zip(*map(_inefficiency, values.T), strict=True))
    return Inefficiency(g=gs, window=windows, reliable=len(values) >= RELIABLE_LENGTH * gs)


def standard_error(x: ArrayLike) -> float | Array:
    """Standard error of the mean from the autocorrelation, sqrt(g var / T).

    Parameters
    ----------
    x
        (T,), giving a float, or (T, K), giving (K,).
    """
    values = as_series(x, columns=True)
    g = statistical_inefficiency(values).g
    error = np.sqrt(g * values.var(axis=0, ddof=1) / len(values))
    return float(error) if values.ndim == 1 else np.asarray(error)


def blocking(x: ArrayLike) -> Blocking:
    """Standard error of the mean by averaging neighbours again and again, with an automatic level.

    The level is the smallest block length B with B^3 >= 2 T (SE_B/SE_0)^4 and at least 4 blocks. Without one there is
    no plateau: the run is too short, and the last level with 16 blocks is given as a lower bound.

    Parameters
    ----------
    x
        (T,).

    Raises
    ------
    InputError
        If `x` has fewer than 2 values or one that is not finite.

    References
    ----------
    Flyvbjerg and Petersen (1989); arXiv:1006.1798.
    """
    values = as_series(x)
    values = values - values[0]  # makes a constant series exactly zero
    counts, variances = _halvings(values)
    return _choose_level(counts, variances, 2 ** np.arange(len(counts)))


def sampling_error(x: ArrayLike) -> SamplingError:
    """Standard error of the mean of a series, the larger of autocorrelation and blocking.

    Parameters
    ----------
    x
        (T,).

    Raises
    ------
    InputError
        As `blocking`.
    """
    values = as_series(x)
    blocked = blocking(values)
    variance = float(values.var(ddof=1)) / len(values)
    g = _inefficiency(values)[0]
    if variance > 0:
        g = max(g, blocked.std**2 / variance)
    return SamplingError(
        std=float(np.sqrt(g * variance)), g=g, reliable=len(values) >= RELIABLE_LENGTH * g, blocking=blocked
    )


def sampling_error_of_blocks(means: ArrayLike, *, length: int, n_frames: int, variance: float) -> SamplingError:
    """`sampling_error` of a series of which only averages over blocks of equal length are left.

    Parameters
    ----------
    means
        (B,), averages over blocks.
    length
        Values in each.
    n_frames
        T, of the whole series; blocks may lack a few at the end.
    variance
        Of the values themselves, divisor T - 1.
    """
    values = as_series(means)
    values = values - values[0]
    counts, variances = _halvings(values)
    lengths = length * 2 ** np.arange(len(counts))
    if length > 1:
        counts, variances = np.append(n_frames, counts), np.append(variance, variances)
        lengths = np.append(1, lengths)
    blocked = _choose_level(counts, variances, lengths)
    g = blocked.std**2 * n_frames / variance if variance > 0 else 1.0
    between, _ = _inefficiency(values)
    # Among blocks longer than the correlation an inefficiency slightly above 1 is noise.
    if length == 1 or between > _CORRELATED_BLOCKS:
        g = max(g, between * variances[0 if length == 1 else 1] * length / max(variance, 1e-300))
    g = max(1.0, g)
    return SamplingError(
        std=float(np.sqrt(g * variance / n_frames)), g=g, reliable=n_frames >= RELIABLE_LENGTH * g, blocking=blocked
    )


def as_series(x: ArrayLike, *, columns: bool = False) -> Array:
    """Finite float64 values of shape (T,), or with `columns` also (T, K), T at least 2."""
    values = np.asarray(x, dtype=np.float64)
    if values.ndim not in ((1, 2) if columns else (1,)) or len(values) < 2:
        wanted = "(T,) or (T, K)" if columns else "(T,)"
        raise InputError(f"`x` must have shape {wanted} with T at least 2, got {values.shape}; pass more frames.")
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        raise InputError(f"`x` must be finite, got {values[bad[0]]} in frame {bad[0]}; drop that frame.")
    return values


def _autocorrelation(x: Array) -> Array:
    if np.ptp(x) == 0.0:
        return np.asarray(np.eye(1, len(x))[0])
    # Twice the length keeps the end of the series from meeting its beginning.
    size = next_fast_len(2 * len(x), real=True)
    spectrum = rfft(x - x.mean(), size)
    covariance = irfft(spectrum.real**2 + spectrum.imag**2, size)[: len(x)]
    return np.asarray(covariance / covariance[0])


def _inefficiency(x: Array) -> tuple[float, int]:
    if np.ptp(x) == 0.0:
        return 1.0, 0
    g = 2.0 * np.cumsum(_autocorrelation(x)) - 1.0
    # All lags together sum to zero once the mean is subtracted, so that a window is always found.
    window = int(np.argmax(np.arange(len(x)) >= WINDOW_FACTOR * g))
    # The estimated mean takes its own variance out of every lag; (2W + 1)/T puts it back to first order.
    return max(1.0, float(g[window]) * (1.0 + (2 * window + 1) / len(x))), window


def _halvings(values: Array) -> tuple[Integers, Array]:
    """Number of blocks and their variance after every averaging of neighbours."""
    counts: list[int] = []
    variances: list[float] = []
    while len(values) >= 2:
        counts.append(len(values))
        variances.append(float(values.var(ddof=1)))
        even = len(values) // 2 * 2
        values = 0.5 * (values[0:even:2] + values[1:even:2])
    return np.array(counts), np.array(variances)


def _choose_level(counts: Integers, variances: Array, lengths: Integers) -> Blocking:
    errors = np.sqrt(variances / counts)
    ratio = errors / errors[0] if errors[0] > 0 else np.ones_like(errors)
    independent = (lengths.astype(np.float64) ** 3 >= 2.0 * counts[0] * ratio**4) & (counts >= PLATEAU_BLOCKS)
    plateau = bool(independent.any() or errors[0] == 0.0)
    level = int(np.argmax(independent)) if independent.any() else max(int((counts >= RELIABLE_BLOCKS).sum()) - 1, 0)
    return Blocking(
        std=float(errors[level]),
        std_error=float(errors[level] / np.sqrt(2.0 * (counts[level] - 1))),
        plateau=plateau,
        block_length=int(lengths[level]),
        n_blocks=int(counts[level]),
        std_by_level=errors,
    )
