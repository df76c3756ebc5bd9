"""The calibration factor alpha of a committee, from structures it was not trained on.

The error of the committee mean, divided by the raw spread of its M members, is a Student's t variable with M-1
degrees of freedom, stretched by sqrt(alpha^2 + 1/M): the members scatter alpha times too little, and their mean
carries a 1/M share of that scatter. Both estimators below follow from this sentence.

=========================  ==============================================================
symbol                     variable
=========================  ==============================================================
M                          `n_members`
Ebar, s                    `mean`, `std`: raw committee mean and spread (divisor M-1), alpha not applied
z = (y_ref - Ebar) / s     `z`; a ratio, so that energies of structures of any size are pooled as they are
alpha^2 = c^2 - 1/M        `student_t`: c maximises the likelihood of z / c under Student's t, M-1 degrees of freedom
Eq. 6                      `moment`: alpha^2 = -1/M + (M-3)/(M-1) mean(z^2)
=========================  ==============================================================

Eq. 6 needs the second moment of t, and its own error bar needs the fourth, which exists for M >= 6 only: with 200
structures and M = 4 it scatters by 25 % and more, the t fit by 7 %. Hence the t fit is the default.

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 3 to 6 and appendix A.
Lange, Little and Taylor, J. Am. Stat. Assoc. 84, 881 (1989): the score equation of the t scale.
Lei et al., J. Am. Stat. Assoc. 113, 1094 (2018), arXiv:1604.04173: split conformal intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from ase_uq.errors import InputError

Array = NDArray[np.float64]
Method = Literal["student_t", "moment"]

MIN_MEMBERS = 4  # the factor (M-3)/(M-1) of Eq. 6 is positive from here on
MIN_STRUCTURES = 10  # alpha is then known to about 30 % at best
ALPHA_FLOOR = 0.1  # the smallest alpha ever returned
# A spread this far below the typical one is rounding noise around a zero that symmetry or a shared constant forces.
NEGLIGIBLE_SPREAD = 1e-6
N_BOOTSTRAP = 200
POORLY_KNOWN = 0.2  # relative standard error of alpha from which on the user is told
ONE_SIDED = 0.9  # share of errors with one sign from which on an offset is suspected
DISAGREEMENT = 1.5  # ratio of the two estimators from which on the model of one alpha is doubted


@dataclass(frozen=True, slots=True)
class Calibration:
    """alpha, and what it was fitted on.

    Attributes
    ----------
    alpha
        Factor to be applied to the members around their mean, never below `ALPHA_FLOOR`.
    alpha_std_error
        Its bootstrap standard error, over groups where they were given; `None` with fewer than two groups.
    method
        The estimator behind `alpha`: `"student_t"` or `"moment"`.
    n_structures
        Structures given, the masked ones included.
    n_members
        M.
    n_masked
        Structures, or components of forces, left out because their members agree to rounding.
    alpha_student_t, alpha_moment
        Both estimates.
    warnings
        One sentence each.
    """

    alpha: float
    alpha_std_error: float | None
    method: Method
    n_structures: int
    n_members: int
    n_masked: int
    alpha_student_t: float
    alpha_moment: float
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, for JSON and for the model file."""
        return {**asdict(self), "warnings": list(self.warnings)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """Rebuild from `to_dict`.

        Raises
        ------
        InputError
            If a field is missing or unknown.
        """
        expected = {field.name for field in fields(cls)}
        if set(content) != expected:
            wrong = ", ".join(sorted(expected ^ set(content)))
            raise InputError(
                f"`content` must hold exactly the fields of a calibration, got a difference in {wrong}; "
                "calibrate again with this version."
            )
        return cls(**{**content, "warnings": tuple(content["warnings"])})


def calibrate(
    *,
    reference: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike,
    n_members: int,
    method: Method = "student_t",
    groups: Sequence[Any] | None = None,
    seed: int = 0,
    values: str = "structures",
) -> Calibration:
    """Fit the calibration factor alpha of a committee.

    Parameters
    ----------
    reference
        (S,), reference total energies, eV. The structures must be new to every member, and independent.
    mean, std
        (S,), uncalibrated committee mean and spread (divisor M-1), eV.
    n_members
        M, the members behind `mean` and `std`; at least 4.
    method
        `"student_t"`, or `"moment"` for Eq. 6.
    groups
        (S,), labels such as the trajectory a frame is from. Structures of one group are correlated, and the bootstrap
        draws whole groups; without it the error bar of correlated frames is too small.
    seed
        Of the bootstrap.
    values
        What there is one of for each entry, for the warnings.

    Raises
    ------
    InputError
        If a value is not finite or a spread negative, shapes differ, M < 4, or fewer than `MIN_STRUCTURES` have a
        spread.

    References
    ----------
    arXiv:2011.08828, Eq. 6; the t fit is the maximum-likelihood form of its error model for finite M.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> members = rng.normal(size=(4, 2000))
    >>> mean, std = members.mean(axis=0), members.std(axis=0, ddof=1)
    >>> fit = calibrate(reference=2.0 * rng.normal(size=2000), mean=mean, std=std, n_members=4)
    >>> bool(abs(fit.alpha - 2.0) < 3.0 * fit.alpha_std_error)
    True
    """
    if method not in get_args(Method):
        raise InputError(f"`method` must be one of {', '.join(get_args(Method))}, got {method!r}; choose one of them.")
    if n_members < MIN_MEMBERS:
        raise InputError(
            f"`n_members` must be at least {MIN_MEMBERS} to calibrate, got {n_members}; "
            "train more members, or use the committee uncalibrated."
        )
    y, centre, s = _checked(reference=reference, mean=mean, std=std)
    labels = _group_indices(groups, len(y))
    used = s > NEGLIGIBLE_SPREAD * _typical(s)
    if used.sum() < MIN_STRUCTURES:
        raise InputError(
            f"`std` must be above zero in at least {MIN_STRUCTURES} structures to calibrate, got {int(used.sum())} "
            f"of {len(s)}; add validation structures."
        )
    n_masked = int((~used).sum())
    z = (y[used] - centre[used]) / s[used]
    squares = {name: alpha_squared(z**2, n_members=n_members, method=name) for name in get_args(Method)}
    std_error = _bootstrap(z**2, labels[used], n_members=n_members, method=method, seed=seed)
    alpha = {name: _clamp(value) for name, value in squares.items()}
    return Calibration(
        alpha=alpha[method],
        alpha_std_error=std_error,
        method=method,
        n_structures=len(y),
        n_members=int(n_members),
        n_masked=n_masked,
        alpha_student_t=alpha["student_t"],
        alpha_moment=alpha["moment"],
        warnings=tuple(
            _warnings(
                z,
                squares=squares,
                method=method,
                n_members=n_members,
                std_error=std_error,
                n_masked=n_masked,
                values=values,
            )
        ),
    )


def conformal_multiplier(*, error: ArrayLike, std: ArrayLike, coverage: float) -> float:
    """Half-width, in units of `std`, of an interval that covers a new point with at least the given probability.

    The guarantee holds on average over calibration sets, and only where the new point is drawn like them: frames of
    a run are not. It gives no members, so that gates may use it and the propagation of errors may not.

    Parameters
    ----------
    error, std
        (S,), errors of the mean and predicted standard deviations above zero, same unit.
    coverage
        Between 0 and 1.

    Raises
    ------
    InputError
        If a value is not finite, a standard deviation not above zero, or there are too few points for the coverage.

    References
    ----------
    arXiv:1604.04173, split conformal prediction with a normalised score.
    """
    e, _, s = _checked(reference=error, mean=np.zeros_like(np.asarray(error, dtype=np.float64)), std=std)
    if not 0.0 < coverage < 1.0:
        raise InputError(f"`coverage` must lie between 0 and 1, got {coverage}; use 0.95, for example.")
    if (s == 0.0).any():
        raise InputError(
            f"`std` must be above zero, got 0 at index {np.flatnonzero(s == 0.0)[0]}; leave such points out."
        )
    # The small number undoes the rounding of products such as 0.95 * 20.
    rank = int(np.ceil((len(e) + 1) * coverage - 1e-9))
    if rank > len(e):
        raise InputError(
            f"`error` must have at least {int(np.ceil(coverage / (1.0 - coverage) - 1e-9))} points for a coverage of "
            f"{coverage}, got {len(e)}; add points or lower the coverage."
        )
    return float(np.sort(np.abs(e) / s)[rank - 1])


def alpha_squared(
    z_squared: Array, *, n_members: int, method: Method = "student_t", weights: Array | None = None
) -> float:
    """alpha^2 by either estimator, negative where the members scatter more than the errors explain.

    Parameters
    ----------
    z_squared
        (S,), squared error of the mean over squared raw spread.
    n_members
        M.
    method
        `"student_t"` or `"moment"`.
    weights
        (S,), how often each structure counts.

    References
    ----------
    arXiv:2011.08828, Eq. 6 for `"moment"`.
    """
    if method == "student_t":
        return student_t_scale(z_squared, dof=n_members - 1, weights=weights) ** 2 - 1.0 / n_members
    mean = float(np.average(z_squared, weights=weights))
    return (n_members - 3.0) / (n_members - 1.0) * mean - 1.0 / n_members


def student_t_scale(z_squared: Array, *, dof: int, weights: Array | None = None) -> float:
    """Maximum-likelihood scale c of Student's t variables z, whose squares are given; zero if most of them are zero.

    Parameters
    ----------
    z_squared
        (S,).
    dof
        Degrees of freedom.
    weights
        (S,), how often each value counts.

    References
    ----------
    Lange, Little and Taylor (1989): mean of (dof + 1) u^2 / (dof + u^2) = 1 with u = z / c.
    """
    w = np.ones_like(z_squared) if weights is None else weights
    shares = w / w.sum()
    # An error fifteen digits below the largest is zero to rounding.
    positive = (z_squared > 1e-30 * z_squared.max()) & (w > 0.0)
    # As c -> 0 every value above zero contributes dof + 1: with a total below one the peak is at c = 0.
    if (dof + 1.0) * shares[positive].sum() <= 1.0 + 1e-9:
        return 0.0
    values, shares = z_squared[positive], shares[positive]

    def excess(log_c_squared: float) -> float:
        return float(shares @ ((dof + 1.0) * values / (dof * np.exp(log_c_squared) + values))) - 1.0

    # The sum falls strictly with c, and is below one at the largest value: widen downwards until the root is inside.
    low, high = np.log(values.min()), np.log(values.max()) + 1e-6
    while excess(low) < 0.0:
        low -= 5.0
    return float(np.exp(0.5 * brentq(excess, low, high, xtol=1e-12, rtol=1e-14)))


def _clamp(alpha_squared: float) -> float:
    return float(np.sqrt(max(alpha_squared, ALPHA_FLOOR**2)))


def _bootstrap(
    z_squared: Array, labels: NDArray[np.intp], *, n_members: int, method: Method, seed: int
) -> float | None:
    present, member_of = np.unique(labels, return_inverse=True)
    n_groups = len(present)
    if n_groups < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = [np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups) for _ in range(N_BOOTSTRAP)]
    values = [
        _clamp(alpha_squared(z_squared, n_members=n_members, method=method, weights=counts[member_of].astype(float)))
        for counts in drawn
    ]
    return float(np.std(values, ddof=1))


