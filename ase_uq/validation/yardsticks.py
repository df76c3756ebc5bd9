"""Widths without a model of the uncertainty, to hold a model's against.

=======================  ================================================================
symbol                   variable
=======================  ================================================================
sigma_i                  width of error i, up to a factor
k                        factor that minimises the mean CRPS of N(0, (k sigma_i)^2)
a + b |F|                a width that grows with the predicted force of the atom
=======================  ================================================================

All of them get the one factor that suits them best on the errors at hand, so that only the *shape* is compared: whether
a spread knows which errors are large. One that is a worse scale than a constant knows less than nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from ase_uq.arrays import Array
from ase_uq.validation.predictive import Predictive, crps

# Of |F| over its root mean square, in b/a.
_RATIOS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_WORSE = 0.005  # relative CRPS by which a spread must lose to be called worse
_ENOUGH = 200_000  # errors that decide a factor; more only cost time


@dataclass(frozen=True, slots=True)
class Yardstick:
    """A width with its best factor.

    Attributes
    ----------
    name
        Such as "constant".
    factor
        What the width is multiplied by, k.
    crps
        In the unit of the errors.
    coverage_68, coverage_95
        Shares of errors within 1 and 1.96 k sigma.
    """

    name: str
    factor: float
    crps: float
    coverage_68: float
    coverage_95: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        return {key: getattr(self, key) for key in ("factor", "crps", "coverage_68", "coverage_95")}


def yardsticks(
    error: ArrayLike, std: ArrayLike | None, *, size: ArrayLike = 1.0, force: ArrayLike | None = None
) -> tuple[Yardstick, ...]:
    """Compare widths on errors: the model's own first, where it has one, then a constant, then a + b |F|.

    Parameters
    ----------
    error
        (n,), any unit.
    std
        (n,), the model's standard deviations, same unit, or `None`.
    size
        (n,), what a constant width is a constant times of: the square root of the number of atoms, for energies.
    force
        (n,), norm of the predicted force on the atom of each component, same unit, for a + b |F|.
    """
    e = np.asarray(error, dtype=np.float64).ravel()
    if len(e) == 0:
        return ()
    stride = -(-len(e) // _ENOUGH)
    pick = slice(None, None, stride)
    constant = np.broadcast_to(np.asarray(size, dtype=np.float64), e.shape)
    shapes = {} if std is None else {"model": np.asarray(std, dtype=np.float64).ravel()}
    shapes["constant"] = constant
    found = [_fitted(name, e[pick], shape[pick]) for name, shape in shapes.items()]
    if force is not None:
        f = np.asarray(force, dtype=np.float64).ravel()[pick]
        f = f / max(float(np.sqrt((f**2).mean())), 1e-300)
        found.append(min((_fitted("a + b |F|", e[pick], 1.0 + r * f) for r in _RATIOS), key=lambda each: each.crps))
    return tuple(found)


def sentence(found: tuple[Yardstick, ...], values: str) -> Iterator[str]:
    """What there is to say if the model's spread is a worse scale than a constant."""
    by_name = {each.name: each for each in found}
    if "model" not in by_name or "constant" not in by_name:
        return
    model, constant = by_name["model"].crps, by_name["constant"].crps
    if model > (1.0 + _WORSE) * constant:
        yield (
            f"the spread is a worse scale for the errors of {values} than a constant width: CRPS {model:.4g} against "
            f"{constant:.4g}, with the best factor each; it does not tell here which errors are large."
        )


def _fitted(name: str, error: Array, shape: Array) -> Yardstick:
    typical = float(np.sqrt((error**2).mean())) / max(float(np.sqrt((shape**2).mean())), 1e-300)
    if typical == 0.0:
        return Yardstick(name, 0.0, float(np.abs(error).mean()), float((error == 0).mean()), float((error == 0).mean()))
    result = minimize_scalar(
        lambda log_k: float(crps(error, np.exp(log_k) * shape).mean()),
        bounds=(np.log(typical) - 5.0, np.log(typical) + 5.0),
        method="bounded",
        options={"xatol": 1e-4},
    )
    k = float(np.exp(result.x))
    confidence = Predictive(k * shape).confidence(error)
    covered = [float((confidence <= 1.0 - 2.0 * tail).mean()) for tail in (0.15865525393145707, 0.02499789514822825)]
    return Yardstick(name, k, float(result.fun), *covered)
