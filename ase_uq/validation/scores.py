"""How good predictions and their uncertainties are on labelled structures.

=================================  ==============================================================
symbol                             variable
=================================  ==============================================================
e                                  `error`, prediction minus reference
alpha^2 s^2                        `var_epistemic`, as in `Prediction`: calibrated, divisor M-1
v                                  `var_aleatoric`, noise variance of the labels
sigma^2 = alpha^2 s^2 + v          what results report, `energy_var`
t                                  `Predictive.scale`, of the intervals
p                                  expected coverage; the central interval is e within t Q((1 + p)/2)
=================================  ==============================================================

There are two readings of an uncertainty, and every score belongs to one of them:

* *One sigma*, as users read sqrt(energy_var) and sqrt(forces_var): `within_1_sigma`, `within_196_sigma`, `sigma` and
  `nll`, that of a normal distribution with this variance, with the 2 pi term, averaged: per structure for the *total*
  energy in eV, per component for forces in eV/Å. Ranks are taken against sigma, too.
* *Intervals*, which know that s comes from M members and that their mean has an error of its own: `coverage_68`,
  `coverage_95`, `miscalibration_area`, `crps` and `nll_interval`, of Student's t (`ase_uq.validation.predictive`). A
  sigma from four members holds 56 % of what an interval of 68 % holds.

`mae`, `rmse`, `sigma`, `crps` and ranks of energies are per atom; those of forces and stress per component, ranks of
forces per atom (norm of the error against norm of the component stds). Values that symmetry makes zero are `left_out`
of everything but `mae` and `rmse`.

Pooling structures of different size or origin raises a rank correlation although nothing is learnt about which
structure of a kind is worse: large cells have both larger errors and larger spreads. Hence `within`.

References
----------
Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007): scoring rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.validation.predictive import Predictive
from ase_uq.validation.reliability import miscalibration_area, reliability_curve

LEVEL_68 = float(2.0 * norm.cdf(1.0) - 1.0)  # one standard deviation of a normal distribution
LEVEL_95 = 0.95
# A point whose error and scale are both this far below the root mean square is exact by symmetry: 0/0.
NEGLIGIBLE = 1e-6
MIN_RANKED = 3


@dataclass(frozen=True, slots=True)
class GroupScore:
    """Scores inside one group of points.

    Attributes
    ----------
    group
        Such as `"config_type=md_300K"`.
    n
        Points in it: structures for energies, atoms for forces.
    spearman
        `None` with fewer than three points or without variation.
    coverage_68, coverage_95
        As for all points; `None` without a variance.
    """

    group: str
    n: int
    spearman: float | None
    coverage_68: float | None
    coverage_95: float | None


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one quantity; a number that cannot be given is `None`.

    Attributes
    ----------
    n
        Structures for energies and stress, atoms for forces.
    mae, rmse
        eV per atom, or eV/Å per component, or eV/Å^3.
    sigma
        Root mean square of the reported standard deviation, same unit: what `rmse` is when sigma has the right size.
    nll
        Mean Gaussian negative log-likelihood of sigma; `None` where a point with an error has no spread at all.
    within_1_sigma, within_196_sigma
        Share of errors within 1 and 1.96 sigma: 68.3 and 95 % for a normal distribution of the right size.
    coverage_68, coverage_95
        Share of points inside the central 68.27 % and 95 % intervals.
    miscalibration_area
        Area between the reliability curve and the diagonal, 0 (perfect) to 0.5.
    crps
        Continuous ranked probability score of the intervals' distribution, in the unit of `mae`, which it becomes
        without any width; `None` for two members, whose distribution has no mean.
    nll_interval
        Mean negative log-likelihood of the same distribution.
    spearman
        Rank correlation of |error| with sigma over all points.
    within
        Ranks and coverage inside each group.
    n_left_out
        Values left out because symmetry makes them zero.
    reliability
        (expected, observed) coverage of the intervals, for plots.
    """

    n: int
    mae: float
    rmse: float
    sigma: float | None = None
    nll: float | None = None
    within_1_sigma: float | None = None
    within_196_sigma: float | None = None
    coverage_68: float | None = None
    coverage_95: float | None = None
    miscalibration_area: float | None = None
    crps: float | None = None
    nll_interval: float | None = None
    spearman: float | None = None
    within: tuple[GroupScore, ...] = ()
    n_left_out: int = 0
    reliability: tuple[Array, Array] | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON, without the curve."""
        names = {name: name for name in _JSON} | {"within_1.96_sigma": "within_196_sigma"}
        within = {
            each.group: {"n": each.n, **{name: getattr(each, name) for name in _JSON_OF_GROUPS}} for each in self.within
        }
        return {**{key: getattr(self, name) for key, name in names.items()}, "within": within}


_JSON = (
    *("mae", "rmse", "sigma", "nll", "within_1_sigma", "coverage_68", "coverage_95", "miscalibration_area"),
    *("crps", "nll_interval", "spearman", "n_left_out"),
)
_JSON_OF_GROUPS = ("spearman", "coverage_68", "coverage_95")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The uncertainty of each error; a part a method does not have is `None`.

    Attributes
    ----------
    var_epistemic, var_aleatoric
        As in `Prediction`, of the shape of the errors, squared unit.
    alpha
        The calibration factor inside `var_epistemic`.
    n_members
        M; `None` for a method without members, whose intervals are normal.
    mean_share, dof
        As in `Prediction`; 1/M and M - 1 by default.
    """

    var_epistemic: ArrayLike | None = None
    var_aleatoric: ArrayLike | None = None
    alpha: float = 1.0
    n_members: int | None = None
    mean_share: float | None = None
    dof: float | None = None

    def checked(self, shape: tuple[int, ...]) -> tuple[Array, Predictive] | None:
        """sigma^2 and the distribution of the errors, or `None` where nothing is known.

        Raises
        ------
        InputError
            For a shape that is not `shape`, a value that is not finite, a negative variance or a bad factor.
        """
        if self.var_epistemic is None and self.var_aleatoric is None:
            return None
        if not (np.isfinite(self.alpha) and self.alpha > 0.0):
            raise InputError(f"`alpha` must be a positive number, got {self.alpha}; use 1.0 when uncalibrated.")
        if self.n_members is not None and self.n_members < 2:
            raise InputError(
                f"`n_members` must be at least 2, got {self.n_members}; use None for a method without members."
            )
        # Noise alone has no members behind it: its intervals are normal.
        members = None if self.var_epistemic is None else self.n_members
        share, dof = (0.0, np.inf) if members is None else (1.0 / members, members - 1.0)
        parts = {"var_epistemic": self.var_epistemic, "var_aleatoric": self.var_aleatoric}
        values = {
            name: np.zeros(shape) if given is None else _values(name, given, shape=shape)
            for name, given in parts.items()
        }
        for name, part in values.items():
            if (part < 0.0).any():
                raise InputError(f"`{name}` must not be negative, got {part.min()}; give variances.")
        law = Predictive.of(
            **values,
            alpha=self.alpha,
            mean_share=share if members is None or self.mean_share is None else self.mean_share,
            dof=dof if members is None or self.dof is None else self.dof,
        )
        return values["var_epistemic"] + values["var_aleatoric"], law