def _warnings(
    z: Array,
    *,
    squares: Mapping[Method, float],
    method: Method,
    n_members: int,
    std_error: float | None,
    n_masked: int,
    values: str,
) -> Iterator[str]:
    alpha = {name: _clamp(value) for name, value in squares.items()}
    if squares[method] < ALPHA_FLOOR**2:
        yield (
            f"The members scatter more than the errors explain (alpha^2 = {squares[method]:.3g}); alpha was set to its "
            f"floor {ALPHA_FLOOR}. Are the validation structures part of the training set?"
        )
    if n_masked:
        yield f"{n_masked} of {n_masked + len(z)} {values} have no spread between members and were left out."
    if std_error is None:
        yield "All structures are of one group, so alpha has no error bar."
    elif std_error > POORLY_KNOWN * alpha[method]:
        yield (
            f"alpha = {alpha[method]:.2f} is known to ± {std_error:.2f} only; more independent validation structures "
            "would help."
        )
    if method == "moment" and n_members < 6:
        yield f"With {n_members} members the moment estimate has no finite error bar; use the Student's t fit."
    n_one_sided = int(max((z > 0).sum(), (z < 0).sum()))
    if n_one_sided >= ONE_SIDED * len(z) and len(z) >= 2 * MIN_STRUCTURES:
        yield (
            f"{n_one_sided} of {len(z)} errors have the same sign: an offset is being calibrated as if it were "
            "noise. Check the zero of the labels, and the domain."
        )
    if n_members >= 6 and max(alpha.values()) > DISAGREEMENT * min(alpha.values()):
        yield (
            f"The two estimates of alpha differ ({alpha['student_t']:.2f} from the t fit, {alpha['moment']:.2f} from "
            f"the moment): one factor does not describe all of these {values}."
        )


