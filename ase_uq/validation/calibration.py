"""The calibration factor alpha of a model with members, from structures it was not trained on.

The error of the mean, divided by the raw spread of the members, is a Student's t variable with M-1 degrees of freedom,
stretched by c: members scatter alpha times too little, and the mean of M independent members carries a 1/M share of
that scatter. A mean that is pinned by construction (shallow ensembles, LLPR, draws about mean weights) carries none.

=============================  ==============================================================
symbol                         variable
=============================  ==============================================================
M                              `n_members`
Ebar, s                        `mean`, `std`: raw mean and spread (divisor M-1), alpha not applied
E_i                            `members`
z = (y_ref - Ebar) / s         `z`; a ratio, so that energies of structures of any size are pooled as they are
m                              `mean_share`: 1/M, or 0 where the mean is pinned
alpha^2 = c^2 - m              `student_t`: c maximises the likelihood of z / c under Student's t
Eq. 6                          `moment`: alpha^2 = -m + (M-3)/(M-1) mean(z^2)
=============================  ==============================================================

Energies of one composition share a constant, which cancels in every force and average: where `members` and
`compositions` are given, it is taken out of errors and members alike before anything is fitted
(`ase_uq.validation.centring`).

Eq. 6 needs the second moment of t, and its own error bar needs the fourth, which exists for M >= 6 only: with 200
structures and M = 4 it scatters by 25 % and more, the t fit by 7 %. Hence the t fit is the default.

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 3 to 6 and appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.validation.doubts import Findings, sentences
from ase_uq.validation.independent_values import Distribution, independent_shares
from ase_uq.validation.inputs import calibration_inputs
from ase_uq.validation.noisy_scale import NoisyScale
from ase_uq.validation.sample import MIN_STRUCTURES, RawValues, Sample
from ase_uq.validation.student_t import (
    Method,
    clustered_variance,
    inefficiency_in_order,
    relative_error,
    scale_squared,
    scale_variance,
    student_t_scale,
)

MIN_MEMBERS = 4  # the factor (M-3)/(M-1) of Eq. 6 is positive from here on
# Of c: the smallest alpha ever returned. Where the error of the mean explains all errors alpha is not known from zero.
# A spread that shrinks to nothing would tell nobody anything, and this one makes intervals 4 % wider.
ALPHA_FLOOR = 0.3


@dataclass(frozen=True, slots=True)
class Calibration:
    """alpha, and what it was fitted on.

    Attributes
    ----------
    alpha
        Factor to be applied to the members around their mean, never below `ALPHA_FLOOR` times the ratio of errors to
        spread.
    alpha_std_error
        Its standard error: the larger of that from the scatter of groups, or structures, and of that which the
        correlations of the members leave; the true value lies within twice of it in 95 % of cases. `None` with fewer
        than two groups.
    method
        The estimator behind `alpha`: `"student_t"` or `"moment"`.
    n_structures
        Structures given, the masked ones included.
    n_members
        M; `None` for a width without members.
    n_masked
        Structures, or components of forces, left out because their members agree to rounding.
    alpha_student_t, alpha_moment
        Both estimates.
    mean_share
        Share of the members' variance that their mean carries, 1/M or 0.
    dof
        Degrees of freedom of the spread; `None` where it is exact.
    centred
        What was taken out of errors and members: the constant of each "composition", of each "element", or "none".
    alpha_raw
        The estimate with constants left in; `None` where none were taken out.
    warnings
        One sentence each.
    """

    alpha: float
    alpha_std_error: float | None
    method: Method
    n_structures: int
    n_members: int | None
    n_masked: int
    alpha_student_t: float
    alpha_moment: float
    mean_share: float
    dof: float | None
    centred: str = "none"
    alpha_raw: float | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, for JSON and for the model file."""
        return {**asdict(self), "warnings": list(self.warnings)}