def energy_scores(
    *,
    error: ArrayLike,
    n_atoms: ArrayLike,
    groups: Mapping[str, Sequence[Any]] | None = None,
    used: ArrayLike | None = None,
    **spread: Any,
) -> Scores:
    """Score total energies.

    Parameters
    ----------
    error
        (S,), predicted minus reference total energy, eV.
    n_atoms
        (S,), atoms of each structure.
    groups
        Name of a grouping -> (S,) labels, such as `{"config_type": [...], "composition": [...]}`.
    used
        (S,), which structures count; all by default.
    **spread
        The fields of `Spread`.

    Raises
    ------
    InputError
        If a value is not finite, a variance negative, a shape wrong or there are no structures.

    Examples
    --------
    >>> scores = energy_scores(error=[0.1, -0.3], n_atoms=[1, 3], var_epistemic=[0.01, 0.09])
    >>> round(scores.mae, 12), scores.coverage_68
    (0.1, 1.0)
    """
    e = _values("error", error)
    sizes = _values("n_atoms", n_atoms, shape=e.shape)
    if e.ndim != 1 or (sizes < 1).any():
        raise InputError(
            f"`error` and `n_atoms` must have one value per structure, the latter at least 1, got shapes {e.shape} and "
            f"{sizes.shape}; give arrays of equal length."
        )
    found = Spread(**spread).checked(e.shape)
    if found is not None:
        found = found[0][:, None], Predictive(found[1].scale[:, None], found[1].dof)
    columns = None if used is None else np.asarray(used, dtype=bool)[:, None]
    return _scores(e[:, None], unit=sizes[:, None], spread=found, groups=groups, used=columns)


def force_scores(
    *,
    error: ArrayLike,
    groups: Mapping[str, Sequence[Any]] | None = None,
    used: ArrayLike | None = None,
    **spread: Any,
) -> Scores:
    """Score forces; the atoms of all structures stand below one another.

    Parameters
    ----------
    error
        (N, 3), predicted minus reference force, eV/Å.
    groups
        Name of a grouping -> (N,) labels, such as `{"config_type": [...], "element": [...]}`.
    used
        (N, 3), which components count: those that symmetry makes zero tell nothing.
    **spread
        The fields of `Spread`.

    Raises
    ------
    InputError
        If a value is not finite, a variance negative, a shape wrong or there are no atoms.
    """
    e = _values("error", error)
    if e.ndim != 2 or e.shape[1] != 3:
        raise InputError(f"`error` must have the shape (N, 3), got {e.shape}; stack the atoms of all structures.")
    return _scores(e, unit=np.ones((1, 1)), spread=Spread(**spread).checked(e.shape), groups=groups, used=used)