def _checked(*, reference: ArrayLike, mean: ArrayLike, std: ArrayLike) -> tuple[Array, Array, Array]:
    arrays = {
        name: np.asarray(value, dtype=np.float64)
        for name, value in (("reference", reference), ("mean", mean), ("std", std))
    }
    for name, values in arrays.items():
        if values.ndim != 1 or values.shape != arrays["std"].shape:
            raise InputError(
                f"`{name}` must have one value per structure, got shape {values.shape} beside {arrays['std'].shape}; "
                "give one-dimensional arrays of equal length."
            )
        if len(bad := np.flatnonzero(~np.isfinite(values))):
            raise InputError(
                f"`{name}` must be finite, got {values[bad[0]]} at index {bad[0]}; remove that structure or its label."
            )
    if len(bad := np.flatnonzero(arrays["std"] < 0.0)):
        raise InputError(
            f"`std` must not be negative, got {arrays['std'][bad[0]]} at index {bad[0]}; give standard deviations."
        )
    return arrays["reference"], arrays["mean"], arrays["std"]


def _group_indices(groups: Sequence[Any] | None, n: int) -> NDArray[np.intp]:
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise InputError(
            f"`groups` must have one label per structure, got {len(groups)} for {n}; add the missing ones."
        )
    return np.unique(np.array([str(label) for label in groups]), return_inverse=True)[1]


def _typical(std: Array) -> float:
    positive = std[std > 0.0]
    return float(np.median(positive)) if len(positive) else 0.0