def calibrate(
    *,
    reference: ArrayLike,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    members: ArrayLike | None = None,
    n_members: int | None = None,
    mean_share: float | None = None,
    dof: float | None = None,
    noise: ArrayLike | None = None,
    compositions: Sequence[Any] | ArrayLike | None = None,
    method: Method = "student_t",
    groups: Sequence[Any] | None = None,
    kinds: Mapping[str, Sequence[Any]] | None = None,
    resolution: float | None = None,
    values: str = "structures",
) -> Calibration:
    """Fit the calibration factor alpha of a model with members.

    Parameters
    ----------
    reference
        (S,), reference total energies, eV. The structures must be new to every member, and independent.
    mean, std
        (S,), uncalibrated mean and spread (divisor M-1), eV. They follow from `members` where those are given.
    members
        (M, S), uncalibrated member energies, eV. Needed to take out constants, and for an error bar of alpha that
        knows how the members correlate.
    n_members
        M, the members behind `mean` and `std`; at least 4. A width without members has none, and an infinite `dof`.
    mean_share
        Share of the members' variance that their mean carries: 1/M where it is that of M independent members (the
        default), 0 where it is pinned by construction.
    dof
        Degrees of freedom of the spread: M - 1 by default; infinite where the members have an exact covariance.
    noise
        (S,), eV^2, variances that a model has beside its spread, which no factor touches: alpha is what the errors have
        beyond them, see `ase_uq.validation.noisy_scale`, by either method.
    compositions
        (S,) labels, or (S, Z) counts of elements: what is constant within a composition is taken out, see
        `ase_uq.validation.centring`. Needs `members`.
    method
        `"student_t"`, or `"moment"` for Eq. 6.
    groups
        (S,), labels such as the trajectory a frame is from. Structures of one group are correlated, and the error bar
        is taken between groups. Without it structures are taken in their order, and neighbours may be correlated.
    kinds
        Name of a grouping -> (S,) labels: kinds that want an alpha of their own are named in a warning.
    resolution
        Values whose mean and spread are both at most this are zero by symmetry and left out. By default 1e-4 of the
        root mean square of `reference` over the others; for energies of structures, whose zero is arbitrary, only a
        spread a million times below the typical one counts as none.
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
    >>> members = rng.normal(size=(4, 2000)) + 20.0 * rng.normal(size=(4, 1))  # with a constant each
    >>> fit = calibrate(reference=2.0 * rng.normal(size=2000), members=members, compositions=["H2O"] * 2000)
    >>> bool(abs(fit.alpha - 2.0) < 3.0 * fit.alpha_std_error), round(fit.alpha_raw, 1) < 0.5
    (True, True)
    """
    if method not in get_args(Method):
        raise InputError(f"`method` must be one of {', '.join(get_args(Method))}, got {method!r}; choose one of them.")
    without = n_members is None and members is None and dof is not None and np.isinf(dof)
    given = calibration_inputs(reference, mean, std, members, np.inf if without else n_members)
    m = given[-1]
    share, nu = 1.0 / m if mean_share is None else float(mean_share), m - 1.0 if dof is None else float(dof)
    if m < MIN_MEMBERS and not np.isinf(nu):
        raise InputError(
            f"`n_members` must be at least {MIN_MEMBERS} to calibrate, got {m}; "
            "train more members, or use the model uncalibrated."
        )
    sample = Sample.of(
        *given, noise=noise, compositions=compositions, groups=groups, resolution=resolution, values=values
    )
    law: dict[str, Any] = {"dof": nu, "method": method}
    scales, noisy = _scales(sample, nu)
    z = sample.error / sample.spread if noisy is None else noisy.scaled
    alphas = {name: _clamped(value, share) for name, value in scales.items()}
    of_kind = {name: np.array([str(x) for x in each])[sample.used] for name, each in (kinds or {}).items()}
    correlated = 1.0 if groups is not None else _in_order(z, of_kind, nu)
    variance = _variance_of_log_scale(z, sample, correlated, noisy, **law)
    findings = Findings(
        z=z,
        alphas=alphas,
        scales=scales,
        method=method,
        n_members=None if without else int(m),
        noise=noisy,
        dof=nu,
        mean_share=share,
        std_error=None if variance is None else _error_of_alpha(scales[method], share, variance),
        n_masked=int((~sample.used).sum()),
        values=values,
        centred=sample.centred,
        alpha_raw=None if sample.centred == "none" else _clamped(_raw_scale(sample.raw, **law), share),
        correlated=correlated,
        one_composition=compositions is None or sample.centred != "none",
        kinds=of_kind,
        weights=sample.weights,
    )
    return _told(findings, n_structures=len(sample.used))


