"""What reweighting gives: an average with its two error bars, and arithmetic between averages of different runs.

=====================================  =======================================================================
symbol                                 variable
=====================================  =======================================================================
r_i                                    `member_means[i]`
sigma_stat                             `std_sampling`
sigma_V, sigma_a                       `std_potential`, `std_observable`
nu, t                                  `degrees` of freedom and Student's quantile in `interval`
=====================================  =======================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 26 to 28.
Welch, Biometrika 34, 28 (1947); Satterthwaite, Biometrics Bull. 2, 110 (1946): degrees of freedom of sums of variances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.reweighting.axis import Axis
from ase_uq.reweighting.gate import Gate
from ase_uq.reweighting.spread import UNCALIBRATED, SpreadLaw

Value = Any  # float for a scalar observable, float64 array of its shape for any other


@dataclass(frozen=True, slots=True, kw_only=True)
class ReweightResult:
    """Average of an observable over the members of a model, with its errors.

    For a scalar observable the numbers are floats, for vectors and matrices arrays of the observable's shape.

    Attributes
    ----------
    mean
        Mean over members of `member_means`; with "cea", and a run driven by the members' mean, the plain average.
    std_sampling
        Standard error of `mean` from the finite run.
    std_model
        Spread between members (divisor M - 1) without the part that is sampling noise: sqrt(max(0, naive^2 - noise)).
    std_total
        sqrt(std_sampling^2 + std_model^2).
    ess
        "cea" and "gap": number of independent frames, T/g. "direct": the smallest over members of Kish's number divided
        by the inefficiency of that member's residual series w_i (a - <a>_i), which is close to 1 where weights, not
        time correlation, limit the average. In a biased run never more than its weights leave.
    warnings
        Sentences that say when not to believe the numbers.
    gates
        All checks behind them, passed and failed.
    member_means
        (M,) and then the shape of the observable; (M, M', ...) for an observable with members of its own that are
        independent of the potential's.
    n_frames
        Number of frames, T.
    method
        "cea", "direct" or "gap".
    std_model_naive
        Spread between members as it is.
    noise
        Sampling noise inside the squared spread, tr(P C)/(M - 1).
    std_potential, std_observable
        The two parts of `std_model`: what the potentials do to the sampling (sigma_V), and what the members of the
        observable differ by on the same frames (sigma_a); the latter is zero for an observable without members.
    statistical_inefficiency
        g of the influence series of the mean.
    max_std_h
        Largest standard deviation of h_i along the run, kT.
    n_members, n_blocks, law
        M, number of blocks of the jackknife, and how the spread of members is to be read, for intervals.
    unit, axis
        Of the average, as far as known: results from a log, and of an observer, know what their observables say.
    source, transform
        Where the result is a function of another one entry by entry (`mapped`): that one, and the function.
    """

    mean: Value
    std_sampling: Value
    std_model: Value
    std_total: Value
    ess: Value
    warnings: tuple[str, ...]
    gates: tuple[Gate, ...]
    member_means: Array
    n_frames: int
    method: str
    std_model_naive: Value
    noise: Value
    std_potential: Value
    std_observable: Value
    statistical_inefficiency: Value
    max_std_h: float
    n_members: int
    n_blocks: int
    law: SpreadLaw = UNCALIBRATED
    unit: str = ""
    axis: Axis | None = None
    source: ReweightResult | None = None
    transform: Callable[[Any], Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result in plain numbers, lists and texts, as JSON takes them; a vector with unit and axis.

        Examples
        --------
        >>> import numpy as np
        >>> from ase_uq.reweighting import reweight
        >>> x = np.random.default_rng(0).normal(size=100)
        >>> members = 0.01 * x[:, None] * np.array([-1.0, 1.0])
        >>> result = reweight(x, energy_members=members, energy_reference=np.zeros(100), temperature_K=300.0)
        >>> list(result.to_dict())
        ['method', 'mean', 'std_sampling', 'std_model', 'std_total', 'ess', 'n_frames', 'warnings']
        """
        content: dict[str, Any] = {"method": self.method}
        content |= {name: np.asarray(getattr(self, name)).tolist() for name in _TOLD}
        content |= {"n_frames": self.n_frames, "warnings": list(self.warnings)}
        if np.ndim(self.mean):
            content["unit"] = self.unit
        if self.axis is not None:
            axis = self.axis
            content["axis"] = {"name": axis.name, "unit": axis.unit, "centres": axis.centres.tolist()}
        return content

    @property
    def alpha(self) -> float:
        """Calibration factor inside the members."""
        return self.law.alpha

    def interval(self, level: float = 0.68) -> tuple[Value, Value]:
        """Interval that holds the average under the true potential, seen as one more draw from the members' family.

        Half its width is t sqrt(sigma_stat^2 + (1 + m/alpha^2) sigma_model^2), Student's t at the degrees of freedom of
        Welch and Satterthwaite: M - 1 for the model part, one less than the blocks for the sampling part. m is 1/M, the
        error of the mean of M members; 0, and the model part normal, where members are made so (`SpreadLaw`).

        Parameters
        ----------
        level
            Probability inside, between 0 and 1.

        Returns
        -------
        low, high
            As `mean`.

        Raises
        ------
        InputError
            If `level` is not between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise InputError(f"`level` must be between 0 and 1, got {level}; write 0.95 for 95 %.")
        if self.source is not None and self.transform is not None:
            ends = [_applied(self.transform, end) for end in self.source.interval(level)]
            return _scalar(np.minimum(*ends)), _scalar(np.maximum(*ends))
        sampling = np.square(self.std_sampling)
        inflation, dof = self.law.of_members(self.n_members)
        model = inflation * np.square(self.std_model)
        total = sampling + model
        spread = sampling**2 / max(self.n_blocks - 1, 1) + model**2 / dof
        degrees = np.divide(total**2, spread, out=np.full_like(total, np.inf), where=spread > 0)
        half = stats.t.ppf(0.5 + 0.5 * level, degrees) * np.sqrt(total)
        return _scalar(self.mean - half), _scalar(self.mean + half)

    def mapped(self, function: Callable[[Any], Any]) -> ReweightResult:
        """Apply a monotone function to every entry, member by member: a logarithm, a root, an exponential.

        Standard deviations become half the distance between the function at mean plus and minus one of them; intervals
        are formed before the function and mapped, so that they are asymmetric where it is not linear.

        Parameters
        ----------
        function
            Takes and gives an array, entry by entry.

        Raises
        ------
        InputError
            If the function is not finite at the average.

        Examples
        --------
        >>> import numpy as np
        >>> from ase_uq.reweighting import reweight
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(5.0, 1.0, size=2000)
        >>> members = 0.01 * x[:, None] * np.array([-1.0, -0.5, 0.5, 1.0])
        >>> result = reweight(x, energy_members=members, energy_reference=np.zeros(2000), temperature_K=300.0)
        >>> low, high = result.mapped(np.exp).interval(0.95)
        >>> bool(high - result.mapped(np.exp).mean > result.mapped(np.exp).mean - low)
        True
        """
        if self.source is not None:
            raise InputError("`mapped` must be called once, got a mapped result; give it one function of both steps.")
        mean = _applied(function, self.mean)
        if not np.isfinite(mean).all():
            raise InputError(
                f"`function` must be finite at the average, got {mean} at {self.mean}; use method 'gap' for "
                "probabilities."
            )

        def width(std: Value) -> Value:
            return _scalar(0.5 * np.abs(_applied(function, self.mean + std) - _applied(function, self.mean - std)))

        members = _applied(function, self.member_means)
        widths = {name: width(getattr(self, name)) for name in _WIDTHS}
        return replace(
            self,
            **widths,
            mean=_scalar(mean),
            noise=_scalar(np.square(width(np.sqrt(self.noise)))),
            member_means=np.asarray(members),
            unit="",
            source=self,
            transform=function,
        )


_TOLD = ("mean", "std_sampling", "std_model", "std_total", "ess")
_WIDTHS = ("std_sampling", "std_model", "std_total", "std_model_naive", "std_potential", "std_observable")


def difference(first: ReweightResult, second: ReweightResult) -> ReweightResult:
    """`second` minus `first`, taken member by member before the spread.

    What the members agree on in the difference, they agree on however far apart they are in each of the two runs.

    Raises
    ------
    InputError
        As `combine`.
    """
    return replace(combine(lambda a, b: b - a, first, second), unit=second.unit)


def combine(function: Callable[..., Any], *results: ReweightResult) -> ReweightResult:
    """A function of averages from several runs of one model, taken member by member before the spread.

    Sampling errors and sampling noise are those of independent runs, carried to first order.

    Parameters
    ----------
    function
        Takes as many arrays as there are results, entry by entry.
    *results
        Of the same members in the same order, and of the same shape.

    Raises
    ------
    InputError
        If the numbers of members or the shapes differ, or members are no pairs of potential and observable.

    References
    ----------
    arXiv:2011.08828, Eq. 27: the members' spread of the final quantity, not the sum of separate bars.
    """
    shapes = {result.member_means.shape for result in results}
    if len(results) < 2 or len(shapes) > 1:
        found = ", ".join(map(str, sorted(shapes)))
        raise InputError(f"`results` must be two or more of the same members and shape, got {found}; use one model.")
    members = np.asarray(function(*(result.member_means for result in results)), dtype=np.float64)
    means = [np.asarray(result.mean, dtype=np.float64) for result in results]
    slopes = [_slope(function, means, k) for k in range(len(results))]
    naive = members.std(axis=0, ddof=1)
    noise = sum(slope**2 * result.noise for slope, result in zip(slopes, results, strict=True))
    sampling = np.sqrt(sum((slope * result.std_sampling) ** 2 for slope, result in zip(slopes, results, strict=True)))
    model = np.sqrt(np.maximum(naive**2 - noise, 0.0))
    worst = min(results, key=lambda result: np.min(result.ess))
    return replace(
        worst,
        mean=_scalar(members.mean(axis=0)),
        std_sampling=_scalar(sampling),
        std_model=_scalar(model),
        std_total=_scalar(np.hypot(sampling, model)),
        std_model_naive=_scalar(naive),
        noise=_scalar(noise),
        std_potential=_scalar(model),
        std_observable=_scalar(np.zeros_like(model)),
        member_means=members,
        warnings=tuple(dict.fromkeys(warning for result in results for warning in result.warnings)),
        gates=tuple(gate for result in results for gate in result.gates),
        n_frames=sum(result.n_frames for result in results),
        n_blocks=min(result.n_blocks for result in results),
        max_std_h=max(result.max_std_h for result in results),
        unit="",
        source=None,
        transform=None,
    )


def _slope(function: Callable[..., Any], means: list[Array], k: int) -> Array:
    step = 1e-6 * np.maximum(np.abs(means[k]), 1e-3)
    ends = [[mean + (sign * step if j == k else 0.0) for j, mean in enumerate(means)] for sign in (1.0, -1.0)]
    return np.asarray((function(*ends[0]) - function(*ends[1])) / (2.0 * step))


def _applied(function: Callable[[Any], Any], value: Value) -> Any:
    # A logarithm of a negative end of an interval is NaN, which says what there is to say.
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.asarray(function(np.asarray(value, dtype=np.float64)), dtype=np.float64)


def _scalar(value: Any) -> Value:
    array = np.asarray(value, dtype=np.float64)
    return float(array) if array.ndim == 0 else array