def stress_scores(*, error: ArrayLike, used: ArrayLike | None = None, **spread: Any) -> Scores:
    """Score stress, (S, 6), eV/Å^3; arguments as for `force_scores`, ranks per structure."""
    e = _values("error", error)
    if e.ndim != 2 or e.shape[1] != 6:
        raise InputError(f"`error` must have the shape (S, 6), got {e.shape}; stack the stress of all structures.")
    return _scores(e, unit=np.ones((1, 1)), spread=Spread(**spread).checked(e.shape), groups=None, used=used)


def spearman(x: ArrayLike, y: ArrayLike) -> float | None:
    """Spearman's rank correlation; `None` with fewer than three points or where one side does not vary."""
    a, b = rankdata(np.ravel(x)), rankdata(np.ravel(y))
    if len(a) < MIN_RANKED or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return None
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _scores(
    error: Array,
    *,
    unit: Array,
    spread: tuple[Array, Predictive] | None,
    groups: Mapping[str, Sequence[Any]] | None,
    used: ArrayLike | None,
) -> Scores:
    """Scores of errors (n, d); a score of error is divided by `unit`, which broadcasts against it."""
    scaled = error / unit
    n, mae, rmse = len(error), float(np.abs(scaled).mean()), _rms(scaled)
    if spread is None:
        return Scores(n=n, mae=mae, rmse=rmse)
    var, law = spread
    sigma = np.sqrt(var)
    counted = _counted(error, sigma, used)
    e, s, u = error[counted], sigma[counted], np.broadcast_to(unit, error.shape)[counted]
    inner = Predictive(law.scale[counted], law.dof)
    confidence = np.full(error.shape, np.nan)
    confidence[counted] = inner.confidence(e)
    levels = confidence[counted]
    n_left_out = int((~counted).sum())
    if len(e) == 0:
        return Scores(n=n, mae=mae, rmse=rmse, n_left_out=n_left_out)
    # Norms over what counts; a point of which nothing counts has no rank.
    ranked = np.asarray(counted.any(axis=1))
    norms = [np.sqrt((np.where(counted, x / unit, 0.0) ** 2).sum(axis=1)) for x in (error, sigma)]
    return Scores(
        n=n,
        mae=mae,
        rmse=rmse,
        sigma=_rms(s / u),
        nll=Predictive(s).nll(e),
        within_1_sigma=float((np.abs(e) <= s).mean()),
        within_196_sigma=float((np.abs(e) <= 1.96 * s).mean()),
        coverage_68=float((levels <= LEVEL_68).mean()),
        coverage_95=float((levels <= LEVEL_95).mean()),
        miscalibration_area=miscalibration_area(levels),
        crps=inner.crps(e, unit=u),
        nll_interval=inner.nll(e),
        spearman=spearman(norms[0][ranked], norms[1][ranked]),
        within=_within(norms[0], norms[1], ranked, confidence, groups or {}),
        n_left_out=n_left_out,
        reliability=reliability_curve(levels),
    )


def _counted(error: Array, sigma: Array, used: ArrayLike | None) -> NDArray[np.bool_]:
    exact = (np.abs(error) <= NEGLIGIBLE * _rms(error)) & (sigma <= NEGLIGIBLE * _rms(sigma))
    if used is None:
        return np.asarray(~exact)
    given = np.asarray(used, dtype=bool)
    if given.shape != error.shape:
        raise InputError(f"`used` must have the shape of the errors, {error.shape}, got {given.shape}; say for each.")
    return np.asarray(given & ~exact)


def _within(
    error: Array,
    sigma: Array,
    ranked: NDArray[np.bool_],
    confidence: Array,
    groups: Mapping[str, Sequence[Any]],
) -> tuple[GroupScore, ...]:
    scores = []
    for grouping, given in groups.items():
        labels = np.array([str(label) for label in given])
        if len(labels) != len(error):
            raise InputError(
                f"`groups[{grouping!r}]` must have one label per point, got {len(labels)} for {len(error)}; "
                "add the missing ones."
            )
        for label in np.unique(labels):
            inside = (labels == label) & ranked
            levels = confidence[inside][np.isfinite(confidence[inside])]
            covered = [float((levels <= p).mean()) if len(levels) else None for p in (LEVEL_68, LEVEL_95)]
            rank = spearman(error[inside], sigma[inside])
            scores.append(GroupScore(f"{grouping}={label}", int((labels == label).sum()), rank, *covered))
    return tuple(scores)


def _rms(x: Array) -> float:
    return float(np.sqrt((x**2).mean()))


def _values(name: str, given: ArrayLike, *, shape: tuple[int, ...] | None = None) -> Array:
    values = np.asarray(given, dtype=np.float64)
    if values.size == 0 or (shape is not None and values.shape != shape):
        raise InputError(
            f"`{name}` must have {'at least one value' if shape is None else f'the shape {shape} of the errors'}, got "
            f"shape {values.shape}; give one value per point."
        )
    if len(bad := np.argwhere(~np.isfinite(values))):
        index = tuple(int(i) for i in bad[0])
        raise InputError(f"`{name}` must be finite, got {values[index]} at index {index}; remove that structure.")
    return values
