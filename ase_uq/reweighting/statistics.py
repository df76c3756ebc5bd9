"""Error bars of averages over a correlated time series.

==========================  ==============================================================
symbol                      variable
==========================  ==============================================================
T                           `n_frames`, the number of values in the series
C(t)                        the autocorrelation at lag t, normalised to C(0) = 1
g = 1 + 2 sum_t C(t)        `Inefficiency.g`; T/g is the number of independent frames
T/(2 tau)                   `lengths`, tau being the relaxation time of the slowest motion
SE_k, n_k                   standard error and number of blocks after k halvings
B = 2^k                     `Blocking.block_length`
==========================  ==============================================================

g is the spectrum at frequency zero over the variance (`zero_frequency`): of what vibrates, no window in time closes in
the right place.

References
----------
Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989): blocking.
Lee, Conduit, Nemec, Lopez Rios and Drummond, Phys. Rev. E 83, 066706 (2011), arXiv:1006.1798: the automatic level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.reweighting.zero_frequency import not_resolved_below, zero_frequency

Integers = NDArray[np.int64]

RELIABLE_LENGTH = 50.0  # in units of g: below this g itself is not known
PLATEAU_BLOCKS = 4  # a plateau seen in fewer blocks than this is an accident
MOST_SKEWED = 3.5  # beyond that of the square of a Gaussian, a few events carry the variance
_SKEWNESS_OF_MEAN = 0.2  # below this it moves no error bar
RELIABLE_BLOCKS = 16  # SE_k is known to 18 % or better
_MOST_BLOCKS = 1024  # shorter ones would only resolve what the mean does not see


@dataclass(frozen=True, slots=True)
class Inefficiency:
    """Statistical inefficiency of a series, or of each of several.

    Attributes
    ----------
    g
        1 + 2 sum of the normalised autocorrelation; below 1 only where that is clear, as of a vibration. Float, or
        (n_series,).
    lengths
        Length of the series over twice the relaxation time of its slowest motion, infinite where none is seen; float,
        or (n_series,).
    n_blocks
        The largest number of blocks, at most 100, that are as good as independent; int, or (n_series,).
    reliable
        Whether the series is at least 50 g, and 50 such lengths, long, and not carried by a few events; bool, or
        (n_series,).
    """

    g: float | Array
    lengths: float | Array
    n_blocks: int | Integers
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
    """Standard error of a mean.

    Attributes
    ----------
    std
        Standard error of the mean.
    g
        Inefficiency that belongs to it: std^2 = g var / T.
    n_frames
        Number of frames, T.
    lengths
        Length of the run over twice the relaxation time of the slowest motion in the series.
    n_blocks
        The largest number of blocks, at most 100, that are as good as independent.
    skewness
        Size of the skewness of averages over short blocks; 0 where the mean of so many has none left.
    blocking
        The blocking analysis.
    """

    std: float
    g: float
    n_frames: int
    lengths: float
    n_blocks: int
    skewness: float
    blocking: Blocking

    @property
    def resolved(self) -> float:
        """Correlation lengths in the run: T/g, or `lengths` where they are fewer."""
        return min(self.n_frames / self.g, self.lengths)

    @property
    def reliable(self) -> bool:
        """Whether the run is 50 correlation lengths long, by g and by its slowest motion, and not a few events."""
        return self.resolved >= RELIABLE_LENGTH and self.skewness <= MOST_SKEWED

    def as_rare_as(self, sigmas: float) -> float:
        """Standard errors that are exceeded as rarely as so many of a normal number.

        A run of few correlation lengths knows its own error badly: Student's t, with a degree of freedom for every
        ordinate of the periodogram that sees the slowest motion.
        """
        return float(t.isf(norm.sf(sigmas), max(self.resolved / np.pi, 1.0)))


def statistical_inefficiency(x: ArrayLike) -> Inefficiency:
    """Number of frames per independent frame, g = 1 + 2 sum_t C(t), from the spectrum at frequency zero.

    Parameters
    ----------
    x
        (T,), or (T, n_series) for several series, each treated by itself.

    Raises
    ------
    InputError
        If `x` has fewer than 2 frames or a value that is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(size=10_000)
    >>> result = statistical_inefficiency(noise)
    >>> bool(0.5 < result.g < 2.0), result.reliable  # known to some 13 %, half of that in a standard error
    (True, True)

    References
    ----------
    Heidelberger and Welch (1981), as in `ase_uq.reweighting.zero_frequency`.
    """
    values = as_series(x, columns=True)
    columns = values[:, None] if values.ndim == 1 else values
    g, lengths, n_blocks, skewness = _inefficiencies(columns)
    reliable = (np.minimum(len(columns) / g, lengths) >= RELIABLE_LENGTH) & (skewness <= MOST_SKEWED)
    if values.ndim == 1:
        return Inefficiency(float(g[0]), float(lengths[0]), int(n_blocks[0]), bool(reliable[0]))
    return Inefficiency(g, lengths, n_blocks, reliable)


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


def sampling_error(x: ArrayLike, *, relaxation_frames: float = 0.0) -> SamplingError:
    """Standard error of the mean of a series, with its blocking analysis.

    Parameters
    ----------
    x
        (T,).
    relaxation_frames
        A relaxation time known from elsewhere, as of the thermostat, in values of the series: no motion then counts as
        faster than that.

    Raises
    ------
    InputError
        As `blocking`.
    """
    values = as_series(x)
    g, lengths, n_blocks, skewness = (entry[0] for entry in _inefficiencies(values[:, None], relaxation_frames))
    if relaxation_frames > 0:
        lengths = min(lengths, len(values) / (2.0 * relaxation_frames))
    variance = float(values.var(ddof=1))
    return SamplingError(
        std=float(np.sqrt(g * variance / len(values))),
        g=float(g),
        n_frames=len(values),
        lengths=float(lengths),
        n_blocks=int(n_blocks),
        skewness=float(skewness),
        blocking=blocking(values),
    )


def sampling_errors_of_blocks(
    means: ArrayLike,
    *,
    length: int,
    n_frames: int,
    variance: ArrayLike,
    relaxation_frames: float = 0.0,
    stratified: bool = False,
) -> list[SamplingError]:
    """`sampling_error` of several series of which only averages over blocks of equal length are left.

    Parameters
    ----------
    means
        (B, n_series), averages over blocks.
    length
        Values in each.
    n_frames
        T, of the whole series; blocks may lack a few at the end.
    variance
        (n_series,), of the values themselves, divisor T - 1.
    relaxation_frames
        A relaxation time known from elsewhere, as of the thermostat, in values of the series.
    stratified
        Whether every stretch of the series holds values of several states in fixed proportions, so that the mean
        scatters less than independent values of that variance.
    """
    values = as_series(means, columns=True)
    var = np.broadcast_to(np.asarray(variance, dtype=np.float64), values.shape[1:])
    found = zero_frequency(values, relaxation=relaxation_frames / length)
    spectrum = length * found.value
    if not stratified:
        spectrum = not_resolved_below(spectrum, var, len(values))
    # Whatever cancels inside of the run, its two ends do not.
    spectrum = np.maximum(spectrum, var / n_frames)
    g = np.divide(spectrum, var, out=np.ones_like(spectrum), where=var > 0)
    skewness = _skewness(values, n_frames / g)
    return [
        SamplingError(
            std=float(np.sqrt(spectrum[k] / n_frames)),
            g=float(g[k]),
            n_frames=n_frames,
            lengths=float(found.lengths[k]),
            n_blocks=int(found.n_blocks[k]),
            skewness=float(skewness[k]),
            blocking=_blocking_of_blocks(values[:, k], length, n_frames, float(var[k])),
        )
        for k in range(values.shape[1])
    ]


def as_series(x: ArrayLike, *, columns: bool = False) -> Array:
    """Finite float64 values of shape (T,), or with `columns` also (T, n_series), T at least 2."""
    values = np.asarray(x, dtype=np.float64)
    if values.ndim not in ((1, 2) if columns else (1,)) or len(values) < 2:
        wanted = "(T,) or (T, n_series)" if columns else "(T,)"
        raise InputError(f"`x` must have shape {wanted} with T at least 2, got {values.shape}; pass more frames.")
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        raise InputError(f"`x` must be finite, got {values[bad[0]]} in frame {bad[0]}; drop that frame.")
    return values


def _inefficiencies(columns: Array, relaxation_frames: float = 0.0) -> tuple[Array, Array, Integers, Array]:
    """Inefficiency, lengths, number of independent blocks and skewness, (n_series,) each, of series (T, n_series)."""
    length = -(-len(columns) // _MOST_BLOCKS)
    n = len(columns) // length
    means = columns[: n * length].reshape(n, length, -1).mean(axis=1)
    found = zero_frequency(means, relaxation=relaxation_frames / length)
    variance = columns.var(axis=0, ddof=1)
    moves = np.ptp(columns, axis=0) > 0
    spectrum = np.maximum(not_resolved_below(length * found.value, variance, n), variance / len(columns))
    g = np.divide(spectrum, variance, out=np.ones_like(variance), where=moves)
    return g, np.where(moves, found.lengths, np.inf), found.n_blocks, _skewness(means, len(columns) / g)


def _skewness(means: Array, independent: Array) -> Array:
    """Size of the skewness (n_series,) of averages (B, n_series), 0 where a mean of so many independent ones has none.

    What waits for rare events has seen few of them, and misses the variance of those it has not seen.
    """
    d = means - means.mean(axis=0)
    scale = np.abs(d).max(axis=0)
    moves = scale > 1e-12 * np.abs(means).max(axis=0)  # what moves less is the rounding of a constant
    d = d / np.where(moves, scale, 1.0)
    variance = (d**2).mean(axis=0)
    found = np.divide(np.abs((d**3).mean(axis=0)), variance**1.5, out=np.zeros_like(variance), where=moves)
    return np.where(found > _SKEWNESS_OF_MEAN * np.sqrt(independent), found, 0.0)


def _blocking_of_blocks(means: Array, length: int, n_frames: int, variance: float) -> Blocking:
    counts, variances = _halvings(means - means[0])
    lengths = length * 2 ** np.arange(len(counts))
    if length > 1:
        counts, variances = np.append(n_frames, counts), np.append(variance, variances)
        lengths = np.append(1, lengths)
    return _choose_level(counts, variances, lengths)


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