def _told(f: Findings, *, n_structures: int) -> Calibration:
    return Calibration(
        alpha=f.alphas[f.method],
        alpha_std_error=f.std_error,
        method=f.method,
        n_structures=n_structures,
        n_members=f.n_members,
        n_masked=f.n_masked,
        alpha_student_t=f.alphas["student_t"],
        alpha_moment=f.alphas["moment"],
        mean_share=f.mean_share,
        dof=None if np.isinf(f.dof) else f.dof,
        centred=f.centred,
        alpha_raw=f.alpha_raw,
        warnings=tuple(sentences(f)),
    )


def _scales(sample: Sample, dof: float) -> tuple[dict[Method, float], NoisyScale | None]:
    """c^2 by every estimator; where there is noise one serves for all."""
    if sample.noise is None:
        z = sample.error / sample.spread
        found = {name: scale_squared(z**2, dof=dof, method=name, weights=sample.weights) for name in get_args(Method)}
        return found, None
    noisy = NoisyScale.fit(sample.error, sample.spread, sample.noise, weights=sample.weights)
    return dict.fromkeys(get_args(Method), noisy.c_squared), noisy


def _clamped(scale_squared: float, share: float) -> float:
    return float(np.sqrt(max(scale_squared - share, ALPHA_FLOOR**2 * scale_squared, 1e-300)))


def _variance_of_log_scale(
    z: Array, sample: Sample, correlated: float, noisy: NoisyScale | None, *, dof: float, method: Method
) -> Distribution | None:
    """What the variance of log c may be, (n_values,), and how probably."""
    if noisy is None:
        # The moment is the scale of normal variables.
        variance = clustered_variance(
            z, sample.labels, weights=sample.weights, dof=dof if method == "student_t" else np.inf
        )
    else:
        variance = noisy.variance(sample.labels)
    if variance is None:
        return None
    least = variance * correlated
    if sample.deviations is None:
        return Distribution(np.array([least]), np.ones(1))
    error = None
    if noisy is None:
        c = student_t_scale(z**2, dof=dof, weights=sample.weights)
        error = sample.error / c if c > 0.0 else None
    found = independent_shares(sample.deviations, error, weights=sample.weights, exact=np.isinf(dof))
    # What is noise in the errors says nothing of c.
    factor = scale_variance(1.0, dof=dof) / (1.0 if noisy is None else noisy.share) ** 2
    return Distribution(np.maximum(least, factor * found.values), found.probabilities)


def _raw_scale(raw: RawValues, *, dof: float, method: Method) -> float:
    if raw.noise.any():
        return NoisyScale.fit(raw.error, raw.spread, raw.noise, weights=np.ones_like(raw.error)).c_squared
    return scale_squared((raw.error / raw.spread) ** 2, dof=dof, method=method)


def _error_of_alpha(scale_squared: float, share: float, variance: Distribution) -> float:
    """Half of the larger distance from alpha to the ends of its interval of two standard errors."""
    alpha, k = _clamped(scale_squared, share), relative_error(*variance)
    ends = [_clamped(scale_squared * max(1.0 + sign * 2.0 * k, 0.0) ** 2, share) for sign in (1.0, -1.0)]
    # At its floor alpha may be anything from zero on.
    clipped = scale_squared - share < alpha**2 * (1.0 - 1e-9)
    return max(ends[0] - alpha, alpha if clipped else alpha - ends[1], 2.0 * k * alpha) / 2.0


def _in_order(z: Array, kinds: Mapping[str, NDArray[Any]], dof: float) -> float:
    """Inefficiency in the order of the file; of a file sorted by kind only what is left inside of kinds."""
    labels = next(iter(kinds.values()), np.zeros(len(z)))
    parts = [z[labels == label] for label in np.unique(labels)]
    return float(np.average([inefficiency_in_order(part, dof=dof) for part in parts], weights=[len(p) for p in parts]))


__all__ = ["MIN_MEMBERS", "MIN_STRUCTURES", "Calibration", "calibrate", "student_t_scale"]
