"""Families of harmonic wells, whose averages are known: members that shift the well, and members that change its width.

=============  ==========================================================================================
symbol         meaning
=============  ==========================================================================================
V              kT |x|^2 / 2 in `DIMENSIONS` dimensions, so that every component of x has variance 1
shifted        V_i = V + kT c_i . x, c_i from N(0, width^2/`DIMENSIONS`); <x_1>_i = -c_i1, <x_1^2>_i = 1 + c_i1^2
stiffened      V_i = (1 + e_i) V, e_i from N(0, spread^2); <x_1^2>_i = 1/(1 + e_i)
=============  ==========================================================================================

x_1^2 of shifted wells shows the limits: over the family it is no Gaussian number, as Student's t takes it to be, and
its dependence on c_i is not linear, as the expansion takes it to be.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase.units import kB
from coverage_trial import METHODS, Array, Row, Run, Trial, Truth, attempt
from scipy.signal import lfilter

DIMENSIONS, N_MEMBERS, TEMPERATURE_K = 3, 8, 300.0
MEMORY = 0.9  # of one frame for the last one
N_FRAMES = 5700  # 300 times the inefficiency (1 + MEMORY)/(1 - MEMORY)
WIDTHS = (0.3, 1.0, 2.0)  # kT, root mean square over members of the standard deviation of h
SPREADS = (0.05, 0.15)


def coverage(*, repeats: int) -> list[Row]:
    """Return the rows of all families."""
    rows = []
    seeds = iter(range(len(WIDTHS) + len(SPREADS)))
    for width in WIDTHS:
        rows += _rows(f"well shifted by {width:g}", _shifted(width, repeats, next(seeds)))
    for spread in SPREADS:
        rows += _rows(f"well stiffened by {100 * spread:g} %", _stiffened(spread, repeats, next(seeds)))
    return rows


def _rows(case: str, trials: Iterator[tuple[Run, dict[str, tuple[Array, float]]]]) -> list[Row]:
    found: dict[tuple[str, str], list[Trial]] = {}
    for run, observables in trials:
        for name, (series, mean) in observables.items():
            for method in METHODS:
                found.setdefault((name, method), []).append(attempt(series, run, Truth(mean), method))
    return [Row.of(case, *key, trials) for key, trials in found.items()]


def _shifted(width: float, repeats: int, seed: int) -> Iterator[tuple[Run, dict[str, tuple[Array, float]]]]:
    random = np.random.default_rng(seed)
    for _ in range(repeats):
        shifts = width / np.sqrt(DIMENSIONS) * random.normal(size=(N_MEMBERS + 1, DIMENSIONS))
        driver, truth = shifts[:-1].mean(axis=0), shifts[-1]
        x = _trajectory(random) - driver
        run = Run(*(kB * TEMPERATURE_K * (x @ part.T) for part in (driver, shifts[:-1], truth)), TEMPERATURE_K)
        yield run, {"x": (x[:, 0], -truth[0]), "x^2 (limit)": (x[:, 0] ** 2, 1.0 + truth[0] ** 2)}


def _stiffened(spread: float, repeats: int, seed: int) -> Iterator[tuple[Run, dict[str, tuple[Array, float]]]]:
    random = np.random.default_rng(seed)
    for _ in range(repeats):
        stiffness = 1.0 + spread * random.normal(size=N_MEMBERS + 1)
        driver, truth = stiffness[:-1].mean(), stiffness[-1]
        x = _trajectory(random) / np.sqrt(driver)
        energy = 0.5 * kB * TEMPERATURE_K * (x**2).sum(axis=1)
        run = Run(driver * energy, energy[:, None] * stiffness[:-1], truth * energy, TEMPERATURE_K)
        yield run, {"x^2": (x[:, 0] ** 2, 1.0 / truth)}


def _trajectory(random: np.random.Generator) -> Array:
    noise = random.normal(size=(N_FRAMES, DIMENSIONS))
    noise[1:] *= np.sqrt(1.0 - MEMORY**2)
    return np.asarray(lfilter([1.0], [1.0, -MEMORY], noise, axis=0))
